//! Checked reads of one field's bytes.

use super::DecodeError;

/// What is left of one field. Every read checks how much that is.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// The type, for messages.
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, tail)) = self.rest.split_at_checked(len) else {
            return Err(DecodeError::new(format!(
                "expected {len} more bytes of {}, found {}",
                self.what,
                self.rest.len()
            )));
        };
        self.rest = tail;
        Ok(head)
    }

    pub fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((head, tail)) = self.rest.split_first_chunk::<N>() else {
            return Err(DecodeError::new(format!(
                "expected {N} more bytes of {}, found {}",
                self.what,
                self.rest.len()
            )));
        };
        self.rest = tail;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        self.array().map(f64::from_be_bytes)
    }

    /// A count of things that take at least `size` bytes each. One that the
    /// rest of the field cannot hold is refused before anything is sized by it.
    pub fn count(&mut self, size: usize) -> Result<usize, DecodeError> {
        let count = self.i32()?;
        usize::try_from(count)
            .ok()
            .filter(|n| n.checked_mul(size).is_some_and(|len| len <= self.rest.len()))
            .ok_or_else(|| {
                DecodeError::new(format!(
                    "expected a count that fits {} bytes of {}, found {count}",
                    self.rest.len(),
                    self.what
                ))
            })
    }

    /// A length, then that many bytes; length -1 is NULL.
    pub fn field(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.i32()? {
            -1 => Ok(None),
            len => match usize::try_from(len) {
                Ok(len) => self.take(len).map(Some),
                Err(_) => Err(DecodeError::new(format!(
                    "expected a length in {}, found {len}",
                    self.what
                ))),
            },
        }
    }

    /// As [`field`](Self::field) where NULL cannot be.
    pub fn required_field(&mut self) -> Result<&'a [u8], DecodeError> {
        let what = self.what;
        self.field()?
            .ok_or_else(|| DecodeError::new(format!("expected a value in {what}, found null")))
    }

    /// Text up to a zero byte, which is read too.
    pub fn c_string(&mut self) -> Result<&'a str, DecodeError> {
        let Some(len) = self.rest.iter().position(|b| *b == 0) else {
            return Err(DecodeError::new(format!(
                "expected a terminated string in {}, found none in {} bytes",
                self.what,
                self.rest.len()
            )));
        };
        let text = utf8(self.take(len)?, self.what)?;
        self.take(1)?;
        Ok(text)
    }

    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::new(format!(
            "expected the end of {}, found {} more bytes",
            self.what,
            self.rest.len()
        )))
    }
}

/// A whole field of a fixed length.
pub(super) fn fixed<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], DecodeError> {
    bytes
        .try_into()
        .map_err(|_| DecodeError::new(format!("expected {N} bytes of {what}, found {}", bytes.len())))
}

pub(super) fn boolean(bytes: &[u8]) -> Result<bool, DecodeError> {
    match fixed(bytes, "bool")? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(DecodeError::new(format!("expected 0 or 1 as bool, found {other:#04x}"))),
    }
}

pub(super) fn utf8<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|e| {
        DecodeError::new(format!(
            "expected {what} to be UTF-8, found an invalid sequence at byte {}",
            e.valid_up_to()
        ))
    })
}
