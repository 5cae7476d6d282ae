//! libpq's `sslmode` and client certificates, on rustls. MySQL's `ssl-mode` is
//! the same by other names.
//!
//! Spec: PostgreSQL manual, "SSL Support", tables "SSL Mode Descriptions" and
//! "Libpq/Client SSL File Usage"; MySQL manual, "Command Options for Encrypted Connections".

use std::io;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
};

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    /// TLS if the server speaks it, unchecked: libpq's default.
    Prefer,
    /// TLS, unchecked (checked like `verify-ca` when a root file is named).
    Require,
    /// The certificate comes from a known CA.
    VerifyCa,
    /// And it names the host.
    VerifyFull,
}

impl FromStr for SslMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().replace('_', "-").as_str() {
            "disable" | "disabled" => Ok(Self::Disable),
            "allow" | "prefer" | "preferred" => Ok(Self::Prefer),
            "require" | "required" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" | "verify-identity" => Ok(Self::VerifyFull),
            _ => Err(Error::operator(format!("unknown sslmode {text:?}"))
                .with_hint("use disable, prefer, require, verify-ca or verify-full")),
        }
    }
}

/// How a connection is encrypted, and as whom it shows itself. Files are read
/// for each connection, so that renewed certificates are taken.
#[derive(Clone, Debug)]
pub struct Settings {
    pub mode: SslMode,
    /// A file with the authorities that are trusted; without, or with `system`, the machine's.
    pub root: Option<String>,
    /// A file with the client's certificate, and those between it and its authority.
    pub certificate: Option<String>,
    /// A file with its key.
    pub key: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: SslMode::Prefer,
            root: None,
            certificate: None,
            key: None,
        }
    }
}

impl Settings {
    /// Makes a connection private. Errors: a file that can't be used; a server
    /// that is not the one that the settings want.
    pub async fn connect(&self, host: &str, address: &str, tcp: TcpStream) -> Result<Box<TlsStream<TcpStream>>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|e| Error::operator(format!("{host:?} is not a host name")).with_source(e))?;
        let connector = TlsConnector::from(Arc::new(self.client_config()?));
        match connector.connect(name, tcp).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) if tls_error(&error).is_none() || refused_certificate(&error).is_some() => {
                Err(broken(address, error))
            }
            Err(error) => Err(Error::operator(format!("TLS with {address} failed"))
                .with_hint(
                    "check that sslrootcert (ssl-ca) holds the CA of the server's certificate, and with verify-full \
                     (VERIFY_IDENTITY) that it names this host",
                )
                .with_source(error)),
        }
    }

    fn client_config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mode = match (self.mode, &self.root) {
            (SslMode::Require, Some(_)) => SslMode::VerifyCa,
            (mode, _) => mode,
        };
        let inner = match mode {
            SslMode::VerifyCa | SslMode::VerifyFull => {
                let roots = Arc::new(roots(self.root.as_deref())?);
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                    .build()
                    .map_err(|e| {
                        Error::operator("no usable root certificates")
                            .with_hint("name a CA file with sslrootcert=")
                            .with_source(e)
                    })?;
                Some(verifier)
            }
            _ => None,
        };
        let verifier = Verifier {
            inner,
            check_name: mode == SslMode::VerifyFull,
            provider: provider.clone(),
        };
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::bug("TLS versions").with_source(e))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        Ok(match self.identity(&provider)? {
            Some(identity) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
            None => config.with_no_client_auth(),
        })
    }

    /// What is shown to a server that asks for a certificate.
    fn identity(&self, provider: &CryptoProvider) -> Result<Option<CertifiedKey>> {
        let (certificate, key) = match (&self.certificate, &self.key) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => {
                return Err(Error::operator("there is a client certificate (sslcert) without a key")
                    .with_hint("name its key file with sslkey= (ssl-key=)"));
            }
            (None, Some(_)) => {
                return Err(Error::operator("there is a client key (sslkey) without a certificate")
                    .with_hint("name its certificate file with sslcert= (ssl-cert=)"));
            }
        };
        let chain = certificates(certificate).map_err(|e| {
            Error::operator(format!("sslcert {certificate} holds no readable certificate"))
                .with_hint("name a PEM file with the client's certificate, which the server's CA signed")
                .with_source(e)
        })?;
        let signer = provider.key_provider.load_private_key(private_key(key)?).map_err(|e| {
            Error::operator(format!("sslkey {key} can't be used"))
                .with_hint("use an RSA key of 2048 bits or more, an EC key (P-256, P-384, P-521) or Ed25519")
                .with_source(e)
        })?;
        // rustls compares them too, but not in certificates of X.509 version 1.
        let public = signer.public_key();
        let is_in = |bytes: &[u8]| {
            public
                .as_deref()
                .is_none_or(|key| bytes.windows(key.len()).any(|part| part == key))
        };
        if !chain.first().is_some_and(|own| is_in(own)) {
            return Err(
                Error::operator(format!("sslkey {key} is not the key of sslcert {certificate}")).with_hint(
                    "name the key that the certificate was requested with; the client's own certificate comes first in \
                     its file",
                ),
            );
        }
        Ok(Some(CertifiedKey::new(chain, signer)))
    }
}

