//! What a client answers to each authentication method. Pure: no I/O.
//!
//! Spec: MySQL source, "Authentication Methods"; MariaDB, "Authentication
//! Plugin - ed25519" and "Authentication Plugin - PARSEC".

use std::num::NonZeroU32;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512, digest};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use aws_lc_rs::signature::Ed25519KeyPair;
use aws_lc_rs::{pbkdf2, rand};
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use tokio_rustls::rustls::pki_types::SubjectPublicKeyInfoDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Native,
    CachingSha2,
    Sha256,
    Clear,
    Ed25519,
    Parsec,
}

impl Method {
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "mysql_native_password" => Some(Self::Native),
            "caching_sha2_password" => Some(Self::CachingSha2),
            "sha256_password" => Some(Self::Sha256),
            "mysql_clear_password" => Some(Self::Clear),
            "client_ed25519" => Some(Self::Ed25519),
            "parsec" => Some(Self::Parsec),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Sha256 => "sha256_password",
            Self::Clear => "mysql_clear_password",
            Self::Ed25519 => "client_ed25519",
            Self::Parsec => "parsec",
        }
    }
}

/// Whose ears can hear the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// TLS, or a socket of this machine.
    Private,
    Plain,
}

/// One login, which the server may switch from method to method.
pub struct Login<'a> {
    password: &'a [u8],
    channel: Channel,
    method: Method,
    nonce: Vec<u8>,
}

impl<'a> Login<'a> {
    pub fn new(password: &'a [u8], channel: Channel, method: Method, nonce: Vec<u8>) -> Self {
        Self {
            password,
            channel,
            method,
            nonce,
        }
    }

    pub fn switch(&mut self, method: Method, nonce: Vec<u8>) {
        self.method = method;
        self.nonce = nonce;
    }

    /// What goes with the method's name.
    pub fn first(&self) -> Result<Vec<u8>> {
        let password = self.password;
        match self.method {
            // Without a password there is nothing to prove.
            Method::Native | Method::CachingSha2 | Method::Sha256 if password.is_empty() => Ok(match self.method {
                Method::Sha256 => vec![0],
                _ => Vec::new(),
            }),
            Method::Native => Ok(native(password, &self.nonce)),
            Method::CachingSha2 => Ok(caching_sha2(password, &self.nonce)),
            Method::Sha256 if self.channel == Channel::Private => Ok(with_nul(password)),
            // Asks for the server's public key.
            Method::Sha256 => Ok(vec![1]),
            Method::Clear if self.channel == Channel::Private => Ok(with_nul(password)),
            Method::Clear => Err(Error::operator(
                "the server asks for the password in clear text over a connection without TLS",
            )
            .with_hint("set sslmode=require (or verify-full) in source.url")),
            Method::Ed25519 => Ok(ed25519(password, &self.nonce)),
            // Asks for the salt.
            Method::Parsec => Ok(Vec::new()),
        }
    }

    /// The answer to what the server says next, if it wants one.
    pub fn next(&self, data: &[u8]) -> Result<Option<Vec<u8>>> {
        match (self.method, data) {
            (Method::CachingSha2, [3]) => Ok(None),
            (Method::CachingSha2, [4]) => match self.channel {
                Channel::Private => Ok(Some(with_nul(self.password))),
                // Asks for the server's public key.
                Channel::Plain => Ok(Some(vec![2])),
            },
            (Method::CachingSha2 | Method::Sha256, pem) => encrypted(self.password, &self.nonce, pem).map(Some),
            (Method::Parsec, salt) => parsec(self.password, &self.nonce, salt).map(Some),
            _ => Err(Error::transient(format!(
                "unexpected data in a login by {}",
                self.method.name()
            ))),
        }
    }
}

fn with_nul(password: &[u8]) -> Vec<u8> {
    [password, &[0]].concat()
}

fn xor(mut a: Vec<u8>, b: &[u8]) -> Vec<u8> {
    for (a, b) in a.iter_mut().zip(b.iter().cycle()) {
        *a ^= b;
    }
    a
}

fn sha1(parts: &[&[u8]]) -> Vec<u8> {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, &parts.concat()).as_ref().to_vec()
}

fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    digest(&SHA256, &parts.concat()).as_ref().to_vec()
}

fn sha512(parts: &[&[u8]]) -> [u8; 64] {
    let mut out = [0; 64];
    out.copy_from_slice(digest(&SHA512, &parts.concat()).as_ref());
    out
}

fn native(password: &[u8], nonce: &[u8]) -> Vec<u8> {
    let once = sha1(&[password]);
    let twice = sha1(&[&once]);
    xor(once, &sha1(&[nonce, &twice]))
}

fn caching_sha2(password: &[u8], nonce: &[u8]) -> Vec<u8> {
    let once = sha256(&[password]);
    let twice = sha256(&[&once]);
    xor(once, &sha256(&[&twice, nonce]))
}

