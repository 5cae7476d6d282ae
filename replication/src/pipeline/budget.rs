//! How much log the source may keep for us (`source.wal_budget`): looked at
//! beside everything else, with a connection of its own, so that neither a lake
//! that is out nor a table that is stuck hides that the source's disk fills up.
//!
//! What is over is told here. What is done about it, the stream's loop decides:
//! it alone knows what each table holds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info};

use super::cuts::shown_time;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::metrics::{BudgetNumbers, Holder, Metrics, Numbers, Overrun};
use crate::position::Position;
use crate::source::Source;

/// How often the slot is looked at: one row of a catalogue view.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause after a look that failed.
const BACKOFF: Duration = Duration::from_secs(30);
/// How often what stays over is told again.
const REMIND_INTERVAL: Duration = Duration::from_secs(600);
/// How long changes of a table may wait before it is named.
const SLOW: Duration = Duration::from_secs(60);

/// What the source kept at a moment.
#[derive(Clone, Debug)]
pub struct Look {
    pub retained_bytes: u64,
    /// Where the slot stands.
    pub confirmed: Position,
    pub log_end: Position,
}

/// Looks, tells, and hands on what it sees.
pub struct Keeper {
    pub config: watch::Receiver<Config>,
    pub metrics: Arc<Metrics>,
    pub looks: watch::Sender<Option<Look>>,
    pub over: Option<Over>,
}

/// More is kept than may be.
pub struct Over {
    since: Instant,
    told: Instant,
}

