//! Any source of tables, with columns transformed as the configuration says.
//! This is where every row that the source tells passes, once: what the stream
//! gathered, what a chunk has, and what was read by key. So the pipeline knows
//! the lake's columns alone, and the source within its own.
//!
//! ```text
//! source's columns:  catalogue ─ log ─ chunks ─ rows by key
//!                        │        │       │         │
//!                      Table   Changes  Rows   TableSource      what is in this room
//!                        ▼        ▼       ▼         ▼
//! lake's columns:    shape ─ batches ─ data files ─ verify
//! ```
//!
//! What the source within has to know of the columns that the lake does not
//! have, for its log has them, is in the shape's [`Form`].

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::{
    Begun, ChangeStream, Discovery, Finding, Identity, Judgement, Look, Membership, Part, PartChanges, Reader, Refusal,
    RowVersions, Slot, Source, SourceEvent, SourceTable, TableSource, Throttle, Verdict, glob, selected,
};
use crate::batch::ChangeBatch;
use crate::config::{Config, Mode, TableEntry, did_you_mean};
use crate::error::{Error, Result};
use crate::lake::{Normal, Origin, PartProgress, PointRead, PointReader, Shape, ShapeColumn, system_column_of};
use crate::position::Position;
use crate::schema::{TableId, TableSchema};
use crate::transform::{Action, Form, FormColumn, HashKey, Rules, Transform};

pub struct Transformed<S> {
    source: S,
    config: Config,
    key: Option<Arc<HashKey>>,
}

impl<S: Source> Transformed<S> {
    fn rules(&self, table: &TableId) -> Arc<Rules> {
        Arc::new(Rules::of(&self.config, self.key.clone(), table))
    }

    fn table(&self, table: S::Table) -> Result<Table<S::Table>, Refusal> {
        let rules = self.rules(table.id());
        Table::new(table, rules)
    }

    /// What of the configuration concerns no table, or no column.
    fn unmatched(&self, discovery: &Discovery<Table<S::Table>>) -> Vec<Finding> {
        let entries = self.config.tables.iter();
        entries.flat_map(|entry| unmatched(entry, discovery)).collect()
    }
}

/// An entry that matches no table.
pub fn matches_no_table<T: SourceTable>(entry: &TableEntry, discovery: &Discovery<T>) -> Option<Finding> {
    let chosen = |id: &TableId| selected(&entry.patterns, id);
    let tables = || discovery.tables.iter().map(|table| table.id());
    let refused = discovery.refused.iter().map(|refusal| &refusal.table);
    if tables().chain(refused).any(chosen) {
        return None;
    }
    let name = entry.patterns.join(", ");
    let known: Vec<String> = tables().map(TableId::to_string).collect();
    let what = format!("[[table]] {name} matches no table that is replicated");
    Some(Finding::bad(what, hint(&known, &name)))
}

/// The patterns of an entry that match nothing.
fn unmatched<T: SourceTable>(entry: &TableEntry, discovery: &Discovery<Table<T>>) -> Vec<Finding> {
    if let Some(finding) = matches_no_table(entry, discovery) {
        return vec![finding];
    }
    let name = entry.patterns.join(", ");
    let chosen = |id: &TableId| selected(&entry.patterns, id);
    let tables: Vec<_> = discovery.tables.iter().filter(|table| chosen(table.id())).collect();
    // A table that is refused may have such columns.
    if discovery.refused.iter().any(|refusal| chosen(&refusal.table)) {
        return Vec::new();
    }
    let columns: BTreeSet<String> = tables
        .iter()
        .flat_map(|table| &table.source.schema().columns)
        .map(|column| column.name.clone())
        .collect();
    let columns: Vec<String> = columns.into_iter().collect();
    let lists = [
        ("include", &entry.include),
        ("exclude", &entry.exclude),
        ("hash", &entry.hash),
    ];
    let listed = lists
        .into_iter()
        .flat_map(|(key, list)| list.iter().flatten().map(move |pattern| (key, pattern)));
    let masked = entry
        .mask
        .iter()
        .flat_map(|mask| mask.keys())
        .map(|pattern| ("mask", pattern));
    let of_none = listed.chain(masked).filter(|(_, pattern)| {
        let pattern = pattern.to_lowercase();
        !columns.iter().any(|column| glob(&pattern, &column.to_lowercase()))
    });
    of_none
        .map(|(key, pattern)| {
            let what = format!("[[table]] {name}: {key} has {pattern:?}, which matches no column");
            Finding::bad(what, hint(&columns, pattern))
        })
        .collect()
}

