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
use tracing::{info, warn};

use super::apply::{Apply, Open, Route};
use super::gaps;
use super::snapshotter::{Halt, Task};
use super::watch::Seen;
use super::writer::{Command, Writer};
use crate::config::OnGap;
use crate::error::{Class, Error, Result};
use crate::lake::{DeltaTable, Opened, Shape, State, TableRecord, table_path};
use crate::schema::TableId;
use crate::source::postgres::{Discovery, Look, Membership, Part, PublishedTable, SourceTable, Verdict, WENT_AWAY};

/// A table that is about to be followed.
pub struct Entry {
    pub table: SourceTable,
    /// As it is in the lake.
    pub opened: Option<Opened>,
    /// What is gathered to replace its content.
    pub copy: Option<Opened>,
    /// Why it has to be copied, if that is known already.
    pub why: Option<String>,
}

impl Entry {
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
                record.copy = None;
            })
            .await
    }
}

/// What happens to a closed table once its writer has finished.
pub enum Ending {
    /// It stays as it is, in a state that says why.
    Mark { state: State, reason: String },
    /// Changes are lost for it, and the operator decides.
    Gap { reason: String },
    /// It is copied anew, as the relation that it is now.
    Copy { relation: u32, reason: String },
}

impl Apply {
    /// Follows a table from now on: creates it, goes on with it, or begins or
    /// goes on to copy it anew. Its place in the publication is noted already.
    pub async fn enter(&mut self, entry: Entry, place: String) -> Result<()> {
        let Entry {
            table,
            opened,
            copy,
            why,
        } = entry;
        let Some(opened) = opened else {
            let shape = Shape::new(&table.schema, &table.origin());
            let record = self.new_record(&table).await?;
            info!(table = %table.id, "creating lake table");
            let log = self.lake.table(&table.id)?;
            let lake_table = DeltaTable::create(log, table.schema.clone(), shape, record).await?;
            return self.follow(Arc::new(table), lake_table, place);
        };
        let record = &opened.record;
        let why = match record.state {
            _ if why.is_some() => why,
            _ if record.relation != table.relation && copy.is_none() => {
                Some("it was dropped and made anew at the source".to_owned())
            }
            state if state.is_live() => None,
            State::Dropped => Some("it is at the source again".to_owned()),
            State::Excluded => Some("it is selected again".to_owned()),
            State::Stalled => Some("it can be replicated again".to_owned()),
            State::Resnapshotting => return self.resume_copy(table, opened, copy, place).await,
            _ => record.reason.clone(),
        };
        let reason = match why {
            Some(reason) => reason,
            None => match table.as_recorded(&opened.shape, self.source.types()?) {
                Some(recorded) => {
                    let lake_table = self.ready(&recorded, opened).await?;
                    return self.follow(Arc::new(recorded), lake_table, place);
                }
                None => "the types of its columns are not known any more".to_owned(),
            },
        };
        self.begin_copy(table, opened, copy, reason, place).await
    }

    async fn new_record(&mut self, table: &SourceTable) -> Result<TableRecord> {
        // It needs no change from before its copy begins.
        let watermark = self.source.log_end().await?;
        Ok(TableRecord::new(
            self.pipeline.clone(),
            table.id.to_string(),
            table.relation,
            self.epoch,
            watermark,
        ))
    }

    /// Indexes a table and claims it for this epoch.
    async fn ready(&self, table: &SourceTable, opened: Opened) -> Result<DeltaTable> {
        let started = Instant::now();
        let mut lake_table = DeltaTable::new(table.schema.clone(), opened);
        let rows = lake_table.build_index().await?;
        let epoch = self.epoch;
        lake_table.commit("CLAIM", |record| record.epoch = epoch).await?;
        info!(table = %table.id, rows, watermark = %lake_table.record().watermark, index_bytes = lake_table.bytes(),
            elapsed_ms = started.elapsed().as_millis() as u64, "opened lake table");
        Ok(lake_table)
    }

    /// Goes on with a copy where an earlier run left it, if it still fits.
    async fn resume_copy(
        &mut self,
        table: SourceTable,
        mut opened: Opened,
        copy: Option<Opened>,
        place: String,
    ) -> Result<()> {
        let reason = opened.record.reason.clone().unwrap_or_default();
        let fitting = copy.as_ref().filter(|copy| {
            copy.record.relation == table.relation && copy.record.state.is_live() && copy.record.copy.is_none()
        });
        let recorded = match fitting {
            Some(copy) => table.as_recorded(&copy.shape, self.source.types()?),
            None => None,
        };
        let (Some(recorded), Some(copy)) = (recorded, copy) else {
            return self.begin_copy(table, opened, None, reason, place).await;
        };
        let epoch = self.epoch;
        opened.mark("CLAIM", |record| record.epoch = epoch).await?;
        let lake_table = self.ready(&recorded, copy).await?.replacing(opened);
        self.follow(Arc::new(recorded), lake_table, place)
    }

