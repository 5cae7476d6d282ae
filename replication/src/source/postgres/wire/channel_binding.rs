//! What binds a login by SCRAM to the TLS connection that it goes over: a hash
//! of the server's certificate. Somebody between who has another certificate
//! can't pass the login on.
//!
//! Pure: no I/O; certificates come from anybody, so reads are checked.
//! Spec: RFC 5929, section 4 (tls-server-end-point); RFC 5280, section 4.1;
//! RFC 4055, section 3.1 (RSASSA-PSS).

use std::str::FromStr;

use aws_lc_rs::digest::{self, Algorithm, SHA224, SHA256, SHA384, SHA512};

use crate::error::{Error, Result};

/// libpq's `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    /// If the server offers it: libpq's default.
    Prefer,
    /// A server that does not is refused, whatever it asks for instead.
    Require,
}

impl FromStr for ChannelBinding {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            _ => Err(Error::operator(format!("unknown channel_binding {text:?}"))
                .with_hint("use disable, prefer or require")),
        }
    }
}

/// The data of `tls-server-end-point`: the certificate, hashed as its signature
/// is, but by SHA-256 where that is MD5 or SHA-1. `None`: the signature has no
/// such hash (Ed25519), or the bytes are no certificate.
pub fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let hash = signature_hash(certificate)?;
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

const SEQUENCE: u8 = 0x30;
const OBJECT_ID: u8 = 0x06;
/// `[0]`, constructed: the hash among the parameters of RSASSA-PSS.
const FIRST: u8 = 0xa0;

/// 1.2.840.113549.1.1: `pkcs-1`.
const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4: signatures of ANSI X9.62.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
/// 2.16.840.1.101.3.4.2: NIST's hashes.
const NIST_HASHES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
/// 1.3.14.3.2.26
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];

fn signature_hash(certificate: &[u8]) -> Option<&'static Algorithm> {
    // SEQUENCE {tbsCertificate, signatureAlgorithm, signatureValue}
    let mut certificate = Der(certificate).expect(SEQUENCE)?;
    certificate.expect(SEQUENCE)?;
    let mut algorithm = certificate.expect(SEQUENCE)?;
    let id = algorithm.expect(OBJECT_ID)?.0;
    if let Some(number) = id.strip_prefix(PKCS1) {
        return match number {
            // MD5 and SHA-1 give way to SHA-256.
            [4 | 5 | 11] => Some(&SHA256),
            [10] => pss_hash(algorithm),
            [12] => Some(&SHA384),
            [13] => Some(&SHA512),
            [14] => Some(&SHA224),
            _ => None,
        };
    }
    match id.strip_prefix(ECDSA)? {
        [1] | [3, 2] => Some(&SHA256),
        [3, 1] => Some(&SHA224),
        [3, 3] => Some(&SHA384),
        [3, 4] => Some(&SHA512),
        _ => None,
    }
}