fn hint(known: &[String], given: &str) -> String {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    did_you_mean(&known, given)
}

impl<S: Source> Source for Transformed<S> {
    type Table = Table<S::Table>;
    type Stream = Changes<S::Stream>;
    type Tables = Rows<S::Tables>;

    const KEEPS_POSITION: bool = S::KEEPS_POSITION;
    const KNOWS_COLUMNS: bool = S::KNOWS_COLUMNS;

    async fn connect(config: &Config) -> Result<Self> {
        let key = config.transform.key.as_ref();
        Ok(Self {
            source: S::connect(config).await?,
            config: config.clone(),
            key: key.map(|key| Arc::new(HashKey::new(key.expose()))),
        })
    }

    fn address(&self) -> String {
        self.source.address()
    }

    async fn identify(&mut self) -> Result<Identity> {
        self.source.identify().await
    }

    async fn log_end(&mut self) -> Result<Position> {
        self.source.log_end().await
    }

    async fn visible(&mut self) -> Result<Position> {
        self.source.visible().await
    }

    async fn is_standby(&mut self) -> Result<bool> {
        self.source.is_standby().await
    }

    async fn log_bytes(&mut self, from: &Position, to: &Position) -> Result<Option<u64>> {
        self.source.log_bytes(from, to).await
    }

    fn select(&mut self, patterns: Vec<String>) {
        self.source.select(patterns);
    }

    async fn discover(&mut self) -> Result<Discovery<Self::Table>> {
        let Discovery {
            tables: found,
            mut refused,
            notes,
            names,
            places,
        } = self.source.discover().await?;
        let mut tables = Vec::with_capacity(found.len());
        for table in found {
            match self.table(table) {
                Ok(table) => tables.push(table),
                Err(refusal) => refused.push(refusal),
            }
        }
        Ok(Discovery {
            tables,
            refused,
            notes,
            names,
            places,
        })
    }

    async fn look(&mut self, id: &TableId, relation: u32) -> Result<Look<Self::Table>> {
        Ok(match self.source.look(id, relation).await? {
            Look::Table(table, place) => match self.table(*table) {
                Ok(table) => Look::Table(Box::new(table), place),
                Err(refusal) => Look::Refused(refusal),
            },
            Look::Refused(refusal) => Look::Refused(refusal),
            Look::Gone => Look::Gone,
        })
    }

    async fn begin(&mut self, table: Self::Table) -> Result<Option<(Self::Table, Position)>> {
        let begun = self.source.begin(table.source).await?;
        // One that is refused by now, the next look tells of.
        Ok(begun.and_then(|(now, position)| Some((Table::new(now, table.rules).ok()?, position))))
    }

    fn as_recorded(&self, table: &Self::Table, shape: &Shape) -> Result<Option<Self::Table>> {
        let recorded = self.source.as_recorded(&table.source, &source_shape(shape))?;
        Ok(recorded.and_then(|recorded| Table::new(recorded, table.rules.clone()).ok()))
    }

    fn reason_to_copy(&self, table: &Self::Table, shape: &Shape) -> Option<String> {
        table.rules.reason_to_copy(&form_of(shape))
    }

    fn numbered(&self, table: &Self::Table, shape: &Shape) -> Result<Self::Table> {
        let numbered = self.source.numbered(&table.source, &source_shape(shape))?;
        Table::new(numbered, table.rules.clone()).map_err(|refusal| {
            Error::operator(format!("table {} {}", refusal.table, refusal.reason)).with_hint(refusal.hint)
        })
    }

