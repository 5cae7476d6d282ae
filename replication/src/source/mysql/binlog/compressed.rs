//! The zlib envelope of MariaDB's compressed events (`log_bin_compress`).

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::{BinlogError, Result};

/// What the server's own limit on packets lets an event hold.
const INFLATED_BYTES_MAX: u64 = 1 << 30;

/// Inflates a body: a byte that says how many follow with the size, most
/// significant first, then zlib. Memory grows with what is inflated, not with
/// what the size claims.
pub(super) fn inflate(body: &[u8], event: &'static str) -> Result<Vec<u8>> {
    let failed = |what: &str| {
        Err(BinlogError::Compression(format!(
            "malformed binlog event {event}: expected {what}"
        )))
    };
    let Some((&head, rest)) = body.split_first() else {
        return failed("a compression header");
    };
    // 1, three bits of algorithm (0 is zlib), a spare one, three of length.
    if head & 0xf0 != 0x80 {
        return failed("a body compressed with zlib");
    }
    let (size, data) = match rest.split_at_checked((head & 0x07).into()) {
        Some((size @ ([_] | [_, _] | [_, _, _] | [_, _, _, _]), data)) => (size, data),
        _ => return failed("the size of the inflated body in 1 to 4 bytes"),
    };
    let size = size.iter().fold(0u64, |size, byte| size << 8 | u64::from(*byte));
    if size > INFLATED_BYTES_MAX {
        return failed("an inflated body of at most 1 GiB");
    }
    let mut inflated = Vec::new();
    // One byte more than announced tells that there is more.
    let read = ZlibDecoder::new(data).take(size + 1).read_to_end(&mut inflated);
    match read {
        Ok(len) if len as u64 == size => Ok(inflated),
        Ok(_) => failed("an inflated body of its announced size"),
        Err(_) => failed("valid zlib data"),
    }
}
