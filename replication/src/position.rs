//! Where in a source's log. Positions are compared with [`Position::covers`]
//! and nothing else: other sources' positions are only partially ordered.

pub mod gtid;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::gtid::{GtidList, GtidSet};
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

/// A place in the binlog of a MySQL or MariaDB server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinlogPosition {
    /// Who wrote the file: `server_uuid` of MySQL, `server_id` of MariaDB.
    pub server: String,
    pub file: String,
    /// Bytes from the file's beginning.
    pub offset: u64,
    /// Every transaction before, whoever wrote it.
    pub gtids: Gtids,
}

/// Transactions by what they are called on every server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gtids {
    /// The server does not number them (`gtid_mode` is off).
    None,
    MySql(GtidSet),
    MariaDb(GtidList),
}

impl Gtids {
    /// Whether all of `other` are among these; `None` if that can't be known.
    pub fn contain(&self, other: &Gtids) -> Option<bool> {
        match (self, other) {
            (Gtids::MySql(own), Gtids::MySql(other)) => Some(own.contains_set(other)),
            (Gtids::MariaDb(own), Gtids::MariaDb(other)) => Some(own.covers(other)),
            _ => None,
        }
    }
}

impl fmt::Display for Gtids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gtids::None => Ok(()),
            Gtids::MySql(set) => set.fmt(f),
            Gtids::MariaDb(list) => list.fmt(f),
        }
    }
}

/// The number at the end of a binlog file's name.
pub fn file_number(file: &str) -> u64 {
    let digits = file.rsplit('.').next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

impl BinlogPosition {
    pub fn file_number(&self) -> u64 {
        file_number(&self.file)
    }

    fn place(&self) -> (u64, u64) {
        (self.file_number(), self.offset)
    }
}

impl fmt::Display for BinlogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.gtids {
            // No transaction yet is not the same as no numbers.
            Gtids::MySql(set) if set.is_empty() => f.write_str(",")?,
            gtids => gtids.fmt(f)?,
        }
        write!(f, "@{}:{}:{}", self.server, self.file, self.offset)
    }
}

impl FromStr for BinlogPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || {
            Error::bug(format!(
                "expected a binlog position like gtids@server:file:offset, found {text:?}"
            ))
        };
        let (gtids, place) = text.rsplit_once('@').ok_or_else(malformed)?;
        let (rest, offset) = place.rsplit_once(':').ok_or_else(malformed)?;
        let (server, file) = rest.split_once(':').ok_or_else(malformed)?;
        // MySQL's servers are named by UUID, MariaDB's by number.
        let gtids = match (gtids.is_empty(), server.contains('-')) {
            (_, false) => Gtids::MariaDb(gtids.parse()?),
            (true, true) => Gtids::None,
            (false, true) => Gtids::MySql(gtids.parse()?),
        };
        Ok(Self {
            server: server.to_owned(),
            file: file.to_owned(),
            offset: offset.parse().map_err(|_| malformed())?,
            gtids,
        })
    }
}

/// A cluster time of MongoDB: seconds in the upper half, the increment in the
/// lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterTime(pub u64);

impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 32, self.0 as u32)
    }
}

impl FromStr for ClusterTime {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.split_once('.')
            .and_then(|(seconds, increment)| {
                let seconds: u32 = seconds.parse().ok()?;
                let increment: u32 = increment.parse().ok()?;
                Some(ClusterTime(u64::from(seconds) << 32 | u64::from(increment)))
            })
            .ok_or_else(|| Error::bug(format!("expected a cluster time like 1700000000.1, found {text:?}")))
    }
}

/// A place in a change stream of MongoDB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    pub time: ClusterTime,
    /// Whether every change of that time lies before; if not, those up to the
    /// token do.
    pub whole: bool,
    /// The resume token, which orders changes of one time: its `_data`, and
    /// after `~` its `_typeBits` if it has any. Empty where only the time is known.
    pub token: String,
    /// What names the replica set or cluster, if we may know it.
    pub set: String,
}

impl ResumePoint {
    /// Every change up to this time lies before.
    pub fn through(&self) -> ClusterTime {
        match self.whole {
            true => self.time,
            false => ClusterTime(self.time.0.saturating_sub(1)),
        }
    }

    /// Whether a change lies before.
    pub fn has(&self, time: ClusterTime, token: &str) -> bool {
        time <= self.through() || (time == self.time && token <= self.token.as_str())
    }
}

/// The time, for people; all of it in the alternate form, like
/// `1700000000.5+82…!set`: `+` if the time is whole, `-` if not.
impl fmt::Display for ResumePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return self.time.fmt(f);
        }
        let sign = if self.whole { '+' } else { '-' };
        write!(f, "{}{sign}{}", self.time, self.token)?;
        match self.set.as_str() {
            "" => Ok(()),
            set => write!(f, "!{set}"),
        }
    }
}

impl FromStr for ResumePoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (place, set) = text.split_once('!').unwrap_or((text, ""));
        let (time, token, whole) = match (place.split_once('+'), place.split_once('-')) {
            (Some((time, token)), _) => (time, token, true),
            (None, Some((time, token))) => (time, token, false),
            (None, None) => {
                return Err(Error::bug(format!(
                    "expected a resume point like 1700000000.1+82…, found {text:?}"
                )));
            }
        };
        Ok(Self {
            time: time.parse()?,
            whole,
            token: token.to_owned(),
            set: set.to_owned(),
        })
    }
}

/// A place in the log of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    Lsn(Lsn),
    Binlog(Arc<BinlogPosition>),
    Resume(Arc<ResumePoint>),
}