    fn judge(
        &mut self,
        stream: &Self::Stream,
        table: usize,
    ) -> impl Future<Output = Result<Judgement<Self::Table>>> + Send {
        let before = stream.table(table).cloned();
        let judgement = self.source.judge(&stream.stream, table);
        async move {
            let judgement = judgement.await?;
            let Some(before) = before else {
                return Ok(Judgement::Nothing);
            };
            Ok(match judgement {
                Judgement::Nothing => Judgement::Nothing,
                Judgement::Columns(verdict) => match before.verdict(verdict) {
                    Ok(verdict) => Judgement::Columns(verdict),
                    Err(refusal) => Judgement::Refused(refusal),
                },
                Judgement::Refused(refusal) => Judgement::Refused(refusal),
                Judgement::Gone(reason) => Judgement::Gone(reason),
            })
        }
    }

    fn membership(now: Option<&str>, before: &str) -> Membership {
        S::membership(now, before)
    }

    fn same_publication(a: &str, b: &str) -> bool {
        S::same_publication(a, b)
    }

    async fn check(&mut self, discovery: &Discovery<Self::Table>) -> Result<Vec<Finding>> {
        let mut findings = self.source.check(&within(discovery)).await?;
        let transformed = discovery.tables.iter().filter_map(Table::summary);
        findings.extend(transformed.map(Finding::ok));
        findings.extend(self.unmatched(discovery));
        Ok(findings)
    }

    /// What matches nothing keeps nothing from going on: a table may be yet to come.
    async fn require(&mut self, discovery: &Discovery<Self::Table>) -> Result<()> {
        self.source.require(&within(discovery)).await?;
        for Finding { what, hint, .. } in self.unmatched(discovery) {
            tracing::warn!(hint, "{what}");
        }
        Ok(())
    }

    async fn in_use(&mut self) -> Result<bool> {
        self.source.in_use().await
    }

    async fn slot(&mut self) -> Result<Option<Slot>> {
        self.source.slot().await
    }

    async fn slot_at(&mut self, confirmed: &Position) -> Result<Option<Slot>> {
        self.source.slot_at(confirmed).await
    }

    async fn lost(&mut self, confirmed: &Position) -> Result<Option<String>> {
        self.source.lost(confirmed).await
    }

    async fn foreign(
        &mut self,
        watermarks: &[Position],
        timeline: u32,
        server: Option<&str>,
    ) -> Result<Vec<Option<String>>> {
        self.source.foreign(watermarks, timeline, server).await
    }

    async fn create_slot(&mut self) -> Result<Position> {
        self.source.create_slot().await
    }

    async fn drop_slot(&mut self) -> Result<()> {
        self.source.drop_slot().await
    }

    async fn ensure_published(&mut self, discovery: &Discovery<Self::Table>) -> Result<()> {
        self.source.ensure_published(&within(discovery)).await
    }

    fn stream(&self, from: &Position) -> impl Future<Output = Result<Self::Stream>> + Send {
        let stream = self.source.stream(from);
        async move {
            Ok(Changes {
                stream: stream.await?,
                tables: Vec::new(),
                growing: Vec::new(),
            })
        }
    }

    fn table_source(&self, table: Arc<Self::Table>, throttle: Arc<Throttle>) -> Self::Tables {
        Rows {
            source: self.source.table_source(Arc::new(table.source.clone()), throttle),
            table,
        }
    }
}

/// What the source within knows.
fn within<T: SourceTable>(discovery: &Discovery<Table<T>>) -> Discovery<T> {
    Discovery {
        tables: discovery.tables.iter().map(|table| table.source.clone()).collect(),
        refused: discovery.refused.clone(),
        notes: discovery.notes.clone(),
        names: discovery.names.clone(),
        places: discovery.places.clone(),
    }
}

/// What a lake table's content was made by; where nothing is recorded, nothing
/// was transformed.
fn form_of(shape: &Shape) -> Form {
    let plain = |column: &ShapeColumn| FormColumn {
        attribute: column.attribute,
        name: column.name.clone(),
        ty: column.ty.clone(),
        source: column.source.clone(),
        action: Action::Keep,
    };
    shape.origin.form.clone().unwrap_or_else(|| Form {
        key: None,
        columns: shape.columns.iter().map(plain).collect(),
        fields: None,
    })
}

