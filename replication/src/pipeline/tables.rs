//! The set of tables, while the stream runs: which come, which go, which
//! change their columns and which are copied anew.
//!
//! ```text
//! new ─────────────► create ─► snapshot ─► stream ─┬─ gone, excluded ─► marked, kept
//!                                                  ├─ columns changed ─► evolve, go on
//!                                                  └─ copy needed ─► marked ─► copy beside it ─► REPLACE
//! ```
//!
//! A table that can't go on as it is, is closed: what its writer was given is
//! finished, its record says why, and only then the slot may pass what it
//! missed. A copy begins at the log's end of that time.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::apply::{Apply, Open, Route};
use super::budget::shown_bytes;
use super::gaps;
use super::snapshotter::{Halt, Task};
use super::upkeep::Upkeep;
use super::watch::Seen;
use super::writer::{Command, Writer};
use crate::config::{Merge, Mode, OnGap, OnWalBudget, TableConfig};
use crate::error::{Class, Error, Result};
use crate::failpoint;
use crate::lake::{DeltaTable, Lake, Opened, Shape, State, TableRecord, reserved_column, table_path};
use crate::metrics::Trouble;
use crate::partition::PartitionBy;
use crate::position::Position;
use crate::schema::TableId;
use crate::source::{
    ChangeStream, Discovery, Judgement, LOCKED, Look, Membership, Part, Source, SourceTable, Verdict, WENT_AWAY,
};

/// Why a table is copied that a request names.
const ASKED: &str = "a new snapshot was asked for";
/// Why one is that has another relation under its name.
const REMADE: &str = "it was dropped and made anew at the source";

/// The code of the error that a new table can't be followed as it is configured.
const UNFIT: &str = "unfit";

/// A table that is about to be followed.
pub struct Entry<T> {
    pub table: T,
    /// As it is in the lake.
    pub opened: Option<Opened>,
    /// What is gathered to replace its content.
    pub copy: Option<Opened>,
    /// Why it has to be copied, if that is known already.
    pub why: Option<String>,
}

impl<T: SourceTable> Entry<T> {
    /// What is followed: the copy, if one is gathered.
    pub fn record(&self) -> Option<&TableRecord> {
        let opened = self.copy.as_ref().or(self.opened.as_ref());
        opened.map(|opened| &opened.record)
    }

    /// Whether it is left as it is until somebody asks for a new snapshot.
    pub fn is_given_up(&self) -> bool {
        let given_up = self.opened.as_ref().is_some_and(|opened| opened.record.is_given_up());
        given_up && self.why.is_none()
    }

    pub async fn read(lake: &Lake, table: T, pipeline: &str) -> Result<Self> {
        let folder = table_path(table.id());
        let opened = Opened::read(lake.log(&folder)?, pipeline).await?;
        // A copy that can't be read is begun anew.
        let copy = match &opened {
            Some(opened) => lake.copy_of(&folder, &opened.record).await,
            None => None,
        };
        Ok(Self {
            table,
            opened,
            copy,
            why: None,
        })
    }

    /// Takes on a request for a new snapshot, if the table is among those asked
    /// for. One that is being copied is as new as can be.
    pub fn ask(&mut self, asked: &HashSet<&String>) {
        let settled = self
            .opened
            .as_ref()
            .is_some_and(|o| !matches!(o.record.state, State::Snapshotting | State::Resnapshotting));
        if settled && asked.contains(&self.table.id().to_string()) {
            self.why.get_or_insert_with(|| ASKED.to_owned());
        }
    }

    /// Records that the table has to be copied, so that a kill can't make it
    /// forgotten.
    pub async fn remember_why(&mut self) -> Result<()> {
        let (Some(opened), Some(why)) = (&mut self.opened, &self.why) else {
            return Ok(());
        };
        if opened.record.state == State::Resnapshotting && opened.record.copy.is_none() {
            return Ok(());
        }
        opened
            .mark("RESNAPSHOT", |record| {
                record.state = State::Resnapshotting;
                record.reason = Some(why.clone());
                record.given_up = false;
                record.copy = None;
            })
            .await
    }
}

/// A table keeps how its rows change: features never go.
fn merge_fits(merge: Merge, opened: &Opened) -> Result<()> {
    if opened.shape.mode.is_history() {
        return Ok(());
    }
    let (is, name) = match opened.shape.has_vectors() {
        true => (Merge::DeletionVectors, "deletion-vectors"),
        false => (Merge::CopyOnWrite, "copy-on-write"),
    };
    if merge == is {
        return Ok(());
    }
    let table = &opened.record.table;
    Err(
        Error::operator(format!("the lake table of {table} was made with merge = \"{name}\""))
            .with_hint("set it back, or move the table's folder away and run again: it is copied anew"),
    )
}

/// Whether a table is to have a change data feed. Errors: it can't have one.
fn feed_of(config: &TableConfig, table: &impl SourceTable) -> Result<bool> {
    match reserved_column(table.schema()).filter(|_| config.change_data_feed) {
        Some(column) => Err(Error::operator(format!(
            "{} has a column {column}, so it can't have a change data feed: the feed's readers add a column of that name",
            table.id()
        ))
        .with_hint("exclude or rename the column, or set change_data_feed = false for the table")),
        None => Ok(config.change_data_feed),
    }
}

