//! Rows by key with the version each of them is: what `verify` needs to tell a
//! row that is wrong in the lake from one that has changed meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};

use super::catalog::text;
use super::snapshot::Reader;
use super::types::Codec;
use super::wire::TextRow;
use crate::error::{Error, Result};
use crate::source::RowVersions;

/// Keys asked for in one statement.
const STATEMENT_KEYS: usize = 1000;
/// How long a commit may take from its record in the log until it is visible,
/// if it does not wait for a standby.
const COMMIT_TIME: Duration = Duration::from_secs(1);
/// How long a commit is waited for that waits for a standby.
const STANDBY_TIME: Duration = Duration::from_secs(30);

/// The version of a row: no two versions of a table's rows share it.
const VERSION: &str = ", tableoid::oid::text || ' ' || xmin::text || ' ' || ctid::text";

impl Reader {
    /// Reads rows by key in a transaction of its own. `keys` has the key
    /// columns in key order.
    pub(super) async fn versions(&mut self, keys: &RecordBatch) -> Result<RowVersions> {
        let columns = self.table.schema.columns.len();
        let mut fields = self.table.schema.arrow().fields().to_vec();
        fields.push(Arc::new(Field::new("version", DataType::Utf8, true)));
        let schema = Arc::new(Schema::new(fields));
        let start = self.open_by_key().await?;
        if !self.has_columns() {
            return Err(Error::transient(format!(
                "the columns of {} have changed",
                self.table.id
            )));
        }
        // Without statistics a join by hash reads the whole table.
        self.wire
            .query("SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
            .await?;
        let mut found = RowVersions {
            rows: Vec::new(),
            versions: Vec::new(),
            high: start.high,
        };
        for from in (0..keys.num_rows()).step_by(STATEMENT_KEYS) {
            let part = keys.slice(from, STATEMENT_KEYS.min(keys.num_rows() - from));
            let sql = self.key_query(&part, VERSION)?;
            let mut builders: Vec<_> = self.table.columns.iter().map(|c| c.codec.builder()).collect();
            builders.push(Codec::text().builder());
            self.copy_as(&sql, schema.clone(), builders).await?;
            while let Some(mut batch) = self.next_rows().await? {
                let versions = batch.remove_column(columns);
                found.versions.push(versions.as_string::<i32>().clone());
                found.rows.push(
                    batch
                        .with_schema(self.table.schema.arrow())
                        .map_err(|e| Error::bug("rows by key differ from their table").with_source(e))?,
                );
            }
        }
        self.close().await?;
        Ok(found)
    }

    /// Waits until all is visible that was in the log at the call. False if
    /// some of it was not within 30 s.
    ///
    /// A transaction's commit is in the log, and may be in the lake, before
    /// others can see it: for a moment, or for as long as a synchronous standby
    /// takes. Until then it holds its lock on the table.
    pub(super) async fn commits(&mut self) -> Result<bool> {
        let started = Instant::now();
        let mut waiting: Option<HashSet<(String, String)>> = None;
        let mut pause = Duration::from_millis(5);
        loop {
            let rows = self.writers().await?;
            let id = |row: &TextRow| (text(row, 0), text(row, 1));
            let now: HashSet<_> = rows.iter().map(id).collect();
            let left: HashSet<_> = match waiting {
                None => now,
                Some(before) => before.intersection(&now).cloned().collect(),
            };
            let standby = rows
                .iter()
                .any(|row| text(row, 2) == "SyncRep" && left.contains(&id(row)));
            // What is left then has not begun to commit.
            if left.is_empty() || (!standby && started.elapsed() >= COMMIT_TIME) {
                return Ok(true);
            }
            if started.elapsed() >= STANDBY_TIME {
                return Ok(false);
            }
            waiting = Some(left);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}