    /// Begins to gather new content for a table. Readers keep the old one.
    async fn begin_copy(
        &mut self,
        table: SourceTable,
        mut opened: Opened,
        old: Option<Opened>,
        reason: String,
        place: String,
    ) -> Result<()> {
        warn!(table = %table.id, reason, "copying the table anew; readers keep its content of now until the copy is whole");
        let (epoch, copy) = (self.epoch, uuid::Uuid::new_v4().to_string());
        opened
            .mark("RESNAPSHOT", |record| {
                record.state = State::Resnapshotting;
                record.reason = Some(reason);
                record.copy = Some(copy.clone());
                record.epoch = epoch;
            })
            .await?;
        if let Some(old) = old {
            old.discard().await;
        }
        let shape = opened.shape.replacing(&table.schema, &table.origin());
        let record = self.new_record(&table).await?;
        let log = self.lake.copy(&table.id, &copy)?;
        let lake_table = DeltaTable::create(log, table.schema.clone(), shape, record).await?;
        self.follow(Arc::new(table), lake_table.replacing(opened), place)
    }

    fn follow(&mut self, table: Arc<SourceTable>, lake_table: DeltaTable, place: String) -> Result<()> {
        let record = lake_table.record();
        let number = self.stream.add(table.clone(), record.watermark);
        if number != self.routes.len() {
            return Err(Error::bug("streams and routes are out of step"));
        }
        // One command at work, and a batch and a chunk waiting.
        let (commands, receiver) = mpsc::channel(2);
        let table_source = self.source.table_source(table.clone(), self.throttle.clone());
        let mut route = Route::new(table.id.clone(), table.relation, commands, place, record);
        route.shape = Some(lake_table.shape().clone());
        route.format = Some((lake_table.file_format(), lake_table.encoder().clone()));
        let snapshotting = record.state == State::Snapshotting;
        self.routes.push(route);
        let writer = Writer {
            number,
            table: lake_table,
            points: Arc::new(table_source),
            commands: receiver,
            durable: self.durable_sender.clone(),
            plan: 0,
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
            Some(parts) => Arc::new(SourceTable {
                parts,
                ..table.as_ref().clone()
            }),
            None => table,
        };
        let source = self.source.table_source(table, self.throttle.clone());
        let route = self.route(number)?;
        let Some((format, encoder)) = route.format.clone() else {
            return Err(Error::bug("a table without a file format"));
        };
        let task = Task {
            number,
            id: route.id.clone(),
            source,
            format,
            encoder,
            progress: route.progress.clone(),
        };
        self.tasks
            .send(task)
            .map_err(|_| Error::transient("the snapshotter has ended"))
    }

    fn table(&self, number: usize) -> Result<Arc<SourceTable>> {
        let table = self.stream.table(number).cloned();
        table.ok_or_else(|| Error::bug("a table that the stream doesn't have"))
    }

    /// Closes a table. The slot stays before what it will miss until its
    /// record tells.
    pub fn end(&mut self, number: usize, ending: Ending) -> Result<()> {
        let position = self.stream.position();
        self.stream.close(number);
        let route = self.route(number)?;
        route.held = Some(route.pending().unwrap_or(position));
        route.ending = Some(ending);
        route.close();
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
        let copy = self.read_copy(&id, &opened).await;
        let ending = match ending {
            Ending::Copy { relation, reason } => match self.publish_again(&id, relation).await? {
                Ok((now, place)) => {
                    self.begin_copy(now, opened, copy, reason, place).await?;
                    self.route(number)?.held = None;
                    return Ok(());
                }
                Err(mark) => mark,
            },
            other => other,
        };
        let (state, reason) = match &ending {
            Ending::Gap { reason } => (State::NeedsSnapshot, reason),
            Ending::Mark { state, reason } => (*state, reason),
            Ending::Copy { .. } => return Ok(()),
        };
        warn!(table = %id, state = state.as_str(), reason, "the table is not followed any more; its lake table is kept");
        opened
            .mark("STOP", |record| {
                record.state = state;
                record.reason = Some(reason.clone());
                record.copy = None;
            })
            .await?;
        if let Some(copy) = copy {
            copy.discard().await;
        }
        if matches!(state, State::Dropped | State::Excluded) {
            self.control.leave(table_path(&id)).await?;
        }
        self.route(number)?.held = None;
        match ending {
            Ending::Gap { reason } => Err(gaps::needs_snapshot(&[id.to_string()], &reason)),
            _ => Ok(()),
        }
    }