/// Whether a table can be partitioned as it is configured, and is if it is in the
/// lake. Errors: names the table, and the column.
/// What the source does not know yet, can't be told yet.
pub fn partitions_fit<S: Source>(by: &[PartitionBy], table: &S::Table, opened: Option<&Opened>) -> Result<()> {
    let schema = S::KNOWS_COLUMNS.then(|| table.schema().as_ref());
    match opened {
        Some(opened) => opened.shape.partitions_fit(by, &opened.record.table, schema),
        None if schema.is_none() => Ok(()),
        None => Shape::new(table.schema(), &table.origin())
            .partitioned(by, table.schema())
            .map(|_| ())
            .map_err(|error| error.within(table.id())),
    }
}

/// Whether a table can be followed as it is configured. Errors: names what can't be.
pub fn fits<S: Source>(config: &TableConfig, table: &S::Table, opened: Option<&Opened>) -> Result<()> {
    feed_of(config, table)?;
    layout_fits::<S>(config, table, opened)
}

/// The same for what never changes of a table that is in the lake.
fn layout_fits<S: Source>(config: &TableConfig, table: &S::Table, opened: Option<&Opened>) -> Result<()> {
    if let Some(opened) = opened {
        merge_fits(config.merge, opened)?;
        mode_fits(config.mode, opened)?;
    }
    partitions_fit::<S>(&config.partition_by, table, opened)
}

/// A table keeps its mode: its files have the columns of it.
fn mode_fits(mode: Mode, opened: &Opened) -> Result<()> {
    let is = opened.shape.mode;
    if mode == is {
        return Ok(());
    }
    let table = &opened.record.table;
    Err(Error::operator(format!(
        "the lake table of {table} was made with mode = {:?}",
        is.as_str()
    ))
    .with_hint(
        "set it back, or move the table's folder away and run again: it is copied anew, without what was deleted",
    ))
}

/// What happens to a closed table once its writer has finished.
pub enum Ending {
    /// It stays as it is, in a state that says why.
    Mark(State, String),
    /// It is copied anew, as the relation that it is now.
    Copy { relation: u32, reason: String },
    /// Its changes are lost, for this reason; the run goes on without it.
    GiveUp(String),
}

/// A table that was given up, as it is shown.
pub struct GivenUp {
    pub watermark: Position,
    pub version: Option<u64>,
    pub trouble: Trouble,
}

impl GivenUp {
    pub fn new(opened: &Opened) -> Self {
        let record = &opened.record;
        Self {
            watermark: record.watermark.clone(),
            version: Some(opened.version()),
            trouble: Trouble {
                hint: Some(format!("`tributary snapshot {}` copies it anew", record.table)),
                ..Trouble::told(record.reason.as_deref().unwrap_or_default())
            },
        }
    }
}

impl<S: Source> Apply<S> {
    /// Follows a table from now on: creates it, goes on with it, or begins or
    /// goes on to copy it anew. Its place in the publication is noted already.
    pub async fn enter(&mut self, entry: Entry<S::Table>, place: String) -> Result<()> {
        let Entry {
            table,
            opened,
            copy,
            why,
        } = entry;
        let config = self.config_of(table.id());
        let Some(opened) = opened else {
            let Some((table, record)) = self.new_record(table).await? else {
                // The next look says what has become of it.
                return Ok(());
            };
            let feed = feed_of(&config, &table).map_err(|error| error.with_code(UNFIT))?;
            let shape = Shape::new(table.schema(), &table.origin())
                .with_mode(config.mode)
                .with_feed(feed);
            let partitioned = shape.partitioned(&config.partition_by, table.schema());
            let mut shape = partitioned.map_err(|error| error.within(table.id()).with_code(UNFIT))?;
            if config.merge == Merge::CopyOnWrite {
                shape = shape.without_vectors();
            }
            info!(table = %table.id(), "creating lake table");
            let log = self.lake.table(table.id())?;
            let mut lake_table = DeltaTable::create(log, table.schema().clone(), shape, record).await?;
            lake_table.open_index(self.lake.indexes()).await?;
            return self.follow(Arc::new(table), lake_table, place);
        };
        layout_fits::<S>(&config, &table, Some(&opened))?;
        let record = &opened.record;
        let why = match record.state {
            _ if why.is_some() => why,
            _ if record.relation != table.relation() && copy.is_none() => Some(REMADE.to_owned()),
            state if state.is_live() => self.source.reason_to_copy(&table, &opened.shape),
            State::Dropped => Some("it is at the source again".to_owned()),
            State::Excluded => Some("it is selected again".to_owned()),
            State::Stalled => Some("it can be replicated again".to_owned()),
            State::Resnapshotting => return self.resume_copy(table, opened, copy, place).await,
            _ => record.reason.clone(),
        };
        let reason = match why {
            Some(reason) => reason,
            None => match self.source.as_recorded(&table, &opened.shape)? {
                Some(recorded) => {
                    let lake_table = self.ready(&recorded, opened).await?;
                    return self.follow(Arc::new(recorded), lake_table, place);
                }
                None => "the types of its columns are not known any more".to_owned(),
            },
        };
        self.begin_copy(table, opened, copy, reason, place).await
    }

    fn config_of(&self, id: &TableId) -> TableConfig {
        self.config.borrow().table(id)
    }

