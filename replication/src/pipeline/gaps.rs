//! Makes sure that no lake table silently misses changes: finds what happened
//! to slot, publication and source while nobody looked.
//!
//! The slot is confirmed only up to positions the lake knows of. A slot that is
//! gone, or further than that, was dropped or made anew: what lies between is
//! lost to us.

use std::collections::{BTreeMap, HashSet};

use super::control::Control;
use super::tables::Entry;
use crate::error::{Error, Result};
use crate::lake::{Lake, Opened, State, TableRecord, table_path};
use crate::position::Position;
use crate::schema::TableId;
use crate::source::{Discovery, Membership, Slot, Source, SourceTable};

/// What the lake has of the source's tables.
pub struct Standing<T> {
    pub control: Option<Control>,
    pub entries: Vec<Entry<T>>,
    pub slot: Option<Slot>,
    pub gaps: Gaps,
}

/// What a table has of the source's log at the latest. In PostgreSQL it may have values
/// of rows that were read there, from after its watermark.
fn newest(record: &TableRecord) -> &Position {
    match &record.catch_up_to {
        Some(to @ Position::Lsn(_)) if to.covers(&record.watermark) => to,
        _ => &record.watermark,
    }
}

/// What is lost.
#[derive(Default)]
pub struct Gaps {
    /// By the place of the entry: why its table misses changes.
    pub tables: Vec<(usize, String)>,
    /// Whether the slot is not the one that the lake knows, or of no use.
    pub slot: bool,
    /// Whether the slot can't be used any more: its log is gone, or refers to
    /// a publication that is no more.
    pub drop_slot: bool,
}

impl<T: SourceTable> Standing<T> {
    /// `slot` was read before: what it confirms, the lake has known earlier.
    pub async fn read<S: Source<Table = T>>(
        source: &mut S,
        slot: Option<Slot>,
        lake: &Lake,
        discovery: &Discovery<T>,
        pipeline: &str,
    ) -> Result<Self> {
        let control = Control::open(lake.pipeline()?, pipeline).await?;
        let slot = match &control {
            Some(control) if !S::KEEPS_POSITION => {
                let confirmed = &control.record().confirm_limit;
                let lost = source.lost(confirmed).await?;
                let slot = source.slot_at(confirmed).await?;
                slot.map(|slot| Slot { lost, ..slot })
            }
            _ => slot,
        };
        let mut entries = Vec::with_capacity(discovery.tables.len());
        for table in &discovery.tables {
            entries.push(Entry::read(lake, table.clone(), pipeline).await?);
        }
        let mut foreign: Vec<Option<String>> = vec![None; entries.len()];
        let live: Vec<(usize, Position)> = entries
            .iter()
            .enumerate()
            .filter_map(|(number, entry)| Some((number, newest(entry.record()?).clone())))
            .collect();
        let (numbers, watermarks): (Vec<usize>, Vec<Position>) = live.into_iter().unzip();
        let known = control.as_ref().map(Control::record);
        let (timeline, server) = known.map_or((0, None), |record| (record.timeline, record.server.as_deref()));
        for (number, why) in numbers
            .into_iter()
            .zip(source.foreign(&watermarks, timeline, server).await?)
        {
            foreign[number] = why;
        }
        let found = Found::<S> {
            entries: &entries,
            slot: slot.as_ref(),
            control: control.as_ref(),
            places: &discovery.places,
            foreign: &foreign,
            log_end: source.log_end().await?,
        };
        let gaps = found.gaps(lake, pipeline).await?;
        Ok(Self {
            control,
            entries,
            slot,
            gaps,
        })
    }
}

struct Found<'a, S: Source> {
    entries: &'a [Entry<S::Table>],
    slot: Option<&'a Slot>,
    control: Option<&'a Control>,
    places: &'a BTreeMap<TableId, String>,
    /// By entry, why its watermark is of another history.
    foreign: &'a [Option<String>],
    log_end: Position,
}