/// An I/O error of a connection. One that tells that the server does not take
/// the client's certificate says what to do: with TLS 1.3 it comes after the handshake.
pub fn broken(address: &str, error: io::Error) -> Error {
    let failed = match refused_certificate(&error) {
        Some(AlertDescription::CertificateRequired) => {
            Error::operator(format!("{address} asks for a client certificate"))
                .with_hint("name its files with sslcert= and sslkey= (ssl-cert=, ssl-key=)")
        }
        Some(_) => Error::operator(format!("{address} refuses the client's certificate")).with_hint(
            "check that the certificate in sslcert (ssl-cert) has not expired, and is signed by an authority that the \
             server trusts (PostgreSQL: ssl_ca_file, MySQL: ssl_ca)",
        ),
        None => Error::transient(format!("connection to {address} failed")),
    };
    failed.with_source(error)
}

fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

/// What the other side had to say against a certificate. Spec: RFC 8446, section 6.2.
fn refused_certificate(error: &io::Error) -> Option<AlertDescription> {
    let Some(TlsError::AlertReceived(alert)) = tls_error(error) else {
        return None;
    };
    use AlertDescription as A;
    let about_certificate = matches!(
        alert,
        A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::CertificateRequired
    );
    about_certificate.then_some(*alert)
}

/// All certificates of a PEM file, at least one.
fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, Box<dyn std::error::Error + Send + Sync>> {
    let certificates = CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>()?;
    match certificates.is_empty() {
        true => Err("it has no part that begins with BEGIN CERTIFICATE".into()),
        false => Ok(certificates),
    }
}

/// A key in PEM or DER: PKCS#8, PKCS#1 or SEC1. Errors: other users may read it.
fn private_key(file: &str) -> Result<PrivateKeyDer<'static>> {
    let unreadable = |e: io::Error| {
        Error::operator(format!("cannot read sslkey {file}"))
            .with_hint("name a file with the client's key that the program may read")
            .with_source(e)
    };
    let metadata = std::fs::metadata(file).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Error::operator(format!("sslkey {file} is not a file")).with_hint("name the client's key file"));
    }
    if is_open(metadata.mode(), metadata.uid()) {
        return Err(
            Error::operator(format!("others may read or write sslkey {file}")).with_hint(format!(
                "chmod 0600 {file}; one that root owns may have 0640, for a group that may read it"
            )),
        );
    }
    let bytes = std::fs::read(file).map_err(unreadable)?;
    // By its label, or by its header in the older form.
    if bytes.windows(9).any(|part| part == b"ENCRYPTED") {
        return Err(
            Error::operator(format!("sslkey {file} is encrypted")).with_hint(format!(
                "write it without a passphrase: umask 077; openssl pkey -in {file} -out client.key"
            )),
        );
    }
    PrivateKeyDer::from_pem_slice(&bytes).or_else(|e| {
        PrivateKeyDer::try_from(bytes).map_err(|_| {
            Error::operator(format!("sslkey {file} holds no key that can be read"))
                .with_hint(
                    "name a file in PEM that has BEGIN PRIVATE KEY, BEGIN RSA PRIVATE KEY or BEGIN EC PRIVATE KEY",
                )
                .with_source(e)
        })
    })
}

/// Whether a key file is open to more than its owner, and a group that root chose: libpq's rule.
fn is_open(mode: u32, owner: u32) -> bool {
    mode & if owner == 0 { 0o037 } else { 0o077 } != 0
}

fn roots(file: Option<&str>) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let Some(file) = file.filter(|f| *f != "system") else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    let unreadable = || {
        Error::operator(format!("sslrootcert {file} holds no readable certificate"))
            .with_hint("name a PEM file with the CA that signed the server's certificate")
    };
    for certificate in certificates(file).map_err(|e| unreadable().with_source(e))? {
        store.add(certificate).map_err(|e| unreadable().with_source(e))?;
    }
    Ok(store)
}

/// Checks as much as the mode asks for; `inner` is absent where that is nothing.
#[derive(Debug)]
struct Verifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    check_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn keys_are_for_their_owner_and_a_group_of_roots() {
        for (mode, owner, open) in [
            (0o100600, 1000, false),
            (0o100400, 1000, false),
            (0o100640, 1000, true),
            (0o100604, 1000, true),
            (0o100640, 0, false),
            (0o100440, 0, false),
            (0o100660, 0, true),
            (0o100644, 0, true),
        ] {
            assert_eq!(is_open(mode, owner), open, "{mode:o} of {owner}");
        }
    }

    #[test]
    fn refused_certificates_are_no_network_failures() {
        let class = |error: io::Error| broken("h:1", error).class();
        let alert = |alert| io::Error::new(io::ErrorKind::InvalidData, TlsError::AlertReceived(alert));
        assert_eq!(class(alert(AlertDescription::UnknownCA)), Class::NeedsOperator);
        assert_eq!(
            class(alert(AlertDescription::CertificateRequired)),
            Class::NeedsOperator
        );
        assert_eq!(class(alert(AlertDescription::InternalError)), Class::Transient);
        assert_eq!(class(io::ErrorKind::ConnectionReset.into()), Class::Transient);
    }
}
