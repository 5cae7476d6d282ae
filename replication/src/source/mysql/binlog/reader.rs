//! Checked reads of an event's bytes.

use super::{BinlogError, Result};

#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
    /// For messages.
    event: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], event: &'static str) -> Self {
        Self {
            bytes,
            offset: 0,
            event,
        }
    }

    pub fn event(&self) -> &'static str {
        self.event
    }

    #[cold]
    pub fn error(&self, what: &'static str) -> BinlogError {
        BinlogError::Malformed {
            event: self.event,
            what,
            offset: self.offset,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.offset >= self.bytes.len()
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.offset)
    }

    #[inline]
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8]> {
        let end = self.offset.checked_add(len);
        match end.and_then(|end| self.bytes.get(self.offset..end)) {
            Some(bytes) => {
                self.offset += len;
                Ok(bytes)
            }
            None => Err(self.error(what)),
        }
    }

    pub fn skip(&mut self, len: usize, what: &'static str) -> Result<()> {
        self.take(len, what).map(drop)
    }

    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        self.offset = self.bytes.len();
        rest
    }

    /// A reader of the next bytes alone.
    pub fn sub(&mut self, len: usize, what: &'static str) -> Result<Reader<'a>> {
        Ok(Reader::new(self.take(len, what)?, self.event))
    }

    #[inline]
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        match self.bytes.get(self.offset..).and_then(<[u8]>::first_chunk) {
            Some(bytes) => {
                self.offset += N;
                Ok(*bytes)
            }
            None => Err(self.error(what)),
        }
    }

    #[inline]
    pub fn u8(&mut self, what: &'static str) -> Result<u8> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    #[inline]
    pub fn u16(&mut self, what: &'static str) -> Result<u16> {
        self.array(what).map(u16::from_le_bytes)
    }

    #[inline]
    pub fn u32(&mut self, what: &'static str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    #[inline]
    pub fn u64(&mut self, what: &'static str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A little-endian number of up to 8 bytes.
    pub fn uint(&mut self, len: usize, what: &'static str) -> Result<u64> {
        let mut bytes = [0; 8];
        match bytes.get_mut(..len) {
            Some(low) => low.copy_from_slice(self.take(len, what)?),
            None => return Err(self.error(what)),
        }
        Ok(u64::from_le_bytes(bytes))
    }

    pub fn u48(&mut self, what: &'static str) -> Result<u64> {
        self.uint(6, what)
    }

    /// A length-encoded number.
    pub fn lenenc(&mut self, what: &'static str) -> Result<u64> {
        match self.u8(what)? {
            first @ 0..=250 => Ok(first.into()),
            252 => self.uint(2, what),
            253 => self.uint(3, what),
            254 => self.uint(8, what),
            251 | 255 => {
                self.offset -= 1;
                Err(self.error(what))
            }
        }
    }

    /// A length-encoded number that something in memory can have.
    pub fn len(&mut self, what: &'static str) -> Result<usize> {
        let len = self.lenenc(what)?;
        usize::try_from(len).map_err(|_| self.error(what))
    }

    /// Bytes behind their length-encoded length.
    pub fn lenenc_bytes(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let len = self.len(what)?;
        self.take(len, what)
    }

    pub fn text(&mut self, len: usize, what: &'static str) -> Result<&'a str> {
        let text = self.take(len, what)?;
        std::str::from_utf8(text).map_err(|_| self.error(what))
    }

    pub fn text_rest(&mut self, what: &'static str) -> Result<&'a str> {
        self.text(self.remaining(), what)
    }
}