    /// Looks at a table that is to be copied, and makes sure that it is
    /// published: one made anew is not where the one before was. Returns it
    /// with its place, or what becomes of it instead.
    async fn publish_again(
        &mut self,
        id: &TableId,
        relation: u32,
    ) -> Result<std::result::Result<(SourceTable, String), Ending>> {
        let gone = || Ending::Mark {
            state: State::Dropped,
            reason: "it is gone at the source, or has another name".to_owned(),
        };
        let stalled = |reason: &str, hint: &str| Ending::Mark {
            state: State::Stalled,
            reason: format!("{reason} (hint: {hint})"),
        };
        let mut published = false;
        loop {
            let now = match self.source.look(relation).await? {
                Look::Table(now) if now.id == *id => *now,
                Look::Refused(refusal) if refusal.table == *id => {
                    return Ok(Err(stalled(&refusal.reason, &refusal.hint)));
                }
                _ => return Ok(Err(gone())),
            };
            if published {
                let members = self.source.published().await?;
                let Some(member) = members.tables.get(id) else {
                    return Ok(Err(gone()));
                };
                let place = member.token();
                self.control
                    .enter(BTreeMap::from([(table_path(id), place.clone())]))
                    .await?;
                return Ok(Ok((now, place)));
            }
            let wanted = Discovery {
                tables: vec![now],
                ..Discovery::default()
            };
            match self.source.ensure_publication(&wanted).await {
                Ok(_) => published = true,
                Err(error) if error.class() == Class::NeedsOperator => {
                    return Ok(Err(stalled(&error.to_string(), error.hint().unwrap_or_default())));
                }
                // It went away just now; the next look says so.
                Err(error) if error.code() == Some(WENT_AWAY) => return Ok(Err(gone())),
                Err(error) => return Err(error),
            }
        }
    }

    /// The content that is gathered to replace a table's, if it can be read.
    pub async fn read_copy(&self, id: &TableId, opened: &Opened) -> Option<Opened> {
        let copy = opened.record.copy.as_ref()?;
        let log = self.lake.copy(id, copy).ok()?;
        Opened::read(log, &self.pipeline).await.ok().flatten()
    }

    /// The stream has described a table's columns: what follows has them.
    pub async fn judge(&mut self, number: usize) -> Result<()> {
        let before = self.table(number)?;
        let Some(described) = self.stream.described(number).cloned() else {
            return Ok(());
        };
        let as_before = before.is_described_by(&described);
        match self.source.look(before.relation).await? {
            Look::Table(now) => {
                let verdict = before.judge(&described, &now, self.source.types()?);
                self.carry_out(number, verdict).await
            }
            // The next look at the catalogue says what has become of it.
            _ if as_before => Ok(()),
            Look::Refused(refusal) => self.end(
                number,
                Ending::Mark {
                    state: State::Stalled,
                    reason: format!("{} (hint: {})", refusal.reason, refusal.hint),
                },
            ),
            Look::Gone => self.end(
                number,
                Ending::Copy {
                    relation: before.relation,
                    reason: "its columns changed".to_owned(),
                },
            ),
        }
    }

    async fn carry_out(&mut self, number: usize, verdict: Verdict) -> Result<()> {
        let before = self.table(number)?;
        let (table, evolve) = match verdict {
            Verdict::Same(table) => (table, false),
            Verdict::Evolve(table) => (table, true),
            Verdict::Copy(reason) => {
                let relation = before.relation;
                return self.end(number, Ending::Copy { relation, reason });
            }
        };
        // The name is the table's for as long as it is followed.
        let table = Arc::new(SourceTable {
            id: before.id.clone(),
            ..table
        });
        if !evolve && table.decodes_like(&before) && table.origin() == before.origin() {
            return self.stream.refresh(number, table);
        }
        let mut shape = self.route(number)?.shape.clone();
        if let Some(shape) = shape.as_mut().filter(|_| evolve) {
            let was_mapped = shape.mapped;
            shape.evolve(&table.schema, &table.origin())?;
            let reason = if shape.is_ambiguous() {
                Some("a new column has the name of another one in its files")
            } else if shape.mapped && !was_mapped && !self.column_mapping {
                Some("a column was renamed, and lake.column_mapping is off")
            } else {
                None
            };
            if let Some(reason) = reason {
                let (relation, reason) = (table.relation, reason.to_owned());
                return self.end(number, Ending::Copy { relation, reason });
            }
            info!(table = %table.id, columns = table.columns.len(), mapped = shape.mapped, "the table's columns changed");
        }
        self.alter(number, table, shape).await
    }

