//! Makes sure that no lake table silently misses changes: finds what happened
//! to slot, publication and source while nobody looked.
//!
//! The slot is confirmed only up to positions the lake knows of. A slot that is
//! gone, or further than that, was dropped or made anew: what lies between is
//! lost to us.

use std::sync::Arc;

use super::control::Control;
use crate::error::{Error, Result};
use crate::lake::{DeltaTable, State, TableRecord, shown, table_path};
use crate::position::Position;
use crate::source::postgres::{Postgres, Slot, SourceTable};

/// What the source is found to be.
pub struct Found<'a> {
    pub tables: &'a [Arc<SourceTable>],
    pub slot: Option<&'a Slot>,
    pub control: Option<&'a Control>,
}

/// Looks for gaps. Errors: there are some, which the tables' records now tell;
/// the hint says how to go on.
pub async fn refuse(found: Found<'_>, source: &mut Postgres, opened: &mut [Option<DeltaTable>]) -> Result<()> {
    let log_end = source.log_end().await?;
    let published = source.members().await?;
    let mut gaps = Vec::new();
    // Whether the slot's log refers to a publication that is no more.
    let mut remade = false;
    for (number, table) in found.tables.iter().enumerate() {
        let Some(Some(lake_table)) = opened.get(number) else {
            continue;
        };
        let record = lake_table.record();
        let place = found.control.map(|c| c.record().tables.get(&table_path(&table.id)));
        let now = published.get(&table.id);
        let reason = if record.state == State::NeedsSnapshot {
            record.reason.clone().unwrap_or_default()
        } else if record.relation != table.relation {
            "the table was dropped and created anew at the source".to_owned()
        } else if !log_end.covers(&record.watermark) {
            format!(
                "the source's log ends at {log_end}, before the table's watermark {}: it was restored from a backup",
                record.watermark
            )
        } else {
            match place {
                None => continue,
                Some(None) => "it was left out of source.tables for a while".to_owned(),
                Some(Some(before)) if Some(before) == now => continue,
                Some(Some(before)) => {
                    let publication = |place: &str| place.split('.').next().map(str::to_owned);
                    let same = match now {
                        Some(now) => publication(now) == publication(before),
                        None => !published.is_empty(),
                    };
                    remade |= !same;
                    lost_after(
                        if same {
                            "it was taken out of the publication"
                        } else {
                            "the publication was dropped or made anew"
                        },
                        record,
                    )
                }
            }
        };
        gaps.push((number, reason));
    }
    if gaps.is_empty()
        && let Some(what) = slot_gap(&found, opened)
    {
        for (number, table) in opened.iter().enumerate() {
            gaps.extend(table.iter().map(|table| (number, lost_after(&what, table.record()))));
        }
    }
    if gaps.is_empty() {
        return Ok(());
    }
    let drop_slot = (remade && found.slot.is_some()).then(|| source.drop_slot_sql());
    Err(mark(opened, gaps, drop_slot).await?)
}

/// What happened to the slot, if the lake can't have told it to be there.
fn slot_gap(found: &Found<'_>, opened: &[Option<DeltaTable>]) -> Option<String> {
    let Some(slot) = found.slot else {
        return Some("the replication slot is gone".to_owned());
    };
    let limit = found.control.map(|control| control.record().confirm_limit);
    let watermarks = opened.iter().flatten().map(|table| table.record().watermark);
    let known = limit
        .into_iter()
        .chain(watermarks)
        .any(|position: Position| position.covers(&slot.confirmed));
    (!known).then(|| format!("the replication slot was made anew at {}", slot.confirmed))
}

fn lost_after(what: &str, record: &TableRecord) -> String {
    format!("{what}; changes after {} are lost", record.watermark)
}

/// Records that tables have missed changes, and says what to do.
async fn mark(
    opened: &mut [Option<DeltaTable>],
    gaps: Vec<(usize, String)>,
    drop_slot: Option<String>,
) -> Result<Error> {
    let mut names = Vec::new();
    let mut folders = Vec::new();
    let mut first_reason = None;
    for (number, reason) in gaps {
        let Some(Some(table)) = opened.get_mut(number) else {
            continue;
        };
        if table.record().state != State::NeedsSnapshot {
            table
                .commit("NEEDS SNAPSHOT", |record| {
                    record.state = State::NeedsSnapshot;
                    record.reason = Some(reason.clone());
                })
                .await?;
        }
        names.push(table.record().table.clone());
        folders.push(shown(table.log().url()));
        first_reason.get_or_insert(reason);
    }
    let message = format!(
        "{} need a new snapshot: {}",
        names.join(", "),
        first_reason.unwrap_or_default()
    );
    let first = drop_slot.map(|sql| format!("{sql}; then ")).unwrap_or_default();
    let hint = format!(
        "{first}move {} away and run again: these tables are copied anew, the others go on",
        folders.join(", ")
    );
    Ok(Error::operator(message).with_hint(hint))
}