impl Position {
    /// Whether everything up to `other` lies at or before `self`.
    pub fn covers(&self, other: &Position) -> bool {
        match (self, other) {
            (Position::Lsn(own), Position::Lsn(other)) => own >= other,
            // In one server's files order is total; between servers only the
            // names of transactions tell.
            (Position::Binlog(own), Position::Binlog(other)) if own.server == other.server => {
                own.place() >= other.place()
            }
            (Position::Binlog(own), Position::Binlog(other)) => own.gtids.contain(&other.gtids) == Some(true),
            (Position::Resume(own), Position::Resume(other)) => {
                let same = own.time == other.time && own.token >= other.token;
                own.through() >= other.time || (!other.whole && own.through() >= other.through() && same)
            }
            _ => false,
        }
    }

    /// The log between two positions in bytes, or 0 if `self` covers `other`;
    /// `None` if the positions don't tell.
    pub fn bytes_until(&self, other: &Position) -> Option<u64> {
        match (self, other) {
            (Position::Lsn(own), Position::Lsn(other)) => Some(other.0.saturating_sub(own.0)),
            _ if self.covers(other) => Some(0),
            (Position::Binlog(own), Position::Binlog(other))
                if own.server == other.server && own.file == other.file =>
            {
                Some(other.offset.saturating_sub(own.offset))
            }
            _ => None,
        }
    }

    /// The place in a binlog, if it is one.
    pub fn binlog(&self) -> Option<&BinlogPosition> {
        match self {
            Position::Binlog(place) => Some(place),
            _ => None,
        }
    }

    /// The place in a change stream, if it is one.
    pub fn resume_point(&self) -> Option<&ResumePoint> {
        match self {
            Position::Resume(point) => Some(point),
            _ => None,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Lsn(lsn) => lsn.fmt(f),
            Position::Binlog(place) => place.fmt(f),
            Position::Resume(point) => point.fmt(f),
        }
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Whole, where the form for people is shorter.
        serializer.collect_str(&format_args!("{self:#}"))
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = if text.contains('@') {
            text.parse().map(|place| Position::Binlog(Arc::new(place)))
        } else if text.contains('.') {
            text.parse().map(|point| Position::Resume(Arc::new(point)))
        } else {
            text.parse().map(Position::Lsn)
        };
        parsed.map_err(serde::de::Error::custom)
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

    #[test]
    fn resume_points_are_ordered_by_time_and_then_by_token() {
        let position = |text: &str| {
            let text = serde_json::Value::String(text.to_owned());
            serde_json::from_value::<Position>(text).expect("a position")
        };
        for (own, other, covers) in [
            ("9.1+82A", "9.1+82A", true),
            ("9.1+82A", "9.1-82A", true),
            ("9.1-82A", "9.1+82A", false),
            ("9.1-82A", "9.0+", true),
            ("9.1+", "9.1+82A", true),
            ("9.0+", "9.1-82A", false),
            ("9.1-82B", "9.1-82A", true),
            ("9.1-82A", "9.1-82B", false),
            // A time without a token is one that a snapshot saw whole.
            ("9.1+82A", "9.1+", true),
            ("10.1-82A!s", "9.4294967295+82A!s", true),
            ("9.1+82A", "0/10", false),
        ] {
            let (own, other) = (position(own), position(other));
            assert_eq!(own.covers(&other), covers, "{own:#} {other:#}");
            assert_eq!(position(&format!("{own:#}")), own);
        }
        let point: ResumePoint = "9.5-82B".parse().expect("a point");
        for (time, token, has) in [
            (4, "82C", true),
            (5, "82A", true),
            (5, "82B", true),
            (5, "82C", false),
            (6, "82A", false),
        ] {
            assert_eq!(point.has(ClusterTime(9 << 32 | time), token), has, "{time} {token}");
        }
    }

    #[test]
    fn binlog_positions_are_ordered_in_one_server_and_by_gtids_between_servers() {
        let position = |text: &str| {
            let text = serde_json::Value::String(text.to_owned());
            serde_json::from_value::<Position>(text).expect("a position")
        };
        let (a, b) = (
            "3e11fa47-71ca-11e1-9e33-c80aa9429562",
            "4e11fa47-71ca-11e1-9e33-c80aa9429562",
        );
        let at = |gtids: &str, server: &str, place: &str| position(&format!("{gtids}@{server}:{place}"));
        for (own, other, covers) in [
            (at("", a, "binlog.000009:900"), at("", a, "binlog.000010:4"), false),
            (at("", a, "binlog.000010:4"), at("", a, "binlog.000009:900"), true),
            (at("", a, "binlog.000010:4"), at("", b, "binlog.000009:900"), false),
            (
                at(&format!("{a}:1-9"), b, "x.000001:4"),
                at(&format!("{a}:1-8"), a, "x.000002:4"),
                true,
            ),
            (
                at(&format!("{a}:1-8"), b, "x.000003:4"),
                at(&format!("{a}:1-9"), a, "x.000002:4"),
                false,
            ),
            (
                at("0-1-8,1-1-3", "1", "x.000003:4"),
                at("0-2-7", "2", "x.000009:4"),
                true,
            ),
            (
                at("0-1-8", "1", "x.000003:4"),
                at("0-2-7,1-1-3", "2", "x.000009:4"),
                false,
            ),
            // A server that numbers transactions and has none yet.
            (at(&format!("{a}:1"), a, "x.000002:4"), at(",", b, "x.000001:4"), true),
            (at(",", a, "x.000001:4"), at(&format!("{a}:1"), b, "x.000001:4"), false),
            (at(",", a, "x.000001:4"), at("", b, "x.000001:4"), false),
            (position("0/10"), at("", a, "binlog.000001:4"), false),
        ] {
            assert_eq!(own.covers(&other), covers, "{own} {other}");
            for position_of in [own, other] {
                assert_eq!(position(&position_of.to_string()), position_of);
            }
        }
    }
}