/// A lake table's shape as it would be with all of the source's columns as they are.
fn source_shape(shape: &Shape) -> Shape {
    let column = |column: FormColumn| ShapeColumn {
        attribute: column.attribute,
        physical: column.name.clone(),
        name: column.name,
        field: 0,
        ty: column.ty,
        source: column.source,
    };
    let columns = form_of(shape).columns.into_iter().map(column).collect();
    let origin = Origin {
        form: None,
        ..shape.origin.clone()
    };
    Shape {
        columns,
        origin,
        ..shape.clone()
    }
}

/// A table of the source, with the columns that the lake has of it.
#[derive(Clone, Debug)]
pub struct Table<T> {
    source: T,
    rules: Arc<Rules>,
    /// `None` if all columns stay as they are.
    transform: Option<Arc<Transform>>,
}

impl<T: SourceTable> Table<T> {
    /// Errors: the rules ask for what can't be done.
    fn new(source: T, rules: Arc<Rules>) -> Result<Self, Refusal> {
        let transform = Transform::of(source.id(), source.schema(), &rules)?;
        let schema = transform.as_ref().map_or(source.schema(), Transform::schema);
        if let Some((column, hint)) = system_column_of(schema, rules.mode()) {
            return Err(Refusal {
                table: source.id().clone(),
                reason: format!(
                    "can't be replicated with mode = {:?}: its column {column} has the name of one that the lake adds",
                    rules.mode().as_str()
                ),
                hint,
            });
        }
        let unread = transform.iter().flat_map(|transform| transform.excluded());
        Ok(Self {
            source: source.without_values(unread.collect()).with_mode(rules.mode()),
            rules,
            transform: transform.map(Arc::new),
        })
    }

    fn form(&self) -> Option<&Form> {
        self.transform.as_ref().map(|transform| transform.form())
    }

    /// What is done to it, for people.
    fn summary(&self) -> Option<String> {
        let mut parts = Vec::new();
        for (what, is) in [
            ("without", (|action| *action == Action::Exclude) as fn(&Action) -> bool),
            ("hashed:", |action| *action == Action::Hash),
            ("masked:", |action| matches!(action, Action::Mask(_))),
        ] {
            let names = self.transform.iter().flat_map(|transform| transform.actions());
            let names: Vec<&str> = names.filter(|(_, action)| is(action)).map(|(name, _)| name).collect();
            if !names.is_empty() {
                parts.push(format!("{what} {}", names.join(", ")));
            }
        }
        (!parts.is_empty()).then(|| format!("table {}: {}", self.id(), parts.join("; ")))
    }

    /// What the source says of its columns, for the lake's. What becomes of a
    /// column goes by its name, so another name may mean other content.
    fn verdict(&self, verdict: Verdict<T>) -> Result<Verdict<Self>, Refusal> {
        let (now, evolved) = match verdict {
            Verdict::Same(now) => (now, false),
            Verdict::Evolve(now) => (now, true),
            Verdict::Copy(reason) => return Ok(Verdict::Copy(reason)),
        };
        let now = Self::new(now, self.rules.clone())?;
        if let Some(reason) = self.reason_to_copy(&now) {
            return Ok(Verdict::Copy(reason));
        }
        Ok(if evolved {
            Verdict::Evolve(now)
        } else {
            Verdict::Same(now)
        })
    }

    fn reason_to_copy(&self, now: &Self) -> Option<String> {
        let form = |table: &Self| match table.form() {
            Some(form) => form.clone(),
            None => Form::plain(table.source.schema()),
        };
        match (self.form(), now.form()) {
            (None, None) => None,
            _ => form(self).reason_to_copy(&form(now)),
        }
    }
}

impl<T: SourceTable> SourceTable for Table<T> {
    fn id(&self) -> &TableId {
        self.source.id()
    }

    fn relation(&self) -> u32 {
        self.source.relation()
    }

    fn schema(&self) -> &Arc<TableSchema> {
        match &self.transform {
            Some(transform) => transform.schema(),
            None => self.source.schema(),
        }
    }

    fn parts(&self) -> &[Part] {
        self.source.parts()
    }

    fn origin(&self) -> Origin {
        Origin {
            form: self.form().cloned(),
            ..self.source.origin()
        }
    }

    fn with_id(self, id: TableId) -> Self {
        Self {
            source: self.source.with_id(id),
            ..self
        }
    }