impl Keeper {
    /// Runs until nobody can change the configuration any more.
    pub async fn run<S: Source>(mut self) {
        let mut source: Option<S> = None;
        loop {
            let config = self.config.borrow_and_update().clone();
            let Some(budget) = config.source.wal_budget else {
                source = None;
                self.over = None;
                self.metrics.update(|m| m.budget = None);
                if self.config.changed().await.is_err() {
                    return;
                }
                continue;
            };
            // One that failed is not used again.
            let looked = timeout(PATIENCE, look(&config, source.take())).await;
            let pause = match looked.unwrap_or_else(|_| Err(Error::transient("the source does not answer"))) {
                Ok((connected, look)) => {
                    source = Some(connected);
                    self.judge(budget, look);
                    INTERVAL
                }
                Err(error) => {
                    debug!(%error, "cannot look at the slot");
                    self.judge(budget, None);
                    BACKOFF
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = self.config.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Tells what is over, the first time and now and then.
    fn judge(&mut self, budget: u64, look: Option<Look>) {
        let numbers = self.metrics.read();
        let held_by = match &look {
            Some(look) => self.mind(budget, look, &numbers),
            // What is not known has not changed.
            None => None,
        };
        let since = self.over.as_ref().map(|over| over.since.into_std());
        let before = numbers.budget.and_then(|budget| budget.over);
        let held_by = held_by.or(before.map(|over| over.held_by)).unwrap_or_default();
        let shown = BudgetNumbers {
            budget,
            retained: look.as_ref().map(|look| look.retained_bytes),
            over: since.map(|since| Overrun { since, held_by }),
        };
        self.metrics.update(|m| m.budget = Some(shown));
        if look.is_some() {
            self.looks.send_replace(look);
        }
    }

    fn mind(&mut self, budget: u64, look: &Look, numbers: &Numbers) -> Option<Vec<Holder>> {
        let retained = look.retained_bytes;
        // The slot moves in steps: what goes up and down around the budget is told once.
        let within = match self.over {
            Some(_) => retained <= budget / 10 * 9,
            None => retained <= budget,
        };
        if within {
            if let Some(over) = self.over.take() {
                let seconds = over.since.elapsed().as_secs();
                info!(
                    retained_bytes = retained,
                    budget_bytes = budget,
                    seconds,
                    "the source keeps less log than source.wal_budget again"
                );
            }
            return None;
        }
        let holders = holders(numbers, look, budget);
        let now = Instant::now();
        let due = self.over.as_ref().is_none_or(|over| now - over.told >= REMIND_INTERVAL);
        if due {
            let all = |part: fn(&Holder) -> &str| holders.iter().map(part).collect::<Vec<_>>().join("; ");
            error!(
                retained_bytes = retained,
                budget_bytes = budget,
                held_by = all(|holder| &holder.what),
                hint = all(|holder| &holder.hint),
                "the source keeps more log than source.wal_budget: {} of {}",
                shown_bytes(retained),
                shown_bytes(budget)
            );
            let since = self.over.as_ref().map_or(now, |over| over.since);
            self.over = Some(Over { since, told: now });
        }
        Some(holders)
    }
}

async fn look<S: Source>(config: &Config, source: Option<S>) -> Result<(S, Option<Look>)> {
    let mut source = match source {
        Some(source) => source,
        None => S::connect(config).await?,
    };
    let slot = source.slot().await?;
    let log_end = source.log_end().await?;
    let look = slot.map(|slot| Look {
        retained_bytes: slot.retained_bytes,
        confirmed: slot.confirmed,
        log_end,
    });
    Ok((source, look))
}

/// What holds the slot, as far as that can be told, and what to do about each.
fn holders(numbers: &Numbers, look: &Look, budget: u64) -> Vec<Holder> {
    let ours = look.confirmed.bytes_until(&look.log_end).unwrap_or_default();
    let mut holders = Vec::new();
    let mut add = |what: String, hint: String| holders.push(Holder { what, hint });
    if let Some(since) = numbers.paused {
        add(
            format!("replication is paused since {}", shown_time(since)),
            "POST /resume, or restart the sidecar".to_owned(),
        );
    }
    if !numbers.streaming {
        let why = numbers.last_error.as_ref().map(|trouble| trouble.error.as_str());
        add(
            format!("replication does not run: {}", why.unwrap_or("it is starting")),
            "put right what the error names: the lake or the source may be out".to_owned(),
        );
    }
    for (id, table) in &numbers.tables {
        if table.state == "stalled" {
            let why = table.trouble.as_ref().map(|trouble| trouble.error.as_str());
            add(
                format!(
                    "{id} is stalled and holds {}: {}",
                    shown_bytes(table.lag_bytes.unwrap_or_default()),
                    why.unwrap_or_default()
                ),
                format!(
                    "put it right and run `tributary snapshot {id}`, or exclude it in source.tables; \
                     source.on_wal_budget = \"drop-table\" gives up such tables"
                ),
            );
        } else if numbers.streaming && table.lag() > SLOW {
            let waited = table.lag().as_secs();
            add(
                format!("changes of {id} have waited {waited} s for the lake"),
                "see whether the lake's store is slow or out".to_owned(),
            );
        }
    }
    if holders.is_empty() && ours > budget / 2 {
        holders.push(Holder {
            what: format!("the stream is {} behind the end of the log", shown_bytes(ours)),
            hint: "the source writes more than is applied, or the lake is slow: see what commits take".to_owned(),
        });
    }
    // The slot's log begins where the oldest transaction did that was open where it stands.
    let before = look.retained_bytes.saturating_sub(ours);
    if before > budget / 2 {
        holders.push(Holder {
            what: format!(
                "a transaction at the source that is, or was, open for long needs {} from before what is confirmed",
                shown_bytes(before)
            ),
            hint: "look for it in pg_stat_activity (backend_xid, xact_start) and pg_prepared_xacts; \
                   the slot follows some seconds after its end"
                .to_owned(),
        });
    }
    holders
}

/// For people, in binary units.
pub fn shown_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{TableNumbers, Trouble};
    use crate::position::Lsn;
    use crate::schema::TableId;

    const BUDGET: u64 = 1000;

    fn look(retained_bytes: u64, ours: u64) -> Look {
        let at = |lsn| Position::Lsn(Lsn(lsn));
        Look {
            retained_bytes,
            confirmed: at(100_000 - ours),
            log_end: at(100_000),
        }
    }

    fn keeper() -> Keeper {
        Keeper {
            config: watch::Sender::new(
                Config::parse("source.url = \"postgres://db\"\nlake.url = \"./lake\"", |_| None).expect("config"),
            )
            .subscribe(),
            metrics: Arc::default(),
            looks: watch::Sender::new(None),
            over: None,
        }
    }

    #[test]
    fn what_holds_the_log_is_named() {
        let table = |state, lag_bytes| TableNumbers {
            state,
            lag_bytes: Some(lag_bytes),
            trouble: (state == "stalled").then(|| Trouble::told("a value can't be taken over")),
            ..TableNumbers::default()
        };
        let with = |change: fn(&mut Numbers)| {
            let mut numbers = Numbers {
                streaming: true,
                ..Numbers::default()
            };
            change(&mut numbers);
            numbers
        };
        let stalled = with(|_| ());
        let stalled = Numbers {
            tables: [
                (TableId::new("public", "bad"), table("stalled", 1900)),
                (TableId::new("public", "good"), table("streaming", 0)),
            ]
            .into(),
            ..stalled
        };
        for (numbers, look, expected) in [
            (
                stalled,
                look(2000, 1950),
                &["public.bad is stalled and holds 1.9 KiB: a value"][..],
            ),
            (with(|_| ()), look(2000, 1950), &["the stream is 1.9 KiB behind"]),
            (with(|_| ()), look(2000, 100), &["a transaction at the source"]),
            (
                with(|numbers| numbers.streaming = false),
                look(2000, 1950),
                &["replication does not run: it is starting"],
            ),
            (
                with(|numbers| numbers.paused = Some(0)),
                look(2000, 1200),
                &[
                    "replication is paused since 1970-01-01T00:00:00",
                    "a transaction at the source",
                ],
            ),
        ] {
            let found = holders(&numbers, &look, BUDGET);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (holder, expected) in found.iter().zip(expected) {
                assert!(holder.what.starts_with(expected), "{found:?}");
                assert!(!holder.hint.is_empty(), "{found:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_told_once_and_then_now_and_then() {
        let mut keeper = keeper();
        let mut told = Vec::new();
        let mut judge = |keeper: &mut Keeper, retained| {
            keeper.judge(BUDGET, retained);
            let last = keeper.over.as_ref().map(|over| over.told);
            if last != told.last().copied().flatten() {
                told.push(last);
            }
            told.iter().flatten().count()
        };
        assert_eq!(judge(&mut keeper, Some(look(1000, 0))), 0);
        for minutes in [0, 4, 4] {
            tokio::time::advance(Duration::from_secs(60 * minutes)).await;
            assert_eq!(judge(&mut keeper, Some(look(2000, 0))), 1);
            // Just below is no end of it, nor is what nobody knows.
            assert_eq!(judge(&mut keeper, Some(look(950, 0))), 1);
            assert_eq!(judge(&mut keeper, None), 1);
        }
        let shown = keeper.metrics.read().budget.expect("numbers");
        assert!(shown.retained.is_none() && shown.over.is_some_and(|over| !over.held_by.is_empty()));
        tokio::time::advance(Duration::from_secs(120)).await;
        assert_eq!(judge(&mut keeper, Some(look(2000, 0))), 2);
        judge(&mut keeper, Some(look(900, 0)));
        let shown = keeper.metrics.read().budget.expect("numbers");
        assert!(shown.over.is_none() && shown.retained == Some(900));
        assert_eq!(judge(&mut keeper, Some(look(1001, 0))), 3);
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5 << 30, "5.0 GiB"),
            (3 << 50, "3072.0 TiB"),
        ] {
            assert_eq!(shown_bytes(bytes), shown);
        }
    }
}
