//! The server's replies to a cursor, batch by batch as they come off the wire,
//! and what its errors mean to us.

use std::time::Duration;

use bson::{Document, doc};
use futures::StreamExt;
use mongodb::Database;
use mongodb::error::ErrorKind;
use mongodb::options::{CursorType, RunCursorCommandOptions, SelectionCriteria};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::columns::malformed;
use super::raw::{self, Elements, Malformed, Value, tag};
use crate::error::{Error, Result};
use crate::position::ClusterTime;

/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// Codes of the server's errors. Source: MongoDB, `error_codes.yml`.
pub mod code {
    pub const UNAUTHORIZED: i32 = 13;
    pub const AUTHENTICATION_FAILED: i32 = 18;
    pub const NAMESPACE_NOT_FOUND: i32 = 26;
    pub const SNAPSHOT_TOO_OLD: i32 = 239;
    pub const COLLECTION_UUID_MISMATCH: i32 = 361;
    pub const OBJECT_TOO_LARGE: i32 = 10334;
    pub const CHANGE_STREAM_FATAL: i32 = 280;
    pub const CHANGE_STREAM_HISTORY_LOST: i32 = 286;
}

/// What an error of the driver means.
pub fn failure(what: &str, error: mongodb::error::Error) -> Error {
    let text = describe(&error);
    let message = format!("{what}: {text}");
    let own = match error.kind.as_ref() {
        ErrorKind::Command(command) => match command.code {
            code::UNAUTHORIZED => Error::operator(message)
                .with_hint("give the user the role `read` on the database, or `readAnyDatabase` on admin"),
            code::AUTHENTICATION_FAILED => wrong_credentials(message),
            code::SNAPSHOT_TOO_OLD => Error::transient(message).with_hint(
                "a chunk takes longer than the server keeps its time: raise minSnapshotHistoryWindowInSeconds, \
                 or snapshot.max_bytes_per_s",
            ),
            _ => Error::transient(message),
        }
        .with_code(command.code.to_string()),
        ErrorKind::Authentication { .. } => wrong_credentials(message),
        ErrorKind::DnsResolve { .. } => Error::transient(message).with_hint("check the host in source.url"),
        ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => {
            Error::operator(message).with_hint("see source.url: mongodb://user:password@host:27017/?replicaSet=name")
        }
        ErrorKind::ServerSelection { .. } if text.contains("Authentication") || text.contains("SCRAM") => {
            wrong_credentials(message)
        }
        ErrorKind::ServerSelection { .. } => Error::transient(message).with_hint(
            "check hosts, ports, replicaSet and TLS options in source.url, and that a member of the set is primary",
        ),
        _ => Error::transient(message),
    };
    own.with_source(error)
}

fn wrong_credentials(message: String) -> Error {
    Error::operator(message).with_hint(
        "check user, password and authSource in source.url, as in mongodb://user:password@host:27017/?authSource=admin",
    )
}