    fn with_parts(&self, parts: Vec<Part>) -> Self {
        Self {
            source: self.source.with_parts(parts),
            ..self.clone()
        }
    }

    fn with_mode(self, mode: Mode) -> Self {
        Self {
            source: self.source.with_mode(mode),
            ..self
        }
    }

    fn decodes_like(&self, other: &Self) -> bool {
        self.source.decodes_like(&other.source) && self.form() == other.form()
    }

    fn judge_now(&self, now: &Self) -> Verdict<Self> {
        let verdict = self.verdict(self.source.judge_now(&now.source));
        // A copy begins with a look, and that tells what is refused.
        verdict.unwrap_or_else(|refusal| Verdict::Copy(refusal.reason))
    }

    fn part_changes(&self, now: &Self) -> PartChanges {
        self.source.part_changes(&now.source)
    }

    fn with_parts_of(&self, now: &Self) -> Self {
        Self {
            source: self.source.with_parts_of(&now.source),
            ..self.clone()
        }
    }

    fn differs(&self, other: &Self) -> bool {
        let like = |own: &Form| other.form().is_some_and(|other| own.is_like(other));
        self.source.differs(&other.source) || !self.form().map_or(other.form().is_none(), like)
    }

    fn normal(&self) -> Option<Normal> {
        self.source.normal()
    }
}

/// A stream whose batches have the lake's columns.
pub struct Changes<C: ChangeStream> {
    stream: C,
    tables: Vec<Arc<Table<C::Table>>>,
    /// The tables whose rows become larger, with how many times as large.
    growing: Vec<(usize, usize)>,
}

impl<C: ChangeStream> Changes<C> {
    fn set(&mut self, number: usize, table: Arc<Table<C::Table>>) -> Result<()> {
        let known = self.tables.get_mut(number);
        *known.ok_or_else(|| Error::bug("a table that isn't streamed"))? = table;
        self.note_growth(number);
        Ok(())
    }

    fn note_growth(&mut self, number: usize) {
        self.growing.retain(|(other, _)| *other != number);
        let growth = self.growth(number);
        if growth > 1 {
            self.growing.push((number, growth));
        }
    }

    fn growth(&self, number: usize) -> usize {
        let transform = self.tables.get(number).and_then(|table| table.transform.as_ref());
        transform.map_or(1, |transform| transform.growth())
    }
}

impl<C: ChangeStream> ChangeStream for Changes<C> {
    type Table = Table<C::Table>;

    fn add(&mut self, table: Arc<Self::Table>, watermark: Position) -> usize {
        let number = self.stream.add(Arc::new(table.source.clone()), watermark);
        // Numbers are given in order.
        self.tables.truncate(number);
        self.tables.push(table);
        self.note_growth(number);
        number
    }

    fn close(&mut self, table: usize) {
        self.stream.close(table);
    }

    fn stall(&mut self, table: usize) {
        self.stream.stall(table);
    }

    fn refresh(&mut self, table: usize, source: Arc<Self::Table>) -> Result<()> {
        self.stream.refresh(table, Arc::new(source.source.clone()))?;
        self.set(table, source)
    }

    fn table(&self, table: usize) -> Option<&Arc<Self::Table>> {
        self.tables.get(table)
    }

    fn alter(&mut self, table: usize, source: Arc<Self::Table>) -> Result<()> {
        self.stream.alter(table, Arc::new(source.source.clone()))?;
        self.set(table, source)
    }

    fn position(&self) -> Position {
        self.stream.position()
    }

    fn committed_at(&self) -> Option<i64> {
        self.stream.committed_at()
    }

    fn commit_position(&self) -> Position {
        self.stream.commit_position()
    }

    fn in_transaction(&self) -> bool {
        self.stream.in_transaction()
    }

    fn open_bytes(&self) -> usize {
        let grown = |(table, growth): &(usize, usize)| self.stream.bytes(*table).saturating_mul(growth - 1);
        self.growing
            .iter()
            .map(grown)
            .fold(self.stream.open_bytes(), usize::saturating_add)
    }

    fn is_deaf(&self) -> bool {
        self.stream.is_deaf()
    }

