//! Which transactions a replica has: GTID sets of MySQL, GTID lists of
//! MariaDB. Pure: no I/O.
//!
//! Spec: MySQL manual, "GTID Format and Storage", and for the encoding the
//! server's own `Gtid_set::encode`; MariaDB, "Global Transaction ID".

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::error::{Error, Result};

/// Who numbers a transaction: a server or group and, since MySQL 8.3, a tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    uuid: Uuid,
    /// Empty, or `[a-z_][a-z0-9_]{0,31}`.
    tag: Box<str>,
}

impl Origin {
    pub fn new(uuid: [u8; 16]) -> Self {
        Self {
            uuid: Uuid::from_bytes(uuid),
            tag: "".into(),
        }
    }

    pub fn tagged(uuid: [u8; 16], tag: &str) -> Result<Self> {
        Ok(Self {
            uuid: Uuid::from_bytes(uuid),
            tag: normal_tag(tag).ok_or_else(|| invalid("tag"))?,
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid.hyphenated().fmt(f)?;
        if !self.tag.is_empty() {
            write!(f, ":{}", self.tag)?;
        }
        Ok(())
    }
}

fn normal_tag(text: &str) -> Option<Box<str>> {
    let text = text.to_ascii_lowercase();
    let first = text.chars().next().unwrap_or('_');
    let known = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    (known && !first.is_ascii_digit() && text.len() <= 32).then(|| text.into_boxed_str())
}

fn invalid(what: &str) -> Error {
    Error::operator(format!("not a valid {what} of a GTID set"))
        .with_hint("a GTID set reads uuid:1-5:7, and a list of MariaDB 0-1-5,1-2-7")
}

/// Numbers from `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    start: u64,
    end: u64,
}

/// Sorted, disjoint and not adjacent: equal sets are equal vectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Intervals(Vec<Interval>);

impl Intervals {
    fn add(&mut self, added: Interval) {
        // Nearly always the number after the last one.
        if let Some(last) = self.0.last_mut()
            && last.end == added.start
        {
            last.end = added.end;
            return;
        }
        // All intervals that overlap or touch become one.
        let from = self.0.partition_point(|i| i.end < added.start);
        let to = self.0.partition_point(|i| i.start <= added.end);
        let merged = match self.0.get(from..to) {
            Some([first, .., last]) => Interval {
                start: added.start.min(first.start),
                end: added.end.max(last.end),
            },
            Some([only]) => Interval {
                start: added.start.min(only.start),
                end: added.end.max(only.end),
            },
            _ => added,
        };
        self.0.splice(from..to, [merged]);
    }

    fn contains(&self, wanted: Interval) -> bool {
        let after = self.0.partition_point(|i| i.start <= wanted.start);
        after
            .checked_sub(1)
            .and_then(|i| self.0.get(i))
            .is_some_and(|i| wanted.end <= i.end)
    }

    fn union(&mut self, other: &Self) {
        for interval in &other.0 {
            self.add(*interval);
        }
    }

    fn intersect(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut out = Vec::new();
        while let (Some(left), Some(right)) = (a.peek(), b.peek()) {
            let (start, end) = (left.start.max(right.start), left.end.min(right.end));
            if start < end {
                out.push(Interval { start, end });
            }
            if left.end < right.end {
                a.next();
            } else {
                b.next();
            }
        }
        Self(out)
    }

    fn subtract(&self, other: &Self) -> Self {
        let mut out = Vec::new();
        let mut holes = other.0.iter().peekable();
        for interval in &self.0 {
            let mut start = interval.start;
            while let Some(hole) = holes.peek().filter(|hole| hole.start < interval.end) {
                if start < hole.start {
                    out.push(Interval { start, end: hole.start });
                }
                start = start.max(hole.end);
                if hole.end > interval.end {
                    break; // it reaches into the next interval
                }
                holes.next();
            }
            if start < interval.end {
                out.push(Interval {
                    start,
                    end: interval.end,
                });
            }
        }
        Self(out)
    }
}

/// MySQL: a set of transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GtidSet(BTreeMap<Origin, Intervals>);

impl GtidSet {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many transactions are in it.
    pub fn len(&self) -> u64 {
        self.0
            .values()
            .flat_map(|intervals| &intervals.0)
            .map(|i| i.end - i.start)
            .sum()
    }