/// The error's text, without the driver's debug form around it.
fn describe(error: &mongodb::error::Error) -> String {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => format!("{} ({})", command.message, command.code_name),
        ErrorKind::Authentication { message, .. }
        | ErrorKind::ServerSelection { message, .. }
        | ErrorKind::InvalidArgument { message, .. }
        | ErrorKind::InvalidTlsConfig { message, .. }
        | ErrorKind::DnsResolve { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

/// One reply of a cursor.
pub struct Batch {
    reply: RawBatch,
    /// What is left of the documents, as a range of the reply's bytes.
    at: usize,
    end: usize,
    first_at: usize,
    /// The cursor's number, 0 after its last batch, and its namespace's second part.
    pub cursor: (i64, String),
    /// The token after the batch.
    pub token: Option<String>,
    /// The time that the cursor reads at.
    pub at_cluster_time: Option<ClusterTime>,
}

impl Batch {
    fn of(reply: RawBatch) -> raw::Result<Self> {
        let bytes = reply.as_raw_document().as_bytes();
        let cursor = raw::field(bytes, "cursor")?.ok_or(Malformed("a cursor in the reply"))?;
        let (mut at, mut end, mut token, mut at_cluster_time) = (0, 0, None, None);
        let mut own = (0, String::new());
        for element in cursor.elements()? {
            let (name, value) = element?;
            match name {
                b"firstBatch" | b"nextBatch" if value.tag == tag::ARRAY => {
                    at = value.bytes.as_ptr() as usize - bytes.as_ptr() as usize + 4;
                    end = at + value.bytes.len() - 5;
                }
                b"postBatchResumeToken" => token = token_text(value)?,
                b"id" => own.0 = value.integer().unwrap_or(0),
                b"ns" => {
                    let name = value.string().and_then(|name| name.split_once('.'));
                    own.1 = name.map_or_else(String::new, |(_, name)| name.to_owned());
                }
                b"atClusterTime" => at_cluster_time = value.timestamp().map(ClusterTime),
                _ => {}
            }
        }
        Ok(Self {
            first_at: at,
            cursor: own,
            reply,
            at,
            end,
            token,
            at_cluster_time,
        })
    }

    /// The next document, and where the one after it begins.
    pub fn peek(&self) -> Option<raw::Result<(&[u8], usize)>> {
        let bytes = self.reply.as_raw_document().as_bytes();
        let mut elements = Elements::over(bytes.get(self.at..self.end)?);
        let element = elements.next()?;
        Some(element.and_then(|(_, value)| match value.tag {
            tag::DOCUMENT => Ok((value.bytes, self.end - elements.left())),
            _ => Err(Malformed("a document in a batch")),
        }))
    }

    /// The next document; goes on to the one after it.
    pub fn document(&mut self) -> Option<Result<&[u8]>> {
        let (begin, after) = match self.peek()? {
            Ok((document, after)) => (after - document.len(), after),
            Err(error) => return Some(Err(malformed(error))),
        };
        self.at = after;
        self.reply.as_raw_document().as_bytes().get(begin..after).map(Ok)
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn go_to(&mut self, at: usize) {
        self.at = at;
    }

    pub fn was_empty(&self) -> bool {
        self.first_at == self.end
    }

    /// The documents' bytes.
    pub fn bytes(&self) -> usize {
        self.end - self.first_at
    }
}

/// A resume token as text: its `_data`, and its `_typeBits` if it has any.
pub fn token_text(token: Value<'_>) -> raw::Result<Option<String>> {
    let Some(data) = raw::field(token.bytes, "_data")?.and_then(Value::string) else {
        return Ok(None);
    };
    let bits = raw::field(token.bytes, "_typeBits")?.and_then(Value::binary);
    Ok(Some(match bits {
        Some((_, bits)) => {
            let mut text = format!("{data}~").into_bytes();
            super::json::write_hex(bits, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
        None => data.to_owned(),
    }))
}

/// A resume token from its text.
pub fn token(text: &str) -> Document {
    let Some((data, bits)) = text.split_once('~') else {
        return doc! {"_data": text};
    };
    let bytes = (0..bits.len() / 2).filter_map(|place| {
        let digits = bits.get(2 * place..2 * place + 2)?;
        u8::from_str_radix(digits, 16).ok()
    });
    let bits = bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: bytes.collect(),
    };
    doc! {"_data": data, "_typeBits": bits}
}

/// A cursor that is read by a task of its own: while one batch is worked on,
/// the next one is on its way, and no more.
pub struct Batches {
    received: mpsc::Receiver<Result<Batch>>,
    /// Until it has ended.
    task: Option<JoinHandle<()>>,
}

impl Batches {
    /// Runs a command that makes a cursor. `tail` is how long a server waits
    /// for new documents before it says that there are none.
    pub fn open(
        database: &Database,
        command: Document,
        criteria: Option<SelectionCriteria>,
        tail: Option<Duration>,
    ) -> Self {
        let (sender, received) = mpsc::channel(1);
        let database = database.clone();
        let task = tokio::spawn(async move {
            match open(&database, command, criteria, tail).await {
                Ok(cursor) => read(database, cursor, sender).await,
                Err(error) => drop(sender.send(Err(error)).await),
            }
        });
        Self {
            received,
            task: Some(task),
        }
    }

    /// The next batch; `None` after the last. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<Batch>> {
        if let Some(batch) = self.received.recv().await {
            return batch.map(Some);
        }
        let Some(task) = &mut self.task else { return Ok(None) };
        let ended = task.await;
        self.task = None;
        ended.map_err(|e| Error::bug("reading a cursor panicked").with_source(e))?;
        Ok(None)
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn open(
    database: &Database,
    command: Document,
    criteria: Option<SelectionCriteria>,
    tail: Option<Duration>,
) -> Result<RawBatchCursor> {
    let options = RunCursorCommandOptions::builder()
        .selection_criteria(criteria)
        .cursor_type(tail.map(|_| CursorType::TailableAwait))
        .max_time(tail)
        .build();
    let what = format!("cannot read from {}", database.name());
    let opening = database.run_cursor_command(command).with_options(options).batch();
    let cursor = patiently(database, opening).await?;
    cursor.map_err(|e| failure(&what, e))
}

/// Waits as long as it takes while the server is there: it may have much to
/// pass over that nobody wants.
async fn patiently<T>(database: &Database, what: impl Future<Output = T>) -> Result<T> {
    let mut what = std::pin::pin!(what);
    loop {
        if let Ok(done) = tokio::time::timeout(SILENCE, &mut what).await {
            return Ok(done);
        }
        command(database, "the server does not answer", doc! {"ping": 1}).await?;
    }
}

fn silent() -> Error {
    Error::transient(format!("the server said nothing for {} s", SILENCE.as_secs()))
}

async fn read(database: Database, mut cursor: RawBatchCursor, sender: mpsc::Sender<Result<Batch>>) {
    // A reader that is gone has no use for more.
    while let Ok(place) = sender.reserve().await {
        let batch = match patiently(&database, cursor.next()).await {
            Ok(None) => return,
            Ok(Some(Ok(reply))) => Batch::of(reply).map_err(malformed),
            Ok(Some(Err(error))) => Err(failure("the server ended a cursor", error)),
            Err(error) => Err(error),
        };
        let failed = batch.is_err();
        place.send(batch);
        if failed {
            return;
        }
    }
}

/// Reads a cursor to its end, as documents.
pub async fn all(
    database: &Database,
    command: Document,
    criteria: Option<SelectionCriteria>,
) -> Result<(Vec<Document>, Option<ClusterTime>)> {
    let mut batches = Batches::open(database, command, criteria, None);
    let (mut found, mut time) = (Vec::new(), None);
    while let Some(mut batch) = batches.next().await? {
        time = time.or(batch.at_cluster_time);
        while let Some(document) = batch.document() {
            let document = Document::from_reader(document?);
            found.push(document.map_err(|e| Error::transient("a reply can't be read").with_source(e))?);
        }
    }
    Ok((found, time))
}

/// Runs a command that has one reply.
pub async fn command(database: &Database, what: &str, command: Document) -> Result<Document> {
    let running = database.run_command(command);
    match tokio::time::timeout(SILENCE, async { running.await }).await {
        Ok(reply) => reply.map_err(|e| failure(what, e)),
        Err(_) => Err(silent()),
    }
}

/// Reads as of one time that most members have, the newest one or a given one.
pub fn snapshot_at(time: Option<ClusterTime>) -> Document {
    match time {
        Some(time) => doc! {"level": "snapshot", "atClusterTime": timestamp(time)},
        None => doc! {"level": "snapshot"},
    }
}

pub fn timestamp(time: ClusterTime) -> bson::Timestamp {
    bson::Timestamp {
        time: (time.0 >> 32) as u32,
        increment: time.0 as u32,
    }
}