    /// Tells writer and stream of the table's new form.
    async fn alter(&mut self, number: usize, table: Arc<SourceTable>, shape: Option<Shape>) -> Result<()> {
        self.flush(number).await?;
        let points = Arc::new(self.source.table_source(table.clone(), self.throttle.clone()));
        let command = Command::Evolve {
            schema: table.schema.clone(),
            origin: table.origin(),
            points,
        };
        let commands = self.route(number)?.commands.clone();
        let ended = || Error::transient(format!("the writer of {} has ended", table.id));
        commands.ok_or_else(ended)?.send(command).await.map_err(|_| ended())?;
        self.stream.alter(number, table.clone())?;
        let altered = self.stream.commit_position();
        let start = self.stream.position();
        let route = self.route(number)?;
        if let (Some(shape), Some((format, encoder))) = (&shape, route.format.take()) {
            route.format = Some((
                format.with_shape(shape, &table.schema),
                encoder.with_schema(&table.schema),
            ));
        }
        route.shape = shape;
        route.altered = Some(altered);
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
        let closed = || Error::transient("a table's writer has ended");
        let permit = self.in_flight.clone().acquire_many_owned(permits).await;
        let command = Command::Stage(self.stream.take_batch(number)?, permit.map_err(|_| closed())?);
        let commands = self.route(number)?.commands.clone();
        commands.ok_or_else(closed)?.send(command).await.map_err(|_| closed())
    }

    /// A snapshot can't go on.
    pub fn halted(&mut self, number: usize, halt: Halt) -> Result<()> {
        match halt {
            Halt::Changed => {
                self.route(number)?.paused = Some(Instant::now());
                self.look.notify_one();
                Ok(())
            }
            Halt::Failed(error) => self.stall(number, error),
        }
    }

    /// Takes on at once what need not wait for the stream: requests and new
    /// tables. The rest waits until the stream is where the look was.
    pub async fn look_ahead(&mut self, mut seen: Seen) -> Result<()> {
        self.requests.append(&mut seen.requests);
        let asked: HashSet<String> = self.requests.iter().flat_map(|r| r.tables.iter().cloned()).collect();
        for number in 0..self.routes.len() {
            let route = self.route(number)?;
            // One that is being copied is as new as can be.
            let settled = matches!(route.state, State::Streaming | State::CatchingUp) || route.stalled_at.is_some();
            if !route.is_closed() && settled && route.since < seen.since && asked.contains(&route.id.to_string()) {
                let (relation, reason) = (route.relation, "a new snapshot was asked for".to_owned());
                self.end(number, Ending::Copy { relation, reason })?;
            }
        }
        self.enter_new(&seen).await?;
        // The first is kept, or a stream that lags would never come to any.
        if self.ahead.is_none() {
            self.ahead = Some(seen);
        } else {
            self.newest = Some(seen);
        }
        self.answer_requests().await
    }

    /// Brings the set of tables to what the source had. The stream has told
    /// everything up to then.
    pub async fn reconcile(&mut self, seen: Seen) -> Result<()> {
        for number in 0..self.routes.len() {
            let route = self.route(number)?;
            // What was entered meanwhile, the catalogue's answer can't know.
            if !route.is_closed() && route.since < seen.since {
                self.reconcile_table(number, &seen).await?;
            }
        }
        self.enter_new(&seen).await
    }