    /// Whether a table that is followed has a feed: where it can't, it goes on without.
    fn feed_if_fit(&self, table: &S::Table) -> bool {
        feed_of(&self.config_of(table.id()), table).unwrap_or_else(|error| {
            error!(table = %table.id(), %error, hint = error.hint(), "the table has no change data feed");
            false
        })
    }

    /// The record of a table that needs no change from before now, with the
    /// table as it is now; `None` if it is gone.
    async fn new_record(&mut self, table: S::Table) -> Result<Option<(S::Table, TableRecord)>> {
        let Some((table, watermark)) = self.source.begin(table).await? else {
            return Ok(None);
        };
        let (pipeline, name) = (self.pipeline.clone(), table.id().to_string());
        let record = TableRecord::new(pipeline, name, table.relation(), self.epoch, watermark);
        Ok(Some((table, record)))
    }

    /// Indexes a table and claims it for this epoch.
    async fn ready(&self, table: &S::Table, opened: Opened) -> Result<DeltaTable> {
        let started = Instant::now();
        let mut lake_table = DeltaTable::new(table.schema().clone(), opened);
        let indexed = lake_table.prepare(self.lake.indexes()).await?;
        lake_table.set_feed(self.feed_if_fit(table));
        let epoch = self.epoch;
        lake_table.commit("CLAIM", |record| record.epoch = epoch).await?;
        info!(table = %table.id(), rows = lake_table.rows(), indexed, watermark = %lake_table.record().watermark, index_bytes = lake_table.bytes(),
            elapsed_ms = started.elapsed().as_millis() as u64, "opened lake table");
        Ok(lake_table)
    }

    /// Goes on with a copy where an earlier run left it, if it still fits.
    async fn resume_copy(
        &mut self,
        table: S::Table,
        mut opened: Opened,
        copy: Option<Opened>,
        place: String,
    ) -> Result<()> {
        let reason = opened.record.reason.clone().unwrap_or_default();
        let fits = |copy: &&Opened| {
            copy.record.relation == table.relation()
                && copy.record.state.is_live()
                && copy.record.copy.is_none()
                && self.source.reason_to_copy(&table, &copy.shape).is_none()
        };
        let recorded = match copy.as_ref().filter(fits) {
            Some(copy) => self.source.as_recorded(&table, &copy.shape)?,
            None => None,
        };
        let (recorded, copy) = match (recorded, copy) {
            (Some(recorded), Some(copy)) => (recorded, copy),
            (_, unfit) => return self.begin_copy(table, opened, unfit, reason, place).await,
        };
        let epoch = self.epoch;
        opened.mark("CLAIM", |record| record.epoch = epoch).await?;
        let lake_table = self.ready(&recorded, copy).await?.replacing(opened);
        self.follow(Arc::new(recorded), lake_table, place)
    }

    /// Keeps what a log that goes knows of where the slot may be. Where the
    /// lake's record is the slot, it stays: others may not be as far.
    async fn know(&mut self, position: &Position) -> Result<()> {
        if S::KEEPS_POSITION {
            self.control.know(position.clone()).await?;
        }
        Ok(())
    }

    /// Begins to gather new content for a table. Readers keep the old one.
    async fn begin_copy(
        &mut self,
        table: S::Table,
        mut opened: Opened,
        old: Option<Opened>,
        reason: String,
        place: String,
    ) -> Result<()> {
        if S::KNOWS_COLUMNS
            && let Err(error) = self.shape_of_copy(&table, &opened)
        {
            return self.stall_unpartitioned(table.id(), opened, old, error).await;
        }
        warn!(table = %table.id(), reason, "copying the table anew; readers keep its content of now until the copy is whole");
        let (epoch, copy) = (self.epoch, uuid::Uuid::new_v4().to_string());
        if let Some(old) = &old {
            self.know(&old.record.watermark).await?;
        }
        opened
            .mark("RESNAPSHOT", |record| {
                record.state = State::Resnapshotting;
                record.reason = Some(reason);
                record.given_up = false;
                record.copy = Some(copy.clone());
                record.epoch = epoch;
            })
            .await?;
        failpoint::reach("copy.marked");
        if let Some(old) = old {
            self.lake.indexes().forget(old.log.log_url());
            old.discard().await;
        }
        let Some((table, mut record)) = self.new_record(table).await? else {
            // It is on record that it has to be copied, once it is there again.
            return Ok(());
        };
        let shape = match self.shape_of_copy(&table, &opened) {
            Ok(shape) => shape,
            Err(error) => return self.stall_unpartitioned(table.id(), opened, None, error).await,
        };
        let shape = shape.with_feed(self.feed_if_fit(&table));
        record.first_sequence = opened.record.next_sequence;
        record.next_sequence = opened.record.next_sequence;
        let log = self.lake.copy(&table_path(table.id()), &copy)?;
        let mut lake_table = DeltaTable::create(log, table.schema().clone(), shape, record).await?;
        failpoint::reach("copy.created");
        lake_table.open_index(self.lake.indexes()).await?;
        self.follow(Arc::new(table), lake_table.replacing(opened), place)
    }

    /// The shape of new content for a table. Errors: it can't be partitioned as
    /// the content before was.
    fn shape_of_copy(&self, table: &S::Table, opened: &Opened) -> Result<Shape> {
        let shape = match opened.shape.mode.is_history() {
            true => {
                let remade = opened.record.relation != table.relation();
                opened.shape.continuing(table.schema(), &table.origin(), remade)
            }
            false => opened.shape.replacing(table.schema(), &table.origin()),
        };
        shape.partitioned_as(&opened.shape, &self.config_of(table.id()).partition_by, table.schema())
    }