    /// Numbers start at 1; 0 is none.
    pub fn add(&mut self, origin: &Origin, number: u64) {
        if (1..=NUMBER_MAX).contains(&number) {
            self.add_interval(
                origin,
                Interval {
                    start: number,
                    end: number + 1,
                },
            );
        }
    }

    fn add_interval(&mut self, origin: &Origin, interval: Interval) {
        match self.0.get_mut(origin) {
            Some(intervals) => intervals.add(interval),
            None => {
                self.0.insert(origin.clone(), Intervals(vec![interval]));
            }
        }
    }

    pub fn contains(&self, origin: &Origin, number: u64) -> bool {
        let wanted = Interval {
            start: number,
            end: number.saturating_add(1),
        };
        self.0.get(origin).is_some_and(|intervals| intervals.contains(wanted))
    }

    /// Whether all of `other` is in it.
    pub fn contains_set(&self, other: &Self) -> bool {
        other.0.iter().all(|(origin, theirs)| {
            self.0
                .get(origin)
                .is_some_and(|ours| theirs.0.iter().all(|i| ours.contains(*i)))
        })
    }

    /// Adds all of `other`.
    pub fn union(&mut self, other: &Self) {
        for (origin, theirs) in &other.0 {
            match self.0.get_mut(origin) {
                Some(ours) => ours.union(theirs),
                None => {
                    self.0.insert(origin.clone(), theirs.clone());
                }
            }
        }
    }

    /// What is in both.
    pub fn intersect(&self, other: &Self) -> Self {
        self.each(|origin, ours| match other.0.get(origin) {
            Some(theirs) => ours.intersect(theirs),
            None => Intervals::default(),
        })
    }

    /// What is in it but not in `other`.
    pub fn subtract(&self, other: &Self) -> Self {
        self.each(|origin, ours| match other.0.get(origin) {
            Some(theirs) => ours.subtract(theirs),
            None => ours.clone(),
        })
    }

    fn each(&self, change: impl Fn(&Origin, &Intervals) -> Intervals) -> Self {
        let changed = self.0.iter().map(|(origin, ours)| (origin, change(origin, ours)));
        Self(
            changed
                .filter(|(_, intervals)| !intervals.0.is_empty())
                .map(|(origin, intervals)| (origin.clone(), intervals))
                .collect(),
        )
    }

    /// The form that COM_BINLOG_DUMP_GTID takes. Servers before 8.3 don't know
    /// the one with tags, which is used only if there are any.
    pub fn encode(&self) -> Vec<u8> {
        let tagged = self.0.keys().any(|origin| !origin.tag.is_empty());
        let count = self.0.len() as u64;
        let mut out = Vec::new();
        let format = if tagged { 1 << 56 | count << 8 | 1 } else { count };
        out.extend_from_slice(&format.to_le_bytes());
        for (origin, intervals) in &self.0 {
            out.extend_from_slice(origin.uuid.as_bytes());
            if tagged {
                // A variable-length integer, one byte for all that a tag can be long.
                out.push((origin.tag.len() as u8) << 1);
                out.extend_from_slice(origin.tag.as_bytes());
            }
            out.extend_from_slice(&(intervals.0.len() as u64).to_le_bytes());
            for interval in &intervals.0 {
                out.extend_from_slice(&interval.start.to_le_bytes());
                out.extend_from_slice(&interval.end.to_le_bytes());
            }
        }
        out
    }
}

/// The last number a server can give.
const NUMBER_MAX: u64 = i64::MAX as u64 - 1;

/// As the server prints it, but on one line: `uuid:1-5:7:tag:1,uuid:3`.
impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut previous = None;
        for (origin, intervals) in &self.0 {
            if previous == Some(origin.uuid) {
                write!(f, ":{}", origin.tag)?;
            } else {
                let comma = if previous.is_some() { "," } else { "" };
                write!(f, "{comma}{origin}")?;
            }
            previous = Some(origin.uuid);
            for Interval { start, end } in &intervals.0 {
                write!(f, ":{start}")?;
                if end - start > 1 {
                    write!(f, "-{}", end - 1)?;
                }
            }
        }
        Ok(())
    }
}