    async fn reconcile_table(&mut self, number: usize, seen: &Seen) -> Result<()> {
        let route = self.route(number)?;
        let (id, relation, place) = (route.id.clone(), route.relation, route.place.clone());
        let Some(now) = seen.discovery.tables.iter().find(|table| table.id == id) else {
            return self.end(number, gone(&id, relation, &seen.discovery));
        };
        let copy = |reason: &str| Ending::Copy {
            relation: now.relation,
            reason: reason.to_owned(),
        };
        if now.relation != relation {
            return self.end(number, copy("it was dropped and made anew at the source"));
        }
        match PublishedTable::since(seen.discovery.published.tables.get(&id), &place) {
            Membership::Same => {}
            Membership::Reformed => return self.end(number, copy(gaps::REFORMED)),
            Membership::Left => {
                let reason = format!("{}; changes after that are lost", gaps::LEFT);
                let ending = match self.on_gap() {
                    OnGap::Stop => Ending::Gap { reason },
                    OnGap::Resnapshot => copy(&reason),
                };
                return self.end(number, ending);
            }
        }
        // The stream may have told of what the catalogue did not show yet.
        if self
            .route(number)?
            .altered
            .is_some_and(|altered| !seen.from.covers(&altered))
        {
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
    async fn reconcile_parts(&mut self, number: usize, now: &SourceTable) -> Result<()> {
        let before = self.table(number)?;
        let changes = before.part_changes(now);
        let relation = now.relation;
        let copy = |reason: &str| Ending::Copy {
            relation,
            reason: reason.to_owned(),
        };
        if changes.gone {
            return self.end(number, copy("a partition was dropped or detached"));
        }
        if changes.rewritten {
            return self.end(number, copy("a partition was truncated or rewritten"));
        }
        if changes.new.is_empty() {
            return Ok(());
        }
        let filled: Vec<Part> = changes.new.into_iter().filter(|part| part.bytes > 0).collect();
        if !filled.is_empty() && self.route(number)?.state == State::Snapshotting {
            return self.end(number, copy("a partition was attached during its snapshot"));
        }
        let table = SourceTable {
            parts: now.parts.clone(),
            storage: now.storage.clone(),
            ..before.as_ref().clone()
        };
        let shape = self.route(number)?.shape.clone();
        self.alter(number, Arc::new(table), shape).await?;
        if filled.is_empty() {
            return Ok(());
        }
        info!(table = %before.id, partitions = filled.len(), "copying new partitions");
        let ended = || Error::transient(format!("the writer of {} has ended", before.id));
        let commands = self.route(number)?.commands.clone();
        commands
            .ok_or_else(ended)?
            .send(Command::Extend)
            .await
            .map_err(|_| ended())?;
        let route = self.route(number)?;
        route.state = State::Snapshotting;
        route.progress = Default::default();
        self.copy_rows(number, Some(filled))
    }

    /// Follows the tables that nobody follows yet.
    async fn enter_new(&mut self, seen: &Seen) -> Result<()> {
        let followed = |id: &TableId| {
            let by = |route: &Route| route.id == *id && (!route.is_closed() || route.ending.is_some());
            self.routes.iter().any(by)
        };
        let found = seen.discovery.tables.iter();
        let new: Vec<SourceTable> = found.filter(|table| !followed(&table.id)).cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        let patterns = self.config.borrow().source.tables.clone();
        self.source.select(patterns);
        let wanted = Discovery {
            tables: new,
            ..Discovery::default()
        };
        match self.source.ensure_publication(&wanted).await {
            Ok(_) => {}
            Err(error) if error.class() == Class::NeedsOperator || error.code() == Some(WENT_AWAY) => {
                // The others go on; it is tried again at the next look.
                warn!(%error, hint = error.hint(), "new tables can't be replicated yet");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let published = self.source.published().await?;
        let place = |id: &TableId| published.tables.get(id).map(PublishedTable::token);
        let mut entries = Vec::new();
        for table in wanted.tables {
            // With what the publication says of it now.
            let Look::Table(table) = self.source.look(table.relation).await? else {
                continue;
            };
            let Some(place) = place(&table.id) else { continue };
            let opened = Opened::read(self.lake.table(&table.id)?, &self.pipeline).await?;
            let copy = match &opened {
                Some(opened) => self.read_copy(&table.id, opened).await,
                None => None,
            };
            let why = opened
                .as_ref()
                .filter(|opened| opened.record.state.is_live())
                .map(|_| "it was not followed for a while".to_owned());
            let mut entry = Entry {
                table: *table,
                opened,
                copy,
                why,
            };
            entry.remember_why().await?;
            entries.push((entry, place));
        }
        let places = entries
            .iter()
            .map(|(entry, place)| (table_path(&entry.table.id), place.clone()))
            .collect();
        self.control.enter(places).await?;
        for (entry, place) in entries {
            self.enter(entry, place).await?;
        }
        Ok(())
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

/// What has become of a table that is not among those to replicate any more.
pub fn gone(id: &TableId, relation: u32, discovery: &Discovery) -> Ending {
    let (state, reason) = match discovery.refused.iter().find(|refusal| refusal.table == *id) {
        Some(refusal) => (State::Stalled, format!("{} (hint: {})", refusal.reason, refusal.hint)),
        None => match discovery.names.get(&relation) {
            Some(name) if name == id => (State::Excluded, "it is not selected any more".to_owned()),
            Some(name) => (State::Dropped, format!("it was renamed to {name} at the source")),
            None => (State::Dropped, "it was dropped at the source".to_owned()),
        },
    };
    Ending::Mark { state, reason }
}