    /// Keeps a table as it is that can't be partitioned any more; the others go on.
    async fn stall_unpartitioned(
        &mut self,
        id: &TableId,
        mut opened: Opened,
        old: Option<Opened>,
        error: Error,
    ) -> Result<()> {
        let (state, reason) = stalled_by(error)?;
        self.unfit.insert(id.clone());
        if opened.record.state != state || opened.record.reason.as_ref() != Some(&reason) {
            stop(&mut opened, self.epoch, state, &reason).await?;
        }
        if let Some(old) = old {
            self.lake.indexes().forget(old.log.log_url());
            old.discard().await;
        }
        Ok(())
    }

    fn follow(&mut self, table: Arc<S::Table>, lake_table: DeltaTable, place: String) -> Result<()> {
        let record = lake_table.record();
        let number = self.stream.add(table.clone(), record.watermark.clone());
        if number != self.routes.len() {
            return Err(Error::bug("streams and routes are out of step"));
        }
        // One command at work, and a batch and a chunk waiting.
        let (commands, receiver) = mpsc::channel(2);
        let table_source = self.source.table_source(table.clone(), self.throttle.clone());
        let snapshotting = record.state == State::Snapshotting;
        let path = self.lake.key(&table_path(table.id()));
        let size = lake_table.size();
        self.metrics
            .update(|m| m.tables.entry(table.id().clone()).or_default().size = size);
        self.routes
            .push(Route::new(table.as_ref(), commands, place, path, &lake_table));
        let writer = Writer {
            number,
            table: lake_table,
            points: Arc::new(table_source),
            commands: receiver,
            durable: self.durable_sender.clone(),
            halts: self.halt_sender.clone(),
            unreadable: false,
            plan: 0,
            upkeep: Upkeep::new(self.config.clone(), self.maintenance.clone()),
        };
        self.writers.spawn(writer.run());
        if snapshotting {
            self.copy_rows(number, None)?;
        }
        Ok(())
    }

    /// Lets the snapshotter copy what is left of a table, or of some parts.
    fn copy_rows(&mut self, number: usize, parts: Option<Vec<Part>>) -> Result<()> {
        let table = self.table(number)?;
        let table = match parts {
            Some(parts) => Arc::new(table.with_parts(parts)),
            None => table,
        };
        let source = self.source.table_source(table, self.throttle.clone());
        let route = self.route(number)?;
        let task = Task {
            number,
            id: route.id.clone(),
            source,
            format: route.format.clone(),
            encoder: route.encoder.clone(),
            progress: route.progress.clone(),
        };
        self.tasks
            .send(task)
            .map_err(|_| Error::transient("the snapshotter has ended"))
    }

    fn table(&self, number: usize) -> Result<Arc<S::Table>> {
        let table = self.stream.table(number).cloned();
        table.ok_or_else(|| Error::bug("a table that the stream doesn't have"))
    }

    /// Closes a table. The slot stays before what it will miss until its
    /// record tells.
    pub fn end(&mut self, number: usize, ending: Ending) -> Result<()> {
        let position = self.stream.position();
        self.stream.close(number);
        let route = self.route(number)?;
        route.wait();
        route.held = Some(route.pending().unwrap_or(position));
        route.ending = Some(ending);
        route.close();
        self.cuts.forget(number);
        Ok(())
    }

    /// Closes a table to copy it anew.
    pub fn copy_anew(&mut self, number: usize, reason: &str) -> Result<()> {
        let (relation, reason) = (self.route(number)?.relation, reason.to_owned());
        self.end(number, Ending::Copy { relation, reason })
    }

    /// Leaves stalled tables without which the source would keep less log than
    /// it may, if that is wanted.
    pub fn keep_budget(&mut self) -> Result<()> {
        let look = self.looks.borrow_and_update().clone();
        let (budget, action) = {
            let source = &self.config.borrow().source;
            (source.wal_budget, source.on_wal_budget)
        };
        let (Some(look), Some(budget), OnWalBudget::DropTable) = (look, budget, action) else {
            return Ok(());
        };
        let keeps = |position: &Position| position.bytes_until(&look.log_end).unwrap_or_default();
        let healthy = self.routes.iter().filter(|route| route.stalled_at.is_none());
        let others = healthy.filter_map(Route::pending).chain([self.stream.position()]);
        // While others keep as much, nothing is gained.
        if look.retained_bytes <= budget || others.into_iter().any(|position| keeps(&position) > budget) {
            return Ok(());
        }
        for number in 0..self.routes.len() {
            let route = self.route(number)?;
            let kept = route.stalled_at.as_ref().map_or(0, &keeps);
            if kept <= budget {
                continue;
            }
            let reason = format!(
                "{}; it alone kept {} of the source's log, more than source.wal_budget, and was given up",
                route.stalled_by,
                shown_bytes(kept),
            );
            error!(table = %route.id, reason, hint = "`tributary snapshot` copies it anew", "giving up the table");
            match self.on_gap() {
                OnGap::Stop => self.end(number, Ending::GiveUp(reason))?,
                OnGap::Resnapshot => self.copy_anew(number, &reason)?,
            }
        }
        Ok(())
    }

