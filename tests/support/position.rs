//! Places in a source's log, as the source and `tributary status` tell them.

use std::collections::HashMap;

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Position {
    /// Before everything.
    #[default]
    Start,
    Lsn(u64),
    Binlog(Binlog),
    Cluster(Cluster),
}

/// `gtids@server:file:offset`
#[derive(Clone, Debug, PartialEq)]
pub struct Binlog {
    pub gtids: String,
    pub server: String,
    /// The number of the file, and the offset in it.
    pub place: (u64, u64),
}

/// `seconds.increment+token` of MongoDB: all of that cluster time. With `-`, of that time only what is up to the token.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub time: (u64, u64),
    pub whole: bool,
    pub token: String,
}

impl Position {
    pub fn parse(text: &str) -> Self {
        if let Some((gtids, place)) = text.rsplit_once('@') {
            let parts: Vec<_> = place.split(':').collect();
            let [server, file, offset] = parts[..] else {
                panic!("a binlog position: {text}")
            };
            return Position::Binlog(Binlog::new(gtids, server, file, offset));
        }
        let Some((high, low)) = text.split_once('/') else {
            return Position::Cluster(Cluster::parse(text));
        };
        Position::Lsn(u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap())
    }

    /// From what MySQL's `SHOW BINARY LOG STATUS` prints, or MariaDB's `SHOW MASTER STATUS` with `@@gtid_binlog_pos`.
    pub fn of_binlog(server: &str, status: &str, gtids: Option<&str>) -> Self {
        let fields: Vec<_> = status.split('\t').collect();
        let gtids = gtids.unwrap_or(fields.get(4).copied().unwrap_or_default());
        Position::Binlog(Binlog::new(gtids, server, fields[0], fields[1]))
    }

    /// Everything up to `other` lies at or before `self`.
    pub fn covers(&self, other: &Position) -> bool {
        match (self, other) {
            (_, Position::Start) => true,
            (Position::Lsn(own), Position::Lsn(other)) => own >= other,
            (Position::Binlog(own), Position::Binlog(other)) if own.server == other.server => own.place >= other.place,
            (Position::Binlog(own), Position::Binlog(other)) => own.contains(other),
            (Position::Cluster(own), Position::Cluster(other)) => own.contains(other),
            _ => false,
        }
    }

    /// The GTIDs of a binlog position.
    pub fn gtids(&self) -> &str {
        match self {
            Position::Binlog(binlog) => &binlog.gtids,
            other => panic!("{other:?} has no GTIDs"),
        }
    }
}

impl Cluster {
    /// What the server tells has no sign, and all of that time lies before it.
    fn parse(text: &str) -> Self {
        let sign = text.find(['+', '-']).unwrap_or(text.len());
        let (time, rest) = text.split_at(sign);
        let (seconds, increment) = time
            .split_once('.')
            .unwrap_or_else(|| panic!("a position of MongoDB: {text}"));
        Cluster {
            time: (seconds.parse().unwrap(), increment.parse().unwrap()),
            whole: !rest.starts_with('-'),
            token: rest.chars().skip(1).collect(),
        }
    }

    fn contains(&self, other: &Cluster) -> bool {
        match self.time == other.time && !self.whole {
            true => !other.whole && self.token >= other.token,
            false => self.time >= other.time,
        }
    }
}

impl Binlog {
    fn new(gtids: &str, server: &str, file: &str, offset: &str) -> Self {
        let (_, number) = file.rsplit_once('.').unwrap();
        Binlog {
            gtids: gtids.replace(['\n', ' '], "").replace("\\n", ""),
            server: server.to_owned(),
            place: (number.parse().unwrap(), offset.parse().unwrap()),
        }
    }

    /// All transactions of `other` are among these, by their GTIDs.
    fn contains(&self, other: &Binlog) -> bool {
        // MySQL names its servers by UUID, MariaDB by number.
        if !self.server.contains('-') {
            let (own, other) = (last_of_domains(&self.gtids), last_of_domains(&other.gtids));
            return other.iter().all(|(domain, last)| own.get(domain) >= Some(last));
        }
        let own = intervals(&self.gtids);
        intervals(&other.gtids).iter().all(|(name, from, to)| {
            own.iter()
                .any(|(of, start, end)| of == name && start <= from && end >= to)
        })
    }
}

/// `0-1-7,1-1-3` → the last sequence number of each domain.
fn last_of_domains(gtids: &str) -> HashMap<u32, u64> {
    let parse = |gtid: &str| {
        let parts: Vec<_> = gtid.split('-').collect();
        (parts[0].parse().unwrap(), parts[2].parse().unwrap())
    };
    gtids.split(',').filter(|gtid| !gtid.is_empty()).map(parse).collect()
}

/// `uuid:1-5:7:tag:1-2,…` → who, from, to.
fn intervals(gtids: &str) -> Vec<(String, u64, u64)> {
    let mut found = vec![];
    for source in gtids.split(',').filter(|source| !source.is_empty()) {
        let (uuid, rest) = source.split_once(':').unwrap();
        let mut name = uuid.to_owned();
        for part in rest.split(':') {
            match part.starts_with(|c: char| c.is_ascii_digit()) {
                true => {
                    let (from, to) = part.split_once('-').unwrap_or((part, part));
                    found.push((name.clone(), from.parse().unwrap(), to.parse().unwrap()));
                }
                false => name = format!("{uuid}:{part}"),
            }
        }
    }
    found
}
