//! The sources. Each turns its log into [`crate::batch::ChangeBatch`]es and
//! its tables into chunks, and tells where in its log it is.
//!
//! What every source keeps:
//! - a batch has the changes of one table in commit order, all of its schema;
//! - positions only grow, and a position is told only when every change
//!   before it has been told;
//! - nothing is confirmed to the source that the pipeline did not confirm;
//! - a value that was not sent is marked unchanged, never made up;
//! - a table that can't be decoded stalls alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{RecordBatch, StringArray};

use crate::batch::{ChangeBatch, TxId};
use crate::config::{Config, Mode};
use crate::error::{Error, Result};
use crate::lake::{Normal, Origin, PartProgress, PointReader, Shape, UNREADABLE};
use crate::position::Position;
use crate::schema::{TableId, TableSchema};

pub mod mongodb;
pub mod mysql;
pub mod postgres;
mod silence;
mod socket;
mod tls;
pub mod transformed;

/// A source as configured, with one connection for catalogue queries.
pub trait Source: Sized + Send + 'static {
    type Table: SourceTable;
    type Stream: ChangeStream<Table = Self::Table>;
    type Tables: TableSource<Table = Self::Table>;

    /// Whether the server itself keeps the confirmed position, and its log
    /// from there on. Where it doesn't, the lake's record is the position.
    const KEEPS_POSITION: bool;

    /// Whether a table's columns are known before it is begun.
    const KNOWS_COLUMNS: bool;

    fn connect(config: &Config) -> impl Future<Output = Result<Self>> + Send;

    /// Host and port, without secrets.
    fn address(&self) -> String;

    fn identify(&mut self) -> impl Future<Output = Result<Identity>> + Send;

    /// The end of the log now: everything visible now lies before.
    fn log_end(&mut self) -> impl Future<Output = Result<Position>> + Send;

    /// A position before which all is visible now.
    fn visible(&mut self) -> impl Future<Output = Result<Position>> + Send {
        self.log_end()
    }

    /// Whether the server follows another, whatever the configuration says of that.
    fn is_standby(&mut self) -> impl Future<Output = Result<bool>> + Send {
        async { Ok(false) }
    }

    /// Log between two positions, in bytes, if that can be known.
    fn log_bytes(&mut self, from: &Position, to: &Position) -> impl Future<Output = Result<Option<u64>>> + Send;

    /// Sets which tables are selected from now on.
    fn select(&mut self, patterns: Vec<String>);

    /// Reads the catalogue and sorts the selected tables into usable and refused.
    fn discover(&mut self) -> impl Future<Output = Result<Discovery<Self::Table>>> + Send;

    /// Looks at one table as it is now.
    fn look(&mut self, id: &TableId, relation: u32) -> impl Future<Output = Result<Look<Self::Table>>> + Send;

    /// A position whose changes, and all before, every later chunk of the
    /// table sees; with the table as it is there. `None` if it is gone.
    fn begin(&mut self, table: Self::Table) -> impl Future<Output = Result<Option<(Self::Table, Position)>>> + Send;

    /// A table with the columns that the lake has of it, for decoding what
    /// came before later changes. `None` if that can't be known any more.
    fn as_recorded(&self, table: &Self::Table, shape: &Shape) -> Result<Option<Self::Table>>;

    /// Why the lake's content is not what would be made of the table now,
    /// whatever its columns, if so.
    fn reason_to_copy(&self, _table: &Self::Table, _shape: &Shape) -> Option<String> {
        None
    }

    /// A table as the catalogue has it, with the lake's attribute numbers where
    /// the source has none of its own.
    fn numbered(&self, table: &Self::Table, shape: &Shape) -> Result<Self::Table>;

    /// Judges a table that the stream has described.
    fn judge(
        &mut self,
        stream: &Self::Stream,
        table: usize,
    ) -> impl Future<Output = Result<Judgement<Self::Table>>> + Send;

    /// What became of a table's place, as [`Discovery::places`] has it.
    fn membership(_now: Option<&str>, _before: &str) -> Membership {
        Membership::Same
    }

    /// Whether two places are of one publication.
    fn same_publication(_a: &str, _b: &str) -> bool {
        true
    }

    /// Looks at everything on the source's side that would fail later.
    fn check(&mut self, discovery: &Discovery<Self::Table>) -> impl Future<Output = Result<Vec<Finding>>> + Send;

    /// Like [`Source::check`], but the first thing wrong is the error.
    fn require(&mut self, discovery: &Discovery<Self::Table>) -> impl Future<Output = Result<()>> + Send {
        async {
            match self.check(discovery).await?.into_iter().find(|f| !f.ok) {
                Some(finding) => Err(finding.into_error()),
                None => Ok(()),
            }
        }
    }

    /// Whether a sidecar is connected, or was a moment ago.
    fn in_use(&mut self) -> impl Future<Output = Result<bool>> + Send;

    /// What the server keeps for us. Errors: it is not ours to use.
    fn slot(&mut self) -> impl Future<Output = Result<Option<Slot>>> + Send {
        async { Ok(None) }
    }

    /// The same, of a position that the lake keeps; [`Source::lost`] tells the rest.
    fn slot_at(&mut self, confirmed: &Position) -> impl Future<Output = Result<Option<Slot>>> + Send;

    /// Why the log does not have all that comes after a position that the lake
    /// keeps, if so.
    fn lost(&mut self, confirmed: &Position) -> impl Future<Output = Result<Option<String>>> + Send;

    /// Of each table's watermark, why it is not of the source's history, if so.
    /// They were reached on `timeline` at the latest, where the source has such, or since then on the standby `server`.
    fn foreign(
        &mut self,
        watermarks: &[Position],
        timeline: u32,
        server: Option<&str>,
    ) -> impl Future<Output = Result<Vec<Option<String>>>> + Send;

    /// Returns the position where the log begins.
    fn create_slot(&mut self) -> impl Future<Output = Result<Position>> + Send;

    /// Drops a slot that is of no use any more.
    fn drop_slot(&mut self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Makes sure that the stream will have all the tables.
    fn ensure_published(&mut self, _: &Discovery<Self::Table>) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    fn stream(&self, from: &Position) -> impl Future<Output = Result<Self::Stream>> + Send;

    /// A factory of connections for snapshots and point reads of one table.
    fn table_source(&self, table: Arc<Self::Table>, throttle: Arc<Throttle>) -> Self::Tables;
}