    /// A closed table's writer has finished: its record tells why, and a copy
    /// begins if need be.
    pub async fn settle(&mut self, number: usize, table: DeltaTable) -> Result<()> {
        let route = self.route(number)?;
        let id = route.id.clone();
        let Some(ending) = route.ending.take() else {
            return Err(Error::transient(format!("the writer of {id} ended early")));
        };
        let mut opened = table.retire(&self.pipeline).await?;
        let copy = self.lake.copy_of(&table_path(&id), &opened.record).await;
        let mut given_up = false;
        let (state, reason) = match ending {
            Ending::Mark(state, reason) => (state, reason),
            Ending::GiveUp(why) => {
                given_up = true;
                let watermark = &opened.record.watermark;
                let reason = format!("{why}; changes after {watermark} are lost");
                (State::NeedsSnapshot, reason)
            }
            Ending::Copy { relation, reason } => match self.publish_again(&id, relation).await? {
                Ok((now, place)) => {
                    self.begin_copy(now, opened, copy, reason, place).await?;
                    self.route(number)?.held = None;
                    return Ok(());
                }
                Err(instead) => instead,
            },
        };
        if let Some(copy) = &copy {
            self.know(&copy.record.watermark).await?;
        }
        if given_up {
            failpoint::reach("give_up");
            give_up(&mut opened, self.epoch, &reason).await?;
            failpoint::reach("give_up.marked");
        } else {
            stop(&mut opened, self.epoch, state, &reason).await?;
        }
        if let Some(copy) = copy {
            self.lake.indexes().forget(copy.log.log_url());
            copy.discard().await;
        }
        if matches!(state, State::Dropped | State::Excluded) {
            self.control.leave(table_path(&id)).await?;
        }
        let route = self.route(number)?;
        route.held = None;
        route.state = state;
        if given_up {
            self.given_up.insert(id, GivenUp::new(&opened));
            return Ok(());
        }
        if !matches!(state, State::Dropped | State::Excluded) {
            let trouble = Trouble::told(&reason);
            let id = id.clone();
            self.metrics
                .update(|m| m.tables.entry(id).or_default().trouble = Some(trouble));
        }
        if state == State::NeedsSnapshot {
            return Err(gaps::needs_snapshot(&[id.to_string()], &reason));
        }
        Ok(())
    }

    /// Looks at a table that is to be copied, and makes sure that it is
    /// published: one made anew is not where the one before was. Returns it
    /// with its place, or what becomes of it instead.
    async fn publish_again(
        &mut self,
        id: &TableId,
        relation: u32,
    ) -> Result<Result<(S::Table, String), (State, String)>> {
        let gone = || {
            let reason = "it is gone at the source, or has another name";
            (State::Dropped, reason.to_owned())
        };
        let mut tried = false;
        loop {
            let (now, place) = match self.source.look(id, relation).await? {
                Look::Table(now, place) if now.id() == id => (*now, place),
                Look::Refused(refusal) if refusal.table == *id => {
                    return Ok(Err(stalled(&refusal.reason, &refusal.hint)));
                }
                _ => return Ok(Err(gone())),
            };
            if let Some(place) = place {
                self.control
                    .enter(BTreeMap::from([(table_path(id), place.clone())]))
                    .await?;
                return Ok(Ok((now, place)));
            }
            if tried {
                return Ok(Err(gone()));
            }
            tried = true;
            let wanted = Discovery {
                tables: vec![now],
                ..Discovery::default()
            };
            match self.source.ensure_published(&wanted).await {
                Ok(()) => {}
                Err(error) if error.class() == Class::NeedsOperator => {
                    return Ok(Err(stalled(&error.to_string(), error.hint().unwrap_or_default())));
                }
                // It went away just now; the next look says so.
                Err(error) if error.code() == Some(WENT_AWAY) => return Ok(Err(gone())),
                Err(error) => return Err(error),
            }
        }
    }

    /// The stream has described a table's columns: what follows has them.
    pub async fn judge(&mut self, number: usize) -> Result<()> {
        match self.source.judge(&self.stream, number).await? {
            Judgement::Nothing => Ok(()),
            Judgement::Columns(verdict) => self.carry_out(number, verdict).await,
            Judgement::Refused(refusal) => {
                let (state, reason) = stalled(&refusal.reason, &refusal.hint);
                self.end(number, Ending::Mark(state, reason))
            }
            Judgement::Gone(reason) => {
                self.commit_open(number).await?;
                let before = self.table(number)?;
                match self.source.look(before.id(), before.relation()).await? {
                    Look::Table(now, _) if now.id() == before.id() => {
                        self.copy_anew(number, &format!("{reason}, and another one has its name"))
                    }
                    _ => self.end(number, Ending::Mark(State::Dropped, reason)),
                }
            }
        }
    }