/// White space may stand anywhere between parts, intervals in any order, as in
/// the server. An interval that ends before it starts is empty.
impl FromStr for GtidSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut set = Self::new();
        for source in text.split(',').map(str::trim).filter(|source| !source.is_empty()) {
            let mut parts = source.split(':').map(str::trim);
            let uuid = parts.next().and_then(|uuid| Uuid::parse_str(uuid).ok());
            let mut origin = Origin::new(uuid.ok_or_else(|| invalid("uuid"))?.into_bytes());
            for part in parts {
                if part.starts_with(|c: char| c.is_ascii_digit()) {
                    let interval = interval(part).ok_or_else(|| invalid("interval"))?;
                    if interval.start < interval.end {
                        set.add_interval(&origin, interval);
                    }
                } else {
                    let tag = normal_tag(part).filter(|tag| !tag.is_empty());
                    origin.tag = tag.ok_or_else(|| invalid("tag"))?;
                }
            }
        }
        Ok(set)
    }
}

fn interval(text: &str) -> Option<Interval> {
    let number = |text: &str| text.trim().parse().ok().filter(|n| *n <= NUMBER_MAX);
    let (start, last) = match text.split_once('-') {
        Some((start, last)) => (number(start)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (start > 0).then_some(Interval { start, end: last + 1 })
}

/// MariaDB: the last transaction of each replication domain. Within a domain
/// the sequence number orders transactions, whichever server they are from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GtidList(BTreeMap<u32, (u32, u64)>);

impl GtidList {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Moves a domain to a transaction, whatever was its last.
    pub fn set(&mut self, domain: u32, server_id: u32, sequence: u64) {
        self.0.insert(domain, (server_id, sequence));
    }

    /// The server and sequence number of a domain's last transaction.
    pub fn get(&self, domain: u32) -> Option<(u32, u64)> {
        self.0.get(&domain).copied()
    }

    /// Domain, server, sequence number; by domain.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, u64)> {
        self.0
            .iter()
            .map(|(domain, (server_id, sequence))| (*domain, *server_id, *sequence))
    }

    /// Whether it is as far as `other` in each of its domains.
    pub fn covers(&self, other: &Self) -> bool {
        other
            .iter()
            .all(|(domain, _, sequence)| self.get(domain).is_some_and(|(_, ours)| ours >= sequence))
    }
}

/// As the server prints it: `0-1-5,1-2-7`.
impl fmt::Display for GtidList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (domain, server_id, sequence)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{domain}-{server_id}-{sequence}")?;
        }
        Ok(())
    }
}

/// Of several transactions of a domain the latest counts.
impl FromStr for GtidList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut list = Self::new();
        for transaction in transactions(text) {
            let (domain, server_id, sequence) = transaction?;
            if list.get(domain).is_none_or(|(_, before)| before < sequence) {
                list.set(domain, server_id, sequence);
            }
        }
        Ok(list)
    }
}

/// Domain, server and sequence number of each of `0-1-5,1-2-7`.
fn transactions(text: &str) -> impl Iterator<Item = Result<(u32, u32, u64)>> {
    let gtids = text.split(',').map(str::trim).filter(|gtid| !gtid.is_empty());
    gtids.map(|gtid| {
        let mut parts = gtid.splitn(3, '-');
        let mut next = || parts.next().ok_or_else(|| invalid("transaction"));
        let (domain, server_id, sequence) = (next()?, next()?, next()?);
        let wrong = |e| invalid("transaction").with_source(e);
        Ok((
            domain.parse().map_err(wrong)?,
            server_id.parse().map_err(wrong)?,
            sequence.parse().map_err(wrong)?,
        ))
    })
}