/// A table that can be replicated.
pub trait SourceTable: Clone + Debug + Send + Sync + 'static {
    fn id(&self) -> &TableId;
    /// What identifies it at the source whatever its name.
    fn relation(&self) -> u32;
    fn schema(&self) -> &Arc<TableSchema>;
    /// Where its rows lie.
    fn parts(&self) -> &[Part];
    /// What the lake is to remember of it beside the columns.
    fn origin(&self) -> Origin;
    fn with_id(self, id: TableId) -> Self;
    fn with_parts(&self, parts: Vec<Part>) -> Self;
    /// The table with columns, by attribute, of which nobody wants the values:
    /// in changes they are NULL, and rows that are read do not have them.
    fn without_values(self, _columns: BTreeSet<i32>) -> Self {
        self
    }
    /// The table as a lake keeps it, which may need more than the changes themselves.
    fn with_mode(self, mode: Mode) -> Self;
    /// Whether changes of both are decoded the same way.
    fn decodes_like(&self, other: &Self) -> bool;
    /// Judges the columns that the catalogue has now. The stream must have
    /// told everything up to then.
    fn judge_now(&self, now: &Self) -> Verdict<Self>;
    /// Its parts that are not those of the rows in the lake.
    fn part_changes(&self, _now: &Self) -> PartChanges {
        PartChanges::default()
    }
    /// The table with the parts that another reading of it has.
    fn with_parts_of(&self, now: &Self) -> Self {
        self.with_parts(now.parts().to_vec())
    }
    /// Whether other rows or values are meant than by another reading of it.
    fn differs(&self, other: &Self) -> bool;
    /// What brings rows that mean the same to one form, where there are several.
    fn normal(&self) -> Option<Normal> {
        None
    }
}

