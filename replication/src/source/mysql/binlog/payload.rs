//! TRANSACTION_PAYLOAD: a transaction's events in one, compressed.

use std::io::{self, BufRead, Read};

use super::reader::Reader;
use super::{BinlogError, HEADER_LEN, Header, Result};

/// The largest event that a server's `max_allowed_packet` lets through, with
/// something to spare.
const EVENT_BYTES_MAX: u32 = (1 << 30) + (1 << 20);

/// Windows up to 128 MiB, which the highest compression levels make.
const WINDOW_LOG_MAX: u32 = 27;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// What the events take together.
    pub uncompressed_size: Option<u64>,
    /// The events, compressed: for [`Self::reader_over`].
    pub compressed: &'a [u8],
    compression: Compression,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Zstd,
    None,
}

pub(super) fn read<'a>(r: &mut Reader<'a>) -> Result<Payload<'a>> {
    let (mut size, mut compression, mut uncompressed_size) = (None, None, None);
    loop {
        match r.lenenc("a field type")? {
            0 => break,
            ty => {
                let len = r.len("a field length")?;
                let mut field = r.sub(len, "a field")?;
                match ty {
                    1 => size = Some(field.lenenc("a payload size")?),
                    2 => compression = Some(field.lenenc("a compression")?),
                    3 => uncompressed_size = Some(field.lenenc("an uncompressed size")?),
                    _ => {}
                }
            }
        }
    }
    let compressed = r.rest();
    if size.is_some_and(|size| size != compressed.len() as u64) {
        return Err(r.error("a payload of the announced size"));
    }
    let compression = match compression {
        Some(0) => Compression::Zstd,
        Some(255) => Compression::None,
        Some(other) => {
            return Err(BinlogError::Unsupported(format!(
                "expected a transaction compressed with zstd (0), found compression {other}"
            )));
        }
        None => return Err(r.error("a compression")),
    };
    Ok(Payload {
        uncompressed_size,
        compressed,
        compression,
    })
}

impl<'a> Payload<'a> {
    pub fn reader(&self) -> Result<PayloadReader<&'a [u8]>> {
        self.reader_over(self.compressed)
    }

    /// Reads the caller's own copy of [`Self::compressed`], which lets the
    /// reader outlive the event.
    pub fn reader_over<R: BufRead>(&self, compressed: R) -> Result<PayloadReader<R>> {
        let source = match self.compression {
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed).map_err(not_readable)?;
                decoder.window_log_max(WINDOW_LOG_MAX).map_err(not_readable)?;
                Source::Zstd(Box::new(decoder))
            }
            Compression::None => Source::Plain(compressed),
        };
        Ok(PayloadReader {
            source,
            event: Vec::new(),
            read: 0,
            expected: self.uncompressed_size,
        })
    }
}

/// Inflates the events one by one: memory for the largest and for a window.
pub struct PayloadReader<R: BufRead> {
    source: Source<R>,
    event: Vec<u8>,
    read: u64,
    expected: Option<u64>,
}

enum Source<R: BufRead> {
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
    Plain(R),
}

impl<R: BufRead> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Zstd(decoder) => decoder.read(buffer),
            Source::Plain(source) => source.read(buffer),
        }
    }
}

impl<R: BufRead> PayloadReader<R> {
    /// The next event, for [`Decoder::decode_inner`](super::Decoder::decode_inner).
    /// None after the last, and only if nothing is missing.
    pub fn next_event(&mut self) -> Result<Option<&[u8]>> {
        self.event.clear();
        self.fill(HEADER_LEN)?;
        if self.event.is_empty() {
            return match self.expected {
                Some(expected) if expected != self.read => Err(BinlogError::Compression(format!(
                    "expected {expected} bytes of events in a compressed transaction, found {}",
                    self.read
                ))),
                _ => Ok(None),
            };
        }
        let header = Header::read(&self.event)?;
        if header.event_size > EVENT_BYTES_MAX {
            return Err(BinlogError::Compression(format!(
                "expected events of up to {EVENT_BYTES_MAX} bytes in a compressed transaction, found one of {}",
                header.event_size
            )));
        }
        let size = header.event_size as usize;
        self.fill(size - HEADER_LEN)?;
        if self.event.len() != size {
            return Err(BinlogError::Compression(format!(
                "expected an event of {size} bytes at the end of a compressed transaction, found {}",
                self.event.len()
            )));
        }
        self.read += size as u64;
        Ok(Some(&self.event))
    }

    /// Appends up to `len` bytes, fewer at the end. The buffer grows with
    /// what there is, not with what an event says of itself.
    fn fill(&mut self, len: usize) -> Result<()> {
        let mut limited = (&mut self.source).take(len as u64);
        limited.read_to_end(&mut self.event).map(drop).map_err(not_readable)
    }
}

fn not_readable(error: io::Error) -> BinlogError {
    BinlogError::Compression(format!("cannot inflate a compressed transaction: {error}"))
}
