//! Makes sure that no lake table silently misses changes: finds what happened
//! to slot, publication and source while nobody looked.
//!
//! The slot is confirmed only up to positions the lake knows of. A slot that is
//! gone, or further than that, was dropped or made anew: what lies between is
//! lost to us.

use super::control::Control;
use super::tables::Entry;
use crate::error::{Error, Result};
use crate::lake::{State, TableRecord, table_path};
use crate::position::Position;
use crate::source::postgres::{Membership, Published, PublishedTable, Slot};

/// What the source is found to be.
pub struct Found<'a> {
    pub entries: &'a [Entry],
    pub slot: Option<&'a Slot>,
    pub control: Option<&'a Control>,
    pub published: &'a Published,
    pub log_end: Position,
}

/// What is lost.
#[derive(Default)]
pub struct Gaps {
    /// By the place of the entry: why its table misses changes.
    pub tables: Vec<(usize, String)>,
    /// Whether the slot can't be used any more: its log is gone, or refers to
    /// a publication that is no more.
    pub drop_slot: bool,
}

/// Looks for changes that were lost.
pub fn find(found: &Found<'_>) -> Gaps {
    let mut gaps = Gaps::default();
    for (number, entry) in found.entries.iter().enumerate() {
        let Some(opened) = &entry.opened else { continue };
        let left = left(found, entry);
        // The slot's log refers to the publication as it was.
        gaps.drop_slot |= left == Some(REMADE) && found.slot.is_some();
        let record = entry.copy.as_ref().map_or(&opened.record, |copy| &copy.record);
        if opened.record.state == State::NeedsSnapshot {
            gaps.tables
                .push((number, opened.record.reason.clone().unwrap_or_default()));
            continue;
        }
        // The others are copied anew whatever happened.
        if !record.state.is_live() || record.relation != entry.table.relation {
            continue;
        }
        if !found.log_end.covers(&record.watermark) {
            gaps.tables.push((
                number,
                format!(
                    "the source's log ends at {}, before the table's watermark {}: it was restored from a backup",
                    found.log_end, record.watermark
                ),
            ));
        } else if let Some(what) = left {
            gaps.tables.push((number, lost_after(what, record)));
        }
    }
    if gaps.tables.is_empty()
        && let Some(what) = slot_gap(found)
    {
        for (number, entry) in found.entries.iter().enumerate() {
            let record = entry.copy.as_ref().or(entry.opened.as_ref()).map(|o| &o.record);
            let live = record.filter(|record| record.state.is_live());
            gaps.tables
                .extend(live.map(|record| (number, lost_after(&what, record))));
        }
    }
    gaps.drop_slot |= found.slot.is_some_and(|slot| slot.lost);
    gaps
}

/// What became of a table's place in the publication, if it has missed changes.
fn left(found: &Found<'_>, entry: &Entry) -> Option<&'static str> {
    let now = found.published.tables.get(&entry.table.id);
    let before = found
        .control
        .and_then(|c| c.record().tables.get(&table_path(&entry.table.id)))
        .filter(|before| PublishedTable::since(now, before) == Membership::Left)?;
    let publication = |place: &str| place.split('.').next().map(str::to_owned);
    let same = match now {
        Some(now) => publication(&now.place) == publication(before),
        None => !found.published.tables.is_empty(),
    };
    Some(if same { LEFT } else { REMADE })
}

const REMADE: &str = "the publication was dropped or made anew";

/// What happened to a table that has another form in the publication.
pub const REFORMED: &str = "its row filter or column list in the publication changed";

/// What happened to a table that has another place in the publication.
pub const LEFT: &str = "it was taken out of the publication";

/// What happened to the slot, if the lake can't have told it to be there.
fn slot_gap(found: &Found<'_>) -> Option<String> {
    let Some(slot) = found.slot else {
        return Some("the replication slot is gone".to_owned());
    };
    if slot.lost {
        return Some(
            "the server has removed log that the replication slot needed (see max_slot_wal_keep_size)".to_owned(),
        );
    }
    let limit = found.control.map(|control| control.record().confirm_limit);
    let opened = found
        .entries
        .iter()
        .flat_map(|entry| entry.opened.iter().chain(&entry.copy));
    let known = limit
        .into_iter()
        .chain(opened.map(|opened| opened.record.watermark))
        .any(|position: Position| position.covers(&slot.confirmed));
    (!known).then(|| format!("the replication slot was made anew at {}", slot.confirmed))
}

pub fn lost_after(what: &str, record: &TableRecord) -> String {
    format!("{what}; changes after {} are lost", record.watermark)
}

/// Records that tables have missed changes, and says what to do.
pub async fn stop(entries: &mut [Entry], gaps: &[(usize, String)]) -> Result<Error> {
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