/// The replication stream: changes of each table gathered in Arrow builders,
/// positions out.
pub trait ChangeStream: Send + 'static {
    type Table: SourceTable;

    /// Follows a table from its watermark on: what is told before, it has.
    /// Returns its number.
    fn add(&mut self, table: Arc<Self::Table>, watermark: Position) -> usize;

    /// Stops following a table. What was gathered for it is gone.
    fn close(&mut self, table: usize);

    /// Keeps a table, but gives it no more changes.
    fn stall(&mut self, table: usize);

    /// Takes what is newly known of a table whose changes are decoded as before.
    fn refresh(&mut self, table: usize, source: Arc<Self::Table>) -> Result<()>;

    /// The table as its changes are decoded.
    fn table(&self, table: usize) -> Option<&Arc<Self::Table>>;

    /// Decodes a table's changes in another form from here on. Its batch has
    /// to be taken before.
    fn alter(&mut self, table: usize, source: Arc<Self::Table>) -> Result<()>;

    /// Every transaction that ends at or before this has been told.
    fn position(&self) -> Position;

    /// The commit of the open transaction, or else the position.
    fn commit_position(&self) -> Position;

    /// When what was told last was committed at the source, in microseconds
    /// since 1970, as far as the log tells times.
    fn committed_at(&self) -> Option<i64>;

    fn in_transaction(&self) -> bool;

    /// Bytes gathered for all tables.
    fn open_bytes(&self) -> usize;

    /// Bytes gathered for a table.
    fn bytes(&self, table: usize) -> usize;

    /// What transactions that are open take on the local disk.
    fn spilled_bytes(&self) -> u64 {
        0
    }

    /// Whether what is read now lies here already: what the server says meanwhile is not heard.
    fn is_deaf(&self) -> bool {
        false
    }

    /// Reads from the socket once. Safe to cancel.
    fn fill(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// The next event in what has been read; `None` when that is used up.
    fn next_event(&mut self) -> Result<Option<SourceEvent>>;

    /// Takes what was gathered for a table, as one batch.
    fn take_batch(&mut self, table: usize) -> Result<ChangeBatch>;

    /// Confirms that everything up to `confirmed` is durable. `ask` makes the
    /// server tell its position at once.
    fn confirm(&mut self, confirmed: &Position, ask: bool) -> impl Future<Output = Result<()>> + Send;

    /// Ends the stream and its connection.
    fn end(&mut self) -> impl Future<Output = ()> + Send;
}

/// Connects for one table: to read chunks, and to read rows by key.
pub trait TableSource: PointReader + Clone + Send + Sync + 'static {
    type Table: SourceTable;
    type Reader: Reader;

    fn reader(&self) -> impl Future<Output = Result<Self::Reader>> + Send;
    fn table(&self) -> &Arc<Self::Table>;
    fn throttle(&self) -> &Throttle;
    /// Blocks of a part of `blocks` that make a chunk of about `bytes`.
    fn blocks_for(part: &Part, bytes: u64, blocks: u64) -> u64;
    /// Whether an error says that the table, or a column of it, is gone.
    fn is_gone(error: &Error) -> bool;

    /// Whether the server ended a read for its own sake: the same can be read again.
    fn is_conflict(_: &Error) -> bool {
        false
    }

    /// The error of a read by key, marked if no later one can do better.
    fn of_read(error: Error) -> Error {
        match Self::is_gone(&error) {
            true => error.with_code(UNREADABLE),
            false => error,
        }
    }
}

/// Reads one table, chunk by chunk or by key, each in a transaction of its own.
pub trait Reader: Send + 'static {
    /// Waits until everything that was written before the table's first
    /// watermark is visible.
    fn wait_for_writers(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Finds out what blocks there are to read; goes on with the blocks of an
    /// earlier plan where they are still good. `None` if a part is gone.
    fn plan(
        &mut self,
        parts: &[Part],
        before: &[PartProgress],
    ) -> impl Future<Output = Result<Option<Vec<PartProgress>>>> + Send;

    /// Opens a transaction over a part of the table, or over none.
    fn begin(&mut self, part: Option<(&Part, &PartProgress)>) -> impl Future<Output = Result<Begun>> + Send;

    /// Starts reading blocks `from..to` of a part in the open transaction; then
    /// call [`Reader::next_batch`] until there is none.
    fn read(&mut self, part: &Part, plan: &PartProgress, from: u64, to: u64)
    -> impl Future<Output = Result<()>> + Send;

    /// The next rows, or `None` once all are read.
    fn next_batch(&mut self) -> impl Future<Output = Result<Option<RecordBatch>>> + Send;

    /// Ends the chunk's transaction.
    fn end(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Reads rows by key with the version each of them is, in a transaction of
    /// its own. `keys` has the key columns in key order.
    fn read_versions(&mut self, keys: &RecordBatch) -> impl Future<Output = Result<RowVersions>> + Send;

    /// Waits until all is visible that the lake has at `watermark`. False if
    /// some of it was not within 30 s.
    fn wait_for_commits(&mut self, watermark: &Position) -> impl Future<Output = Result<bool>> + Send;
}

/// Who the server is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// A pipeline's name in the lake: the source, and what sets one pipeline
    /// apart from others of it.
    pub pipeline: String,
    /// The server's timeline, where it has such a thing.
    pub timeline: u32,
    /// The server itself, as long as it runs, where it is a standby.
    pub server: Option<String>,
}