    async fn carry_out(&mut self, number: usize, verdict: Verdict<S::Table>) -> Result<()> {
        let before = self.table(number)?;
        let (table, evolve) = match verdict {
            Verdict::Same(table) => (table, false),
            Verdict::Evolve(table) => (table, true),
            Verdict::Copy(reason) => return self.copy_anew(number, &reason),
        };
        // The name is the table's for as long as it is followed.
        let table = Arc::new(table.with_id(before.id().clone()));
        if !evolve && table.decodes_like(&before) && table.origin() == before.origin() {
            return self.stream.refresh(number, table);
        }
        let mut shape = self.route(number)?.shape.clone();
        if evolve && let Err(error) = shape.check_partitions(table.schema()) {
            let (state, reason) = stalled_by(error)?;
            return self.end(number, Ending::Mark(state, reason));
        }
        if evolve {
            let was_mapped = shape.mapped;
            shape.evolve(table.schema(), &table.origin())?;
            // A copy of a history keeps its files, so it cures neither.
            let reason = if shape.mode.is_history() {
                None
            } else if shape.is_ambiguous() {
                Some("a new column has the name of another one in its files")
            } else if shape.mapped && !was_mapped && !self.column_mapping {
                Some("a column was renamed, and lake.column_mapping is off")
            } else {
                None
            };
            if let Some(reason) = reason {
                return self.copy_anew(number, reason);
            }
            info!(table = %table.id(), columns = table.schema().columns.len(), mapped = shape.mapped, "the table's columns changed");
        }
        self.alter(number, table, shape).await
    }

    /// Tells writer and stream of the table's new form.
    async fn alter(&mut self, number: usize, table: Arc<S::Table>, shape: Shape) -> Result<()> {
        self.flush(number).await?;
        let points = Arc::new(self.source.table_source(table.clone(), self.throttle.clone()));
        let command = Command::Evolve {
            schema: table.schema().clone(),
            origin: table.origin(),
            points,
        };
        self.route(number)?.send(command).await?;
        self.stream.alter(number, table.clone())?;
        let altered = self.stream.commit_position();
        let start = self.stream.position();
        let route = self.route(number)?;
        route.format = route.format.clone().with_shape(&shape, table.schema());
        route.encoder = route.encoder.with_schema(table.schema());
        route.shape = shape;
        route.altered = Some((altered, Instant::now()));
        route.open.get_or_insert_with(|| Open::now(start));
        Ok(())
    }

    /// Hands what was gathered for a table to its writer, in the middle of a
    /// transaction if need be.
    async fn flush(&mut self, number: usize) -> Result<()> {
        if self.stream.bytes(number) == 0 {
            return Ok(());
        }
        let permits = self.permits(number);
        let permit = self.in_flight.clone().acquire_many_owned(permits).await;
        let permit = permit.map_err(|e| Error::bug("the memory budget is closed").with_source(e))?;
        let batch = self.stream.take_batch(number)?;
        self.route(number)?.send(Command::Stage(batch, permit)).await
    }

    /// Hands its writer the last changes of a table that is gone, which are of
    /// transactions before the one that tells so. What would have to be read at
    /// the source is gone as well.
    async fn commit_open(&mut self, number: usize) -> Result<()> {
        self.flush(number).await?;
        let watermark = self.stream.position();
        let route = self.route(number)?;
        if route.open.is_none() {
            return Ok(());
        }
        route.expect_commit(&watermark);
        route.send(Command::Commit { batch: None, watermark }).await?;
        self.cuts.changed = true;
        Ok(())
    }

    /// A snapshot or a writer can't go on.
    pub fn halted(&mut self, number: usize, halt: Halt) -> Result<()> {
        match halt {
            Halt::Changed => {
                self.route(number)?.paused = Some(Instant::now());
                self.look.notify_one();
                Ok(())
            }
            Halt::Failed(error) => self.stall(number, error),
            Halt::Unreadable(_) if self.route(number)?.is_closed() => Ok(()),
            Halt::Unreadable(error) => {
                let reason = format!("a change left out values that can't be read any more: {error}");
                self.copy_anew(number, &reason)
            }
        }
    }

    /// Takes on at once what need not wait for the stream: requests and new
    /// tables. The rest waits until the stream is where the look was.
    pub async fn look_ahead(&mut self, mut seen: Seen<S::Table>) -> Result<()> {
        self.requests.append(&mut seen.requests);
        let asked: HashSet<String> = self.requests.iter().flat_map(|r| r.tables.iter().cloned()).collect();
        for number in 0..self.routes.len() {
            let route = self.route(number)?;
            // One that is being copied is as new as can be.
            let settled = matches!(route.state, State::Streaming | State::CatchingUp) || route.stalled_at.is_some();
            if !asked.contains(&route.id.to_string()) {
                continue;
            }
            let relation = route.relation;
            if let Some(ending @ Ending::GiveUp(_)) = &mut route.ending {
                let reason = ASKED.to_owned();
                *ending = Ending::Copy { relation, reason };
            } else if !route.is_closed() && settled && route.since < seen.since {
                self.copy_anew(number, ASKED)?;
            }
        }
        Box::pin(self.remember_asked(&asked, &seen.discovery)).await?;
        let stays =
            |id: &TableId| self.config.borrow().source.on_gap == OnGap::Stop && !asked.contains(&id.to_string());
        self.given_up.retain(|id, _| stays(id));
        Box::pin(self.enter_new(&seen)).await?;
        // The first is kept, or a stream that lags would never come to any.
        if self.ahead.is_none() {
            self.ahead = Some(seen);
        } else {
            self.newest = Some(seen);
        }
        self.answer_requests().await
    }

    /// Records of tables that were given up that they are to be copied, for their requests are not kept until they are.
    async fn remember_asked(&self, asked: &HashSet<String>, discovery: &Discovery<S::Table>) -> Result<()> {
        for table in &discovery.tables {
            let id = table.id();
            if self.given_up.contains_key(id) && asked.contains(&id.to_string()) {
                let mut entry = Entry::read(&self.lake, table.clone(), &self.pipeline).await?;
                entry.why = Some(ASKED.to_owned());
                entry.remember_why().await?;
            }
        }
        Ok(())
    }