/// The password, under the server's public key.
fn encrypted(password: &[u8], nonce: &[u8], pem: &[u8]) -> Result<Vec<u8>> {
    let failed = || {
        Error::operator("the server's RSA public key cannot encrypt the password")
            .with_hint("set sslmode=require (or verify-full) in source.url")
    };
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|e| failed().with_source(e))?;
    let key = PublicEncryptingKey::from_der(&der).map_err(|e| failed().with_source(e))?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|e| failed().with_source(e))?;
    let secret = xor(with_nul(password), nonce);
    let mut out = vec![0; key.ciphertext_size()];
    let len = key
        .encrypt(&OAEP_SHA1_MGF1SHA1, &secret, &mut out, None)
        .map_err(|e| failed().with_source(e))?
        .len();
    out.truncate(len);
    Ok(out)
}

/// Ed25519 with the password in the place of the 32 bytes of secret seed,
/// which is why a signer for ordinary keys can't do it.
fn ed25519(password: &[u8], nonce: &[u8]) -> Vec<u8> {
    let hash = sha512(&[password]);
    let (secret, prefix) = hash.split_at(32);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(secret);
    let secret = Scalar::from_bytes_mod_order(clamp_integer(bytes));
    let public = EdwardsPoint::mul_base(&secret).compress();
    let r = Scalar::from_bytes_mod_order_wide(&sha512(&[prefix, nonce]));
    let commitment = EdwardsPoint::mul_base(&r).compress();
    let challenge = sha512(&[commitment.as_bytes(), public.as_bytes(), nonce]);
    let s = Scalar::from_bytes_mod_order_wide(&challenge) * secret + r;
    [*commitment.as_bytes(), s.to_bytes()].concat()
}

/// `P`, the exponent of the iterations, the salt.
fn parsec(password: &[u8], nonce: &[u8], salt: &[u8]) -> Result<Vec<u8>> {
    let (b'P', exponent @ 0..=3, salt) = (match salt {
        [algorithm, exponent, salt @ ..] => (*algorithm, *exponent, salt),
        _ => (0, 0, salt),
    }) else {
        return Err(
            Error::operator("the server uses a form of parsec that is not known here")
                .with_hint("let the user log in with ed25519 or mysql_native_password"),
        );
    };
    let iterations = NonZeroU32::MIN.saturating_mul(NonZeroU32::new(1024 << exponent).unwrap_or(NonZeroU32::MIN));
    let mut seed = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, iterations, salt, password, &mut seed);
    let broken = |e| Error::bug("cryptography").with_source(e);
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|e| Error::bug("cryptography").with_source(e))?;
    let mut own = [0; 32];
    rand::fill(&mut own).map_err(broken)?;
    let signature = key.sign(&[nonce, &own].concat());
    Ok([&own, signature.as_ref()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &[u8] = b"ABCDEFGHIJKLMNOPQRST";

    fn login(method: Method, password: &str, channel: Channel) -> Login<'_> {
        Login::new(password.as_bytes(), channel, method, NONCE.to_vec())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn answers_are_those_of_the_servers_own_clients() {
        for (method, answer) in [
            (Method::Native, "28441590674285e7d03cae7af237504797f70e91"),
            (
                Method::CachingSha2,
                "d721e183c1f036a196c1389201b8d53f38064a16f1d0923683ab886763152d75",
            ),
        ] {
            let first = login(method, "secret", Channel::Plain).first().expect("answer");
            assert_eq!(hex(&first), answer);
            assert!(login(method, "", Channel::Plain).first().expect("answer").is_empty());
        }
    }

    #[test]
    fn a_password_of_32_bytes_is_an_ordinary_ed25519_seed() {
        let password = "0123456789abcdef0123456789ABCDEF";
        let key = Ed25519KeyPair::from_seed_unchecked(password.as_bytes()).expect("seed");
        let first = login(Method::Ed25519, password, Channel::Plain)
            .first()
            .expect("answer");
        assert_eq!(first, key.sign(NONCE).as_ref());
    }

    #[test]
    fn passwords_go_only_where_nobody_listens() {
        for method in [Method::CachingSha2, Method::Sha256, Method::Clear] {
            let first = login(method, "secret", Channel::Plain).first().unwrap_or_default();
            assert!(!first.windows(6).any(|window| window == b"secret"), "{method:?}");
        }
        let private = login(Method::Clear, "secret", Channel::Private);
        assert_eq!(private.first().expect("answer"), b"secret\0");
        assert!(login(Method::Clear, "secret", Channel::Plain).first().is_err());
        let full = |channel| {
            login(Method::CachingSha2, "secret", channel)
                .next(&[4])
                .expect("answer")
        };
        assert_eq!(full(Channel::Private), Some(b"secret\0".to_vec()));
        assert_eq!(full(Channel::Plain), Some(vec![2]));
        // What ought to be a key but is none encrypts nothing.
        assert!(
            login(Method::CachingSha2, "secret", Channel::Plain)
                .next(b"key")
                .is_err()
        );
    }

    #[test]
    fn parsec_takes_no_other_algorithm_and_no_endless_iterations() {
        let parsec = login(Method::Parsec, "secret", Channel::Plain);
        assert!(parsec.first().expect("answer").is_empty());
        let answer = parsec.next(b"P\x00123456789012345678").expect("answer");
        assert_eq!(answer.map(|bytes| bytes.len()), Some(96));
        for bad in [&b""[..], b"P", b"Q\x00123456789012345678", b"P\x0a123456789012345678"] {
            assert!(parsec.next(bad).is_err());
        }
    }
}