/// What the source keeps for a pipeline.
#[derive(Clone, Debug)]
pub struct Slot {
    pub confirmed: Position,
    /// Whether a sidecar is connected.
    pub active: bool,
    /// Log that the server keeps from there on, in bytes.
    pub retained_bytes: u64,
    /// Why log is lost that was needed, if it is.
    pub lost: Option<String>,
}

/// A physical table.
#[derive(Clone, Debug)]
pub struct Part {
    pub id: TableId,
    pub relation: u32,
    /// What it takes at the source, in bytes.
    pub bytes: u64,
}

/// A table that was selected but can't be replicated as it is.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub table: TableId,
    pub reason: String,
    pub hint: String,
}

/// What the source has.
#[derive(Clone)]
pub struct Discovery<T> {
    pub tables: Vec<T>,
    pub refused: Vec<Refusal>,
    /// Things worth knowing that stop nothing.
    pub notes: Vec<String>,
    /// Every user table's name by relation, selected or not.
    pub names: HashMap<u32, TableId>,
    /// What identifies a table's place in what is published, as of the same
    /// moment: one that was taken out and put back has another.
    pub places: BTreeMap<TableId, String>,
}

impl<T> Default for Discovery<T> {
    fn default() -> Self {
        Self {
            tables: Vec::new(),
            refused: Vec::new(),
            notes: Vec::new(),
            names: HashMap::new(),
            places: BTreeMap::new(),
        }
    }
}

/// What became of a table's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    Same,
    /// It has another row filter or column list.
    Reformed,
    /// It is out, or was out for a while.
    Left,
}

/// What has become of one table of the source.
#[derive(Debug)]
pub enum Look<T> {
    /// With its place, if it has one.
    Table(Box<T>, Option<String>),
    Refused(Refusal),
    /// Dropped, or not selected any more.
    Gone,
}

/// What to do about a table's columns.
#[derive(Debug)]
pub enum Verdict<T> {
    /// The lake's columns stay; decoding may have to change.
    Same(T),
    /// The lake's columns change, its rows don't.
    Evolve(T),
    /// The table has to be copied, for this reason.
    Copy(String),
}

/// What a description by the stream means.
#[derive(Debug)]
pub enum Judgement<T> {
    /// Nothing.
    Nothing,
    Columns(Verdict<T>),
    Refused(Refusal),
    /// It is not there any more, for this reason.
    Gone(String),
}

/// What the stream doesn't tell of a table that is published as its root.
#[derive(Debug, Default)]
pub struct PartChanges {
    /// Some were dropped or detached.
    pub gone: bool,
    /// Some were truncated or rewritten.
    pub rewritten: bool,
    /// Created or attached.
    pub new: Vec<Part>,
}

/// Tells whether a snapshot saw a transaction. False where that isn't known.
pub type Saw = Arc<dyn Fn(TxId) -> bool + Send + Sync>;

/// How a chunk begins.
pub enum Begun {
    Chunk(ChunkStart),
    /// The table doesn't have its columns any more.
    Changed,
    /// The part's blocks are not those of the plan.
    Rewritten,
}

/// What a chunk's transaction found out before reading.
pub struct ChunkStart {
    pub saw: Saw,
    /// The stream has told everything the chunk can see once it is here.
    pub high: Position,
}

/// Rows of one snapshot of the source.
pub struct RowVersions {
    /// With the table's full schema.
    pub rows: Vec<RecordBatch>,
    /// One for each batch, one value for each row.
    pub versions: Vec<StringArray>,
    /// A position past all that the snapshot sees.
    pub high: Position,
}

/// One thing that `check` looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    pub ok: bool,
    pub what: String,
    pub hint: Option<String>,
}

impl Finding {
    pub fn ok(what: impl Into<String>) -> Self {
        Self {
            ok: true,
            what: what.into(),
            hint: None,
        }
    }

