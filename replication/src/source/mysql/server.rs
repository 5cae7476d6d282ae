//! What a server is, and where its log is.

use super::catalog::{text, variables};
use super::wire::{Flavor, Wire};
use crate::error::{Error, Result};
use crate::position::gtid::GtidState;
use crate::position::{BinlogPosition, Gtids, Position};
use std::sync::Arc;

/// What of a server decides how it is asked.
#[derive(Clone, Debug)]
pub struct Server {
    pub flavor: Flavor,
    pub number: (u16, u16, u16),
    /// What names it in positions: `server_uuid` of MySQL, `server_id` of MariaDB.
    pub name: String,
    pub id: u32,
    /// Whether every transaction has a GTID; always so in MariaDB.
    pub gtid_mode: bool,
    pub fold_names: bool,
    pub checksums: bool,
    /// Whether the log describes columns whole.
    pub full_metadata: bool,
    pub sql_mode: u64,
}

impl Server {
    pub async fn read(wire: &mut Wire) -> Result<Self> {
        let names = [
            "server_uuid",
            "server_id",
            "gtid_mode",
            "lower_case_table_names",
            "binlog_checksum",
            "binlog_row_metadata",
        ];
        let values = variables(wire, &names).await?;
        let value = |name: &str| values.get(name).cloned().unwrap_or_default();
        if value("lower_case_table_names") == "2" {
            return Err(
                Error::operator("lower_case_table_names is 2: the log has other names than the tables").with_hint(
                    "set it to 1 (or 0) where the server's file system allows it; it is chosen when a server is set up",
                ),
            );
        }
        let (flavor, number) = (wire.server().flavor, wire.server().number);
        Ok(Self {
            flavor,
            number,
            name: match flavor {
                Flavor::MySql => value("server_uuid"),
                Flavor::MariaDb => value("server_id"),
            },
            id: value("server_id").parse().unwrap_or(0),
            gtid_mode: flavor == Flavor::MariaDb || value("gtid_mode") == "ON",
            fold_names: value("lower_case_table_names") != "0",
            checksums: value("binlog_checksum").eq_ignore_ascii_case("CRC32"),
            full_metadata: value("binlog_row_metadata") == "FULL",
            sql_mode: 0,
        })
    }

    /// Makes sure that a new connection is to this server: a name may stand for
    /// several, and places of one mean nothing in another.
    pub async fn expect(&self, wire: &mut Wire) -> Result<()> {
        let variable = match self.flavor {
            Flavor::MySql => "SELECT @@global.server_uuid",
            Flavor::MariaDb => "SELECT @@global.server_id",
        };
        let now = wire.scalar(variable).await?;
        if now != self.name {
            return Err(Error::transient(format!(
                "a new connection was to the server {now}, where the others are to {}",
                self.name
            ))
            .with_hint("name one server in source.url, not several behind one name"));
        }
        Ok(())
    }

    /// As versioned comments count: 90704 for 9.7.4.
    pub fn version(&self) -> u32 {
        let (major, minor, patch) = self.number;
        u32::from(major) * 10_000 + u32::from(minor) * 100 + u32::from(patch)
    }

    fn status_statement(&self) -> &'static str {
        if self.flavor == Flavor::MySql && self.number >= (8, 2, 0) {
            "SHOW BINARY LOG STATUS"
        } else {
            "SHOW MASTER STATUS"
        }
    }

    pub fn replicas_statement(&self) -> &'static str {
        if self.flavor == Flavor::MySql && self.number >= (8, 0, 22) {
            "SHOW REPLICAS"
        } else {
            "SHOW SLAVE HOSTS"
        }
    }

    /// Every transaction that is visible now, as MySQL has it; what is in the
    /// log by now, as MariaDB has it.
    pub async fn gtids(&self, wire: &mut Wire) -> Result<Gtids> {
        match self.flavor {
            Flavor::MariaDb => Ok(Gtids::MariaDb(
                wire.scalar("SELECT @@global.gtid_binlog_pos").await?.parse()?,
            )),
            Flavor::MySql if self.gtid_mode => Ok(Gtids::MySql(
                wire.scalar("SELECT @@global.gtid_executed").await?.parse()?,
            )),
            Flavor::MySql => Ok(Gtids::None),
        }
    }

    /// MariaDB: the last transaction of each server and domain that the log ever had.
    pub async fn logged(&self, wire: &mut Wire) -> Result<GtidState> {
        wire.scalar("SELECT @@global.gtid_binlog_state").await?.parse()
    }

    /// Where the first event at an offset or after it begins, if the file has one.
    pub async fn event_from(&self, wire: &mut Wire, file: &str, offset: u64) -> Result<Option<u64>> {
        let file = super::wire::quote_literal(file);
        let events = format!("SHOW BINLOG EVENTS IN {file} FROM {offset} LIMIT 1");
        match wire.query(&events).await {
            Ok(rows) => Ok(rows.first().and_then(|row| text(row, 1).parse().ok())),
            // "Wrong offset or I/O error"
            Err(error) if error.code() == Some("1220") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The end of the log: everything visible now lies before.
    pub async fn log_end(&self, wire: &mut Wire) -> Result<Position> {
        let gtids = self.gtids(wire).await?;
        let rows = wire.query(self.status_statement()).await?;
        let row = rows.first().ok_or_else(|| {
            Error::operator("the server writes no binary log")
                .with_hint("set log_bin in the server's configuration, and restart it")
        })?;
        Ok(Position::Binlog(Arc::new(BinlogPosition {
            server: self.name.clone(),
            file: text(row, 0),
            offset: text(row, 1)
                .parse()
                .map_err(|_| Error::bug("expected a binlog position"))?,
            gtids,
        })))
    }

    /// Databases that the server leaves out of its log, or limits it to.
    pub async fn filters(&self, wire: &mut Wire) -> Result<Option<String>> {
        let rows = wire.query(self.status_statement()).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (only, not) = (text(row, 2), text(row, 3));
        Ok(match (only.is_empty(), not.is_empty()) {
            (true, true) => None,
            (false, _) => Some(format!("binlog-do-db limits the log to {only}")),
            (true, false) => Some(format!("binlog-ignore-db leaves {not} out of the log")),
        })
    }

    /// The files of the log with their sizes, oldest first.
    pub async fn files(&self, wire: &mut Wire) -> Result<Vec<(String, u64)>> {
        let rows = wire.query("SHOW BINARY LOGS").await?;
        Ok(rows
            .iter()
            .map(|row| (text(row, 0), text(row, 1).parse().unwrap_or(0)))
            .collect())
    }

    /// What of the log is gone: the transactions before the oldest file.
    pub async fn purged(&self, wire: &mut Wire) -> Result<Gtids> {
        match self.flavor {
            Flavor::MySql if self.gtid_mode => {
                Ok(Gtids::MySql(wire.scalar("SELECT @@global.gtid_purged").await?.parse()?))
            }
            Flavor::MySql => Ok(Gtids::None),
            Flavor::MariaDb => {
                let Some((file, _)) = self.files(wire).await?.into_iter().next() else {
                    return Ok(Gtids::MariaDb(Default::default()));
                };
                let literal = super::wire::quote_literal(&file);
                let rows = wire.query(&format!("SHOW BINLOG EVENTS IN {literal} LIMIT 4")).await?;
                let list = rows
                    .iter()
                    .find(|row| text(row, 2) == "Gtid_list")
                    .map(|row| text(row, 5));
                let list = list.unwrap_or_default();
                Ok(Gtids::MariaDb(list.trim_matches(['[', ']']).parse()?))
            }
        }
    }
}