/// MariaDB: the last transaction of each server in each domain, as
/// `@@gtid_binlog_state` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GtidState(BTreeMap<(u32, u32), u64>);

impl GtidState {
    /// The transactions of a list that were never logged.
    pub fn lacks(&self, list: &GtidList) -> GtidList {
        let lacking = list.0.iter().filter(|(domain, (server_id, sequence))| {
            let last = self.0.get(&(**domain, *server_id));
            last.is_none_or(|last| last < sequence)
        });
        GtidList(lacking.map(|(domain, last)| (*domain, *last)).collect())
    }
}

impl FromStr for GtidState {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let by_server = |(domain, server_id, sequence)| ((domain, server_id), sequence);
        transactions(text)
            .map(|one| one.map(by_server))
            .collect::<Result<_>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4f11fa47-71ca-11e1-9e33-c80aa9429562";

    fn set(text: &str) -> GtidSet {
        text.replace('A', A).replace('B', B).parse().expect(text)
    }

    #[track_caller]
    fn check(set: &GtidSet, text: &str) {
        assert_eq!(set.to_string(), text.replace('A', A).replace('B', B));
    }

    #[test]
    fn text_becomes_canonical() {
        for (given, canonical) in [
            ("", ""),
            ("A:1", "A:1"),
            ("A:1-5:7", "A:1-5:7"),
            ("B:3,\nA:1-3", "A:1-3,B:3"),
            (" A : 5 - 7 : 1-2 : 3 , ", "A:1-3:5-7"),
            ("A:1-3,A:4", "A:1-4"),
            ("A:5-1", ""),
            ("A:10-20:1-15:30:21", "A:1-21:30"),
            ("A:1:tag:2", "A:1:tag:2"),
            ("A:Tag_1:2-3:1,A:7", "A:7:tag_1:1-3"),
            ("A:b:1:a:1:5,B:c:9", "A:a:1:5:b:1,B:c:9"),
        ] {
            check(&set(given), canonical);
            check(&set(&set(given).to_string()), canonical);
        }
        let upper = format!("{}:1", A.to_uppercase());
        assert_eq!(set("A:1"), upper.parse().expect("upper case"));
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in [
            "A:0",
            "A:x-1",
            "A:1-",
            "A::1",
            "nonsense:1",
            "A:1-9223372036854775807",
            "A:tag-1:1",
            "A:a23456789012345678901234567890123:1",
            "0-1-5",
        ] {
            let text = text.replace('A', A);
            assert!(text.parse::<GtidSet>().is_err(), "{text}");
        }
        for text in ["1-2", "1", "a-b-c", "1-2-", "-1-2-3", "1-2-3-4", "4294967296-1-1"] {
            assert!(text.parse::<GtidList>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_encoding_has_tags_only_where_there_are_any() {
        assert_eq!(GtidSet::new().encode(), [0; 8]);
        let uuid = Uuid::parse_str(A).expect("uuid").into_bytes();
        let plain = set("A:1-4:9").encode();
        let numbers = [2u64, 1, 5, 9, 10].map(u64::to_le_bytes).concat();
        assert_eq!(plain, [&1u64.to_le_bytes()[..], &uuid, &numbers].concat());
        let tagged = set("A:1:ab:1").encode();
        let numbers = [1u64, 1, 2].map(u64::to_le_bytes).concat();
        let head = [1, 2, 0, 0, 0, 0, 0, 1];
        let expected = [&head[..], &uuid, &[0], &numbers, &uuid, &[4], b"ab", &numbers].concat();
        assert_eq!(tagged, expected);
    }

    #[test]
    fn a_tag_is_another_origin() {
        let uuid = Uuid::parse_str(A).expect("uuid").into_bytes();
        let tagged = Origin::tagged(uuid, "Tag").expect("tag");
        let mut both = GtidSet::new();
        both.add(&Origin::new(uuid), 4);
        both.add(&tagged, 4);
        both.add(&tagged, 0);
        check(&both, "A:4:tag:4");
        assert!(both.contains(&tagged, 4) && !both.contains(&tagged, 5));
        assert!(!set("A:4").contains_set(&both) && both.contains_set(&set("A:4")));
        assert!(Origin::tagged(uuid, "1x").is_err());
    }

    /// xorshift64*, so that a failure comes again.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
        }
    }

    type Naive = BTreeSet<(Origin, u64)>;

    fn origins() -> [Origin; 3] {
        [
            Origin::new([1; 16]),
            Origin::tagged([1; 16], "t").expect("tag"),
            Origin::new([2; 16]),
        ]
    }

    fn random_set(random: &mut Random) -> (GtidSet, Naive) {
        let (mut set, mut naive) = (GtidSet::new(), Naive::new());
        let origins = origins();
        for _ in 0..random.below(60) {
            let origin = &origins[random.below(3) as usize];
            let number = 1 + random.below(40);
            set.add(origin, number);
            naive.insert((origin.clone(), number));
        }
        (set, naive)
    }

    fn flat(set: &GtidSet) -> Naive {
        let numbers = set
            .0
            .iter()
            .flat_map(|(origin, intervals)| intervals.0.iter().map(move |i| (origin, *i)));
        numbers
            .flat_map(|(origin, i)| (i.start..i.end).map(move |n| (origin.clone(), n)))
            .collect()
    }

    /// Sorted, disjoint, not adjacent, nothing empty.
    fn canonical(set: &GtidSet) -> bool {
        set.0.values().all(|intervals| {
            !intervals.0.is_empty()
                && intervals.0.iter().all(|i| i.start < i.end)
                && intervals.0.windows(2).all(|pair| pair[0].end < pair[1].start)
        })
    }

    #[test]
    fn sets_agree_with_naive_ones() {
        let mut random = Random(42);
        for _ in 0..3000 {
            let (a, naive_a) = random_set(&mut random);
            let (b, naive_b) = random_set(&mut random);
            let mut union = a.clone();
            union.union(&b);
            let (both, rest) = (a.intersect(&b), a.subtract(&b));
            for (found, expected) in [
                (&a, naive_a.clone()),
                (&union, &naive_a | &naive_b),
                (&both, &naive_a & &naive_b),
                (&rest, &naive_a - &naive_b),
            ] {
                assert!(canonical(found), "{found}");
                assert_eq!(flat(found), expected, "{a} and {b}");
                assert_eq!(found.len(), expected.len() as u64);
                assert_eq!(&found.to_string().parse::<GtidSet>().expect("text"), found);
            }
            assert_eq!(a.contains_set(&b), naive_b.is_subset(&naive_a));
            assert!(union.contains_set(&a) && a.contains_set(&both));
            for origin in origins() {
                for number in 0..45 {
                    let expected = naive_a.contains(&(origin.clone(), number));
                    assert_eq!(a.contains(&origin, number), expected);
                }
            }
        }
    }

    #[test]
    fn lists_compare_by_sequence_number() {
        let list = |text: &str| text.parse::<GtidList>().expect(text);
        assert_eq!(list(" 1-2-7 , 0-1-5,").to_string(), "0-1-5,1-2-7");
        assert_eq!(list("0-1-5,0-2-9,0-3-6").to_string(), "0-2-9");
        assert!(list("").is_empty() && list("0-1-5").covers(&list("")));
        assert!(list("0-1-5,1-2-7").covers(&list("0-9-5")));
        assert!(!list("0-1-5").covers(&list("0-1-6")));
        assert!(!list("0-1-5").covers(&list("1-1-1")));
        let state: GtidState = "0-1-5,0-2-9,1-1-1".parse().expect("a state");
        for (own, lacking) in [
            ("0-1-5", ""),
            ("0-2-9,1-1-1", ""),
            ("0-1-6", "0-1-6"),
            ("0-3-4,1-1-1", "0-3-4"),
            ("0-2-8,2-1-1", "2-1-1"),
        ] {
            assert_eq!(state.lacks(&list(own)).to_string(), lacking, "{own}");
        }
    }
}