impl<S: Source> Found<'_, S> {
    /// Looks for changes that were lost.
    async fn gaps(&self, lake: &Lake, pipeline: &str) -> Result<Gaps> {
        let mut gaps = Gaps::default();
        let of_slot = self.slot_gap(lake, pipeline).await?;
        for (number, entry) in self.entries.iter().enumerate() {
            let Some(opened) = &entry.opened else { continue };
            let left = left(self, entry);
            // The slot's log refers to the publication as it was.
            gaps.drop_slot |= left == Some(REMADE) && self.slot.is_some();
            let record = entry.copy.as_ref().map_or(&opened.record, |copy| &copy.record);
            let reason = if opened.record.state == State::NeedsSnapshot {
                opened.record.reason.clone().unwrap_or_default()
            } else if !record.state.is_live() {
                // The others are copied anew whatever happened.
                continue;
            } else if let Some(foreign) = &self.foreign[number] {
                foreign.clone()
            } else if record.relation == entry.table.relation() && !self.log_end.covers(&record.watermark) {
                format!(
                    "the source's log ends at {}, before the table's watermark {}: it was restored from a backup",
                    self.log_end, record.watermark
                )
            } else if let Some(what) = left.filter(|_| record.relation == entry.table.relation()) {
                lost_after(what, record)
            } else if let Some(what) = &of_slot {
                lost_after(what, record)
            } else {
                continue;
            };
            gaps.tables.push((number, reason));
        }
        gaps.slot = of_slot.is_some();
        gaps.drop_slot |= self.slot.is_some_and(|slot| slot.lost.is_some());
        Ok(gaps)
    }

    /// What happened to the slot, if the lake can't have told it to be there.
    async fn slot_gap(&self, lake: &Lake, pipeline: &str) -> Result<Option<String>> {
        let Some(slot) = self.slot else {
            return Ok(Some("the replication slot is gone".to_owned()));
        };
        if let Some(lost) = &slot.lost {
            return Ok(Some(lost.clone()));
        }
        let limit = self.control.map(|control| &control.record().confirm_limit);
        let opened = self
            .entries
            .iter()
            .flat_map(|entry| entry.opened.iter().chain(&entry.copy));
        let known = limit
            .into_iter()
            .chain(opened.map(|opened| &opened.record.watermark))
            .any(|position: &Position| position.covers(&slot.confirmed));
        if known || self.known_elsewhere(slot, lake, pipeline).await? {
            return Ok(None);
        }
        Ok(Some(format!(
            "the replication slot was made anew at {}",
            slot.confirmed
        )))
    }

    /// Whether a table knows the slot's position that is not replicated any
    /// more: it may have been the one that was furthest.
    async fn known_elsewhere(&self, slot: &Slot, lake: &Lake, pipeline: &str) -> Result<bool> {
        let Some(record) = self.control.map(Control::record) else {
            return Ok(false);
        };
        let read: HashSet<String> = self.entries.iter().map(|e| table_path(e.table.id())).collect();
        for folder in record.tables.keys().chain(&record.former) {
            if read.contains(folder) {
                continue;
            }
            // One that can't be read any more knows nothing.
            let Ok(Some(opened)) = Opened::read(lake.log(folder)?, pipeline).await else {
                continue;
            };
            let copy = lake.copy_of(folder, &opened.record).await;
            let watermarks = [Some(opened.record.watermark), copy.map(|copy| copy.record.watermark)];
            if watermarks
                .iter()
                .flatten()
                .any(|position| position.covers(&slot.confirmed))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What became of a table's place in the publication, if it has missed changes.
fn left<S: Source>(found: &Found<'_, S>, entry: &Entry<S::Table>) -> Option<&'static str> {
    let now = found.places.get(entry.table.id());
    let before = found
        .control
        .and_then(|c| c.record().tables.get(&table_path(entry.table.id())))
        .filter(|before| S::membership(now.map(String::as_str), before) == Membership::Left)?;
    let same = match now {
        Some(now) => S::same_publication(now, before),
        None => !found.places.is_empty(),
    };
    Some(if same { LEFT } else { REMADE })
}

const REMADE: &str = "the publication was dropped or made anew";

/// What happened to a table that has another form in the publication.
pub const REFORMED: &str = "its row filter or column list in the publication changed";

/// What happened to a table that has another place in the publication.
pub const LEFT: &str = "it was taken out of the publication";

fn lost_after(what: &str, record: &TableRecord) -> String {
    format!("{what}; changes after {} are lost", record.watermark)
}

/// Records that tables have missed changes, and says what to do.
pub async fn stop<T>(entries: &mut [Entry<T>], gaps: &[(usize, String)]) -> Result<Error> {
    let mut names = Vec::new();
    for (number, reason) in gaps {
        let Some(opened) = entries.get_mut(*number).and_then(|entry| entry.opened.as_mut()) else {
            continue;
        };
        if opened.record.state != State::NeedsSnapshot {
            opened
                .mark("NEEDS SNAPSHOT", |record| {
                    record.state = State::NeedsSnapshot;
                    record.reason = Some(reason.clone());
                    record.given_up = false;
                })
                .await?;
        }
        names.push(opened.record.table.clone());
    }
    let reason = gaps.first().map(|(_, reason)| reason.as_str()).unwrap_or_default();
    Ok(needs_snapshot(&names, reason))
}

/// The error of tables that have missed changes.
pub fn needs_snapshot(names: &[String], reason: &str) -> Error {
    let verb = if names.len() == 1 { "needs" } else { "need" };
    Error::operator(format!("{} {verb} a new snapshot: {reason}", names.join(", "))).with_hint(
        "`tributary snapshot` copies them anew, each replaced in one commit; \
         source.on_gap = \"resnapshot\" does so by itself from now on",
    )
}