    pub fn bad(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            ok: false,
            what: what.into(),
            hint: Some(hint.into()),
        }
    }

    /// What an error says, as something to change.
    pub fn from_error(error: &Error) -> Self {
        Self {
            ok: false,
            what: error.to_string(),
            hint: error.hint().map(str::to_owned),
        }
    }

    pub fn into_error(self) -> Error {
        let error = Error::operator(self.what);
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// The code of the error that a table went away before it was published.
pub const WENT_AWAY: &str = "went away";
/// The code of the error that a table can't be published now, for others have locked it.
pub const LOCKED: &str = "locked";
/// The code of the error that transactions can't be taken while they are open: the server has to keep them until
/// their end.
pub const ONLY_WHOLE: &str = "only whole transactions";

/// How long a throttled chunk takes.
const CHUNK_SECONDS: u64 = 2;
/// What a chunk reads at least.
const CHUNK_BYTES_MIN: u64 = 256 << 10;

/// Bounds what is read from the source's tables, all readers together.
#[derive(Default)]
pub struct Throttle(Mutex<Bucket>);

#[derive(Default)]
struct Bucket {
    /// In bytes a second; none is no bound.
    limit: Option<u64>,
    /// When what was taken so far is paid for.
    paid: Option<Instant>,
}

impl Throttle {
    pub fn new(limit: Option<u64>) -> Self {
        let throttle = Self::default();
        throttle.set(limit);
        throttle
    }

    pub fn set(&self, limit: Option<u64>) {
        self.lock().limit = limit;
    }

    /// What one of several readers reads in a transaction: `most`, or less, so
    /// that a throttled transaction does not hold back vacuum for long.
    pub fn chunk_bytes(&self, most: u64, readers: usize) -> u64 {
        self.lock().limit.map_or(most, |limit| {
            let share = limit.saturating_mul(CHUNK_SECONDS) / readers.max(1) as u64;
            share.clamp(CHUNK_BYTES_MIN.min(most), most)
        })
    }

    /// Waits until these bytes may have been read.
    pub async fn take(&self, bytes: u64) {
        let pause = {
            let mut bucket = self.lock();
            let Some(limit) = bucket.limit else { return };
            let now = Instant::now();
            let start = bucket.paid.filter(|paid| *paid > now).unwrap_or(now);
            let paid = start + Duration::from_secs_f64(bytes as f64 / limit.max(1) as f64);
            bucket.paid = Some(paid);
            paid - now
        };
        tokio::time::sleep(pause).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bucket> {
        // A bucket is whole between changes, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a stream tells beside the changes it gathers.
#[derive(Debug)]
pub enum SourceEvent {
    /// A transaction begins; its changes follow.
    Begin,
    /// A change of a table was added to its open batch.
    Changed { table: usize },
    /// The transaction is complete up to here.
    Commit,
    /// Nothing lies between the last event and here.
    Heartbeat { reply_wanted: bool },
    /// A table's columns were described: to be judged before its next change.
    Described { table: usize },
    /// A table can't go on; its open batch is gone, the others are untouched.
    Stalled { table: usize, error: Error },
    /// The log has another form of a table than the lake can follow.
    Unfit { table: usize, reason: String },
}

/// Whether a table is chosen: by any pattern (none means all), and by no `!` pattern.
pub fn selected(patterns: &[String], id: &TableId) -> bool {
    let name = id.to_string();
    let mut positive = patterns.iter().filter(|p| !p.starts_with('!')).peekable();
    let chosen = positive.peek().is_none() || positive.any(|p| glob(p, &name));
    chosen
        && !patterns
            .iter()
            .filter_map(|p| p.strip_prefix('!'))
            .any(|p| glob(p, &name))
}

/// `*` is any run of characters, `?` is one.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                // The last star takes one character more.
                Some((star_p, star_t)) => {
                    star = Some((star_p, star_t + 1));
                    p = star_p + 1;
                    t = star_t + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|c| *c == '*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_and_exclude() {
        for (patterns, table, expected) in [
            (&[][..], "public.t", true),
            (&["public.*"], "public.t", true),
            (&["public.*"], "other.t", false),
            (&["!public.secret*"], "public.secrets", false),
            (&["!public.secret*"], "public.t", true),
            (&["*", "!*.log_?"], "a.log_1", false),
            (&["*", "!*.log_?"], "a.log_10", true),
            (&["*.a*b*c"], "x.aXbYbc", true),
            (&["*.a*b*c"], "x.aXbYb", false),
        ] {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            let (schema, name) = table.split_once('.').expect("two parts");
            assert_eq!(
                selected(&patterns, &TableId::new(schema, name)),
                expected,
                "{patterns:?} {table}"
            );
        }
    }
}
