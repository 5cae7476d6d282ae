//! Where in a source's log. Positions are compared with [`Position::covers`]
//! and nothing else: other sources' positions are only partially ordered.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;

/// A PostgreSQL log sequence number: a byte position in the WAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.split_once('/')
            .and_then(|(high, low)| {
                let high = u32::from_str_radix(high, 16).ok()?;
                let low = u32::from_str_radix(low, 16).ok()?;
                Some(Lsn(u64::from(high) << 32 | u64::from(low)))
            })
            .ok_or_else(|| Error::bug(format!("expected an LSN like 0/16B3748, found {text:?}")))
    }
}

/// A place in the log of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    Lsn(Lsn),
}

impl Position {
    /// Whether everything up to `other` lies at or before `self`.
    pub fn covers(&self, other: &Position) -> bool {
        let (Position::Lsn(own), Position::Lsn(other)) = (self, other);
        own >= other
    }

    /// The log between two positions in bytes, or 0 if `self` covers `other`.
    pub fn bytes_until(&self, other: &Position) -> u64 {
        let (Position::Lsn(own), Position::Lsn(other)) = (self, other);
        other.0.saturating_sub(own.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Lsn(lsn) => lsn.fmt(f),
        }
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Position::Lsn).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text_round_trips() {
        for (text, value) in [
            ("0/0", 0),
            ("0/16B3748", 0x16B3748),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
            ("1/A", 0x1_0000_000A),
        ] {
            assert_eq!(text.parse::<Lsn>().expect(text), Lsn(value));
            assert_eq!(Lsn(value).to_string(), text);
        }
        for text in ["", "0", "0/", "/0", "0/G", "0/123456789"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