    /// Brings the set of tables to what the source had. The stream has told
    /// everything up to then.
    pub async fn reconcile(&mut self, seen: Seen<S::Table>) -> Result<()> {
        for number in 0..self.routes.len() {
            let route = self.route(number)?;
            // What was entered meanwhile, the catalogue's answer can't know.
            if !route.is_closed() && route.since < seen.since {
                self.reconcile_table(number, &seen).await?;
            }
        }
        self.leave_given_up(&seen.discovery).await?;
        Box::pin(self.enter_new(&seen)).await
    }

    /// Marks tables that were given up and are not to be replicated any more.
    async fn leave_given_up(&mut self, discovery: &Discovery<S::Table>) -> Result<()> {
        let there = |id: &TableId| discovery.tables.iter().any(|table| table.id() == id);
        let left: Vec<TableId> = self.given_up.keys().filter(|id| !there(id)).cloned().collect();
        for id in left {
            let folder = table_path(&id);
            let Some(mut opened) = Opened::read(self.lake.log(&folder)?, &self.pipeline).await? else {
                self.control.leave(folder).await?;
                self.given_up.remove(&id);
                continue;
            };
            let (state, reason) = gone(&opened.record.table, opened.record.relation, discovery);
            stop(&mut opened, self.epoch, state, &reason).await?;
            if state != State::Stalled {
                self.control.leave(folder).await?;
            }
            self.given_up.remove(&id);
            for route in self.routes.iter_mut().filter(|route| route.id == id) {
                route.state = state;
            }
        }
        Ok(())
    }

    async fn reconcile_table(&mut self, number: usize, seen: &Seen<S::Table>) -> Result<()> {
        let route = self.route(number)?;
        let (id, relation, place) = (route.id.clone(), route.relation, route.place.clone());
        let Some(now) = seen.discovery.tables.iter().find(|table| *table.id() == id) else {
            let (state, reason) = gone(&id.to_string(), relation, &seen.discovery);
            return self.end(number, Ending::Mark(state, reason));
        };
        if now.relation() != relation {
            let ending = Ending::Copy {
                relation: now.relation(),
                reason: REMADE.to_owned(),
            };
            return self.end(number, ending);
        }
        match S::membership(seen.discovery.places.get(&id).map(String::as_str), &place) {
            Membership::Same => {}
            Membership::Reformed => return self.copy_anew(number, gaps::REFORMED),
            Membership::Left => {
                let reason = format!("{}; changes after that are lost", gaps::LEFT);
                return match self.on_gap() {
                    OnGap::Stop => self.end(number, Ending::Mark(State::NeedsSnapshot, reason)),
                    OnGap::Resnapshot => self.copy_anew(number, &reason),
                };
            }
        }
        // The stream may have told of what the catalogue did not show yet. A commit is in the log before it is seen, and what
        // is followed was.
        let altered = self.route(number)?.altered.as_ref();
        if altered.is_some_and(|(position, at)| !seen.from.covers(position) || seen.since < *at) {
            return Ok(());
        }
        let before = self.table(number)?;
        let verdict = before.judge_now(now);
        if self.route(number)?.stalled_at.is_some() && !matches!(verdict, Verdict::Copy(_)) {
            return Ok(());
        }
        self.carry_out(number, verdict).await?;
        if !self.route(number)?.is_closed() {
            self.reconcile_parts(number, now).await?;
        }
        let route = self.route(number)?;
        if route.is_closed() {
            return Ok(());
        }
        if route.paused.is_some_and(|paused| paused <= seen.since) {
            route.paused = None;
            return self.copy_rows(number, None);
        }
        Ok(())
    }

    /// Follows what the stream doesn't tell of partitions.
    async fn reconcile_parts(&mut self, number: usize, now: &S::Table) -> Result<()> {
        let before = self.table(number)?;
        let changes = before.part_changes(now);
        if changes.gone {
            return self.copy_anew(number, "a partition was dropped or detached");
        }
        if changes.rewritten {
            return self.copy_anew(number, "a partition was truncated or rewritten");
        }
        if changes.new.is_empty() {
            return Ok(());
        }
        let filled: Vec<Part> = changes.new.into_iter().filter(|part| part.bytes > 0).collect();
        if !filled.is_empty() && self.route(number)?.state == State::Snapshotting {
            return self.copy_anew(number, "a partition was attached during its snapshot");
        }
        let table = before.with_parts_of(now);
        let shape = self.route(number)?.shape.clone();
        self.alter(number, Arc::new(table), shape).await?;
        if filled.is_empty() {
            return Ok(());
        }
        info!(table = %before.id(), partitions = filled.len(), "copying new partitions");
        let route = self.route(number)?;
        route.send(Command::Extend).await?;
        route.state = State::Snapshotting;
        route.progress = Default::default();
        self.copy_rows(number, Some(filled))
    }

