//! What a connection's set-up decodes.

use super::{Endpoint, channel_binding};
use crate::config::SourceConfig;

pub fn certificate(bytes: &[u8]) {
    let _ = channel_binding::end_point(bytes);
}

pub fn endpoint(config: &SourceConfig) {
    let _ = Endpoint::new(config);
}

/// A certificate as far as it is read: a body, an algorithm, a signature.
pub fn certificates() -> Vec<Vec<u8>> {
    let ecdsa = b"\x30\x14\x30\x02\x05\x00\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02\x03\x02\x00\x00".to_vec();
    let pss = b"\x30\x2c\x30\x02\x05\x00\x30\x22\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x15\xa0\x0d\x30\x0b\
        \x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\xa2\x04\x02\x02\x00\x20\x03\x02\x00\x00";
    vec![ecdsa, pss.to_vec()]
}