/// Of `SEQUENCE {[0] SEQUENCE {hash, …} DEFAULT sha1, …}`.
fn pss_hash(mut algorithm: Der<'_>) -> Option<&'static Algorithm> {
    let mut parameters = algorithm.expect(SEQUENCE)?;
    let Some(mut first) = parameters.expect(FIRST) else {
        return Some(&SHA256);
    };
    let id = first.expect(SEQUENCE)?.expect(OBJECT_ID)?.0;
    if id == SHA1 {
        return Some(&SHA256);
    }
    match id.strip_prefix(NIST_HASHES)? {
        [1] => Some(&SHA256),
        [2] => Some(&SHA384),
        [3] => Some(&SHA512),
        [4] => Some(&SHA224),
        _ => None,
    }
}

/// DER that is read value by value.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next value, if it has this tag. Nothing is read otherwise.
    fn expect(&mut self, tag: u8) -> Option<Der<'a>> {
        let (&found, rest) = self.0.split_first()?;
        let (&short, rest) = rest.split_first()?;
        let (len, rest) = match short {
            0..=0x7f => (usize::from(short), rest),
            // The length is in up to four bytes more.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
                let len = bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
                (len, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        (found == tag).then(|| {
            self.0 = rest;
            Der(content)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value with its tag and length.
    fn value(tag: u8, content: &[u8]) -> Vec<u8> {
        let len = content.len();
        let mut bytes = match len {
            0..0x80 => vec![tag, len as u8],
            _ => vec![tag, 0x82, (len >> 8) as u8, len as u8],
        };
        bytes.extend_from_slice(content);
        bytes
    }

    /// As much of a certificate as is read, and more: a body of 300 bytes, the algorithm, a signature.
    fn certificate(id: &[u8], parameters: &[u8]) -> Vec<u8> {
        let algorithm = [value(OBJECT_ID, id), parameters.to_vec()].concat();
        let parts = [
            value(SEQUENCE, &[7; 300]),
            value(SEQUENCE, &algorithm),
            value(0x03, &[0; 65]),
        ];
        value(SEQUENCE, &parts.concat())
    }

    fn pss(hash: Option<&[u8]>) -> Vec<u8> {
        let id = |id: &[u8]| value(SEQUENCE, &[value(OBJECT_ID, id), value(0x05, &[])].concat());
        let first = hash.map(|hash| value(FIRST, &id(hash))).unwrap_or_default();
        // The salt's length, [2], is told in any case.
        value(SEQUENCE, &[first, value(0xa2, &value(0x02, &[32]))].concat())
    }

    #[test]
    fn the_hash_is_the_signatures_and_sha_256_at_least() {
        let null = value(0x05, &[]);
        let nist = |number: u8| [NIST_HASHES, &[number]].concat();
        for (prefix, number, parameters, hash) in [
            (PKCS1, &[4][..], null.clone(), Some(&SHA256)), // md5WithRSAEncryption
            (PKCS1, &[5], null.clone(), Some(&SHA256)),     // sha1WithRSAEncryption
            (PKCS1, &[11], null.clone(), Some(&SHA256)),
            (PKCS1, &[12], null.clone(), Some(&SHA384)),
            (PKCS1, &[13], null.clone(), Some(&SHA512)),
            (PKCS1, &[14], null.clone(), Some(&SHA224)),
            (PKCS1, &[1], null.clone(), None), // rsaEncryption
            (PKCS1, &[10], pss(None), Some(&SHA256)),
            (PKCS1, &[10], pss(Some(SHA1)), Some(&SHA256)),
            (PKCS1, &[10], pss(Some(&nist(1))), Some(&SHA256)),
            (PKCS1, &[10], pss(Some(&nist(2))), Some(&SHA384)),
            (PKCS1, &[10], pss(Some(&nist(3))), Some(&SHA512)),
            (PKCS1, &[10], pss(Some(&nist(8))), None), // SHA3-256
            (ECDSA, &[1], vec![], Some(&SHA256)),      // ecdsa-with-SHA1
            (ECDSA, &[3, 1], vec![], Some(&SHA224)),
            (ECDSA, &[3, 2], vec![], Some(&SHA256)),
            (ECDSA, &[3, 3], vec![], Some(&SHA384)),
            (ECDSA, &[3, 4], vec![], Some(&SHA512)),
            (&[0x2b, 0x65], &[0x70], vec![], None), // Ed25519
        ] {
            let id = [prefix, number].concat();
            let certificate = certificate(&id, &parameters);
            let expected = hash.map(|hash| digest::digest(hash, &certificate).as_ref().to_vec());
            assert_eq!(end_point(&certificate), expected, "{id:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_hash() {
        let whole = certificate(&[PKCS1, &[10]].concat(), &pss(Some(SHA1)));
        assert!(end_point(&whole).is_some());
        for len in 0..whole.len() {
            assert_eq!(end_point(&whole[..len]), None, "{len} bytes");
        }
        // Any byte may be any other: no panic.
        for place in 0..whole.len() {
            for byte in [0, 0x30, 0x7f, 0x80, 0x84, 0x85, 0xff] {
                let mut changed = whole.clone();
                changed[place] = byte;
                let _ = end_point(&changed);
            }
        }
    }
}