    /// Follows the tables that nobody follows yet, and that were not given up.
    async fn enter_new(&mut self, seen: &Seen<S::Table>) -> Result<()> {
        let followed = |id: &TableId| {
            let by = |route: &Route| route.id == *id && (!route.is_closed() || route.ending.is_some());
            self.given_up.contains_key(id) || self.routes.iter().any(by)
        };
        let found = seen.discovery.tables.iter();
        let new: Vec<S::Table> = found.filter(|table| !followed(table.id())).cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        let patterns = self.config.borrow().source.tables.clone();
        self.source.select(patterns);
        let wanted = Discovery {
            tables: new,
            ..Discovery::default()
        };
        match self.source.ensure_published(&wanted).await {
            Ok(()) => self.unpublished = None,
            Err(error) if error.class() == Class::NeedsOperator || matches!(error.code(), Some(WENT_AWAY | LOCKED)) => {
                // Those that are published come in, the others go on; it is tried again at the next look.
                let said = format!("{error} {}", error.hint().unwrap_or_default());
                if self.unpublished.as_ref() != Some(&said) {
                    warn!(%error, hint = error.hint(), "new tables can't be replicated yet");
                    self.unpublished = Some(said);
                }
            }
            Err(error) => return Err(error),
        }
        let mut entries = Vec::new();
        let mut places = BTreeMap::new();
        for table in wanted.tables {
            if self.unpublished.is_some() && !seen.discovery.places.contains_key(table.id()) {
                continue;
            }
            // With what the publication says of it now.
            let Look::Table(table, Some(place)) = self.source.look(table.id(), table.relation()).await? else {
                continue;
            };
            if !S::KNOWS_COLUMNS && self.unfit.contains(table.id()) {
                // To look at its columns is to begin it; the next start does.
                continue;
            }
            let mut entry = Entry::read(&self.lake, *table, &self.pipeline).await?;
            let config = self.config_of(entry.table.id());
            if let Err(error) = fits::<S>(&config, &entry.table, entry.opened.as_ref()) {
                self.tell_unfit(entry.table.id(), &error);
                continue;
            }
            places.insert(table_path(entry.table.id()), place.clone());
            if entry.opened.as_ref().is_some_and(|o| o.record.state.is_live()) {
                entry.why = Some("it was not followed for a while".to_owned());
            }
            entry.remember_why().await?;
            entries.push((entry, place));
        }
        self.control.enter(places).await?;
        for (entry, place) in entries {
            let id = entry.table.id().clone();
            match self.enter(entry, place).await {
                Err(error) if error.code() == Some(UNFIT) => {
                    self.control.take_back(&table_path(&id)).await?;
                    self.tell_unfit(&id, &error);
                }
                entered => entered?,
            }
        }
        Ok(())
    }

    /// Says once that a table is not followed for how it is configured. The
    /// others go on.
    fn tell_unfit(&mut self, id: &TableId, error: &Error) {
        if self.unfit.insert(id.clone()) {
            warn!(%error, hint = error.hint(), "a new table can't be replicated yet");
        }
    }

    /// Removes requests whose tables have all been taken on.
    pub async fn answer_requests(&mut self) -> Result<()> {
        let open = |request: &crate::lake::Request| {
            let waiting = |route: &Route| route.ending.is_some() && request.tables.contains(&route.id.to_string());
            self.routes.iter().any(waiting)
        };
        let (waiting, done): (Vec<_>, Vec<_>) = std::mem::take(&mut self.requests).into_iter().partition(open);
        self.requests = waiting;
        for request in done {
            self.lake.remove_request(&request.id).await?;
        }
        Ok(())
    }
}

/// What has become of a table that is not among those to replicate any more,
/// by its name and relation.
pub fn gone<T>(table: &str, relation: u32, discovery: &Discovery<T>) -> (State, String) {
    let named = |id: &TableId| id.to_string() == table;
    match discovery.refused.iter().find(|refusal| named(&refusal.table)) {
        Some(refusal) => stalled(&refusal.reason, &refusal.hint),
        None => match discovery.names.get(&relation) {
            Some(name) if named(name) => (State::Excluded, "it is not selected any more".to_owned()),
            Some(name) => (State::Dropped, format!("it was renamed to {name} at the source")),
            None => (State::Dropped, "it was dropped at the source".to_owned()),
        },
    }
}

/// As [`stalled`], by what a person can do something about.
fn stalled_by(error: Error) -> Result<(State, String)> {
    match error.class() {
        Class::NeedsOperator => Ok(stalled(&error.to_string(), error.hint().unwrap_or_default())),
        _ => Err(error),
    }
}

fn stalled(reason: &str, hint: &str) -> (State, String) {
    (State::Stalled, format!("{reason} (hint: {hint})"))
}

/// Records why a table is not followed any more.
pub async fn stop(opened: &mut Opened, epoch: u64, state: State, reason: &str) -> Result<()> {
    warn!(
        table = opened.record.table,
        state = state.as_str(),
        reason,
        "the table is not followed any more; its lake table is kept"
    );
    opened.mark("STOP", |record| end(record, epoch, state, reason)).await
}

/// Records that a table is given up: what it misses is lost from here on.
async fn give_up(opened: &mut Opened, epoch: u64, reason: &str) -> Result<()> {
    opened
        .mark("GIVE UP", |record| {
            end(record, epoch, State::NeedsSnapshot, reason);
            record.given_up = true;
        })
        .await
}

fn end(record: &mut TableRecord, epoch: u64, state: State, reason: &str) {
    record.state = state;
    record.reason = Some(reason.to_owned());
    record.given_up = false;
    record.copy = None;
    record.epoch = epoch;
}