    fn spilled_bytes(&self) -> u64 {
        self.stream.spilled_bytes()
    }

    fn bytes(&self, table: usize) -> usize {
        self.stream.bytes(table).saturating_mul(self.growth(table))
    }

    async fn fill(&mut self) -> Result<()> {
        self.stream.fill().await
    }

    fn next_event(&mut self) -> Result<Option<SourceEvent>> {
        self.stream.next_event()
    }

    fn take_batch(&mut self, table: usize) -> Result<ChangeBatch> {
        let batch = self.stream.take_batch(table)?;
        match self.tables.get(table).and_then(|table| table.transform.as_ref()) {
            Some(transform) => transform.changes(batch),
            None => Ok(batch),
        }
    }

    async fn confirm(&mut self, confirmed: &Position, ask: bool) -> Result<()> {
        self.stream.confirm(confirmed, ask).await
    }

    async fn end(&mut self) {
        self.stream.end().await;
    }
}

/// Connects for one table; its rows have the lake's columns.
#[derive(Clone)]
pub struct Rows<T: TableSource> {
    source: T,
    table: Arc<Table<T::Table>>,
}

impl<T: TableSource> TableSource for Rows<T> {
    type Table = Table<T::Table>;
    type Reader = RowReader<T::Reader>;

    async fn reader(&self) -> Result<Self::Reader> {
        Ok(RowReader {
            reader: self.source.reader().await?,
            transform: self.table.transform.clone(),
        })
    }

    fn table(&self) -> &Arc<Self::Table> {
        &self.table
    }

    fn throttle(&self) -> &Throttle {
        self.source.throttle()
    }

    fn blocks_for(part: &Part, bytes: u64, blocks: u64) -> u64 {
        T::blocks_for(part, bytes, blocks)
    }

    fn is_gone(error: &Error) -> bool {
        T::is_gone(error)
    }

    fn is_conflict(error: &Error) -> bool {
        T::is_conflict(error)
    }

    fn of_read(error: Error) -> Error {
        T::of_read(error)
    }
}

impl<T: TableSource> PointReader for Rows<T> {
    fn read<'a>(&'a self, keys: RecordBatch) -> Pin<Box<dyn Future<Output = Result<PointRead>> + Send + 'a>> {
        Box::pin(async move {
            let mut read = self.source.read(keys).await?;
            if let Some(transform) = &self.table.transform {
                read.rows = transform.rows(&read.rows)?;
            }
            Ok(read)
        })
    }
}

/// Reads rows with the lake's columns.
pub struct RowReader<R> {
    reader: R,
    transform: Option<Arc<Transform>>,
}

impl<R> RowReader<R> {
    fn rows(&self, rows: RecordBatch) -> Result<RecordBatch> {
        match &self.transform {
            Some(transform) => transform.rows(&rows),
            None => Ok(rows),
        }
    }
}

impl<R: Reader> Reader for RowReader<R> {
    async fn wait_for_writers(&mut self) -> Result<()> {
        self.reader.wait_for_writers().await
    }

    async fn plan(&mut self, parts: &[Part], before: &[PartProgress]) -> Result<Option<Vec<PartProgress>>> {
        self.reader.plan(parts, before).await
    }

    async fn begin(&mut self, part: Option<(&Part, &PartProgress)>) -> Result<Begun> {
        self.reader.begin(part).await
    }

    async fn read(&mut self, part: &Part, plan: &PartProgress, from: u64, to: u64) -> Result<()> {
        self.reader.read(part, plan, from, to).await
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let rows = self.reader.next_batch().await?;
        rows.map(|rows| self.rows(rows)).transpose()
    }

    async fn end(&mut self) -> Result<()> {
        self.reader.end().await
    }

    async fn read_versions(&mut self, keys: &RecordBatch) -> Result<RowVersions> {
        let mut read = self.reader.read_versions(keys).await?;
        read.rows = read
            .rows
            .into_iter()
            .map(|rows| self.rows(rows))
            .collect::<Result<_>>()?;
        Ok(read)
    }

    async fn wait_for_commits(&mut self, watermark: &Position) -> Result<bool> {
        self.reader.wait_for_commits(watermark).await
    }
}
