//! When the open batches of all tables are closed: together, so that the
//! versions which come of them show the source at one position.
//!
//! A commit costs the same few files however little it brings, and every
//! deletion vector that it touches is written whole. So a round waits for more
//! changes while what it would write beside rows is much more than the rows,
//! but never so long that a change is later than `apply.max_latency`.

use std::time::Duration;

/// What a table's commit writes beside rows and deletion vectors, whatever it
/// brings: about 1.5 KB of log entry, and 2 to 4 KB of Parquet for 4 to 12
/// columns without rows to speak of; each file costs a request, too.
const COMMIT_BYTES: u64 = 8 << 10;
/// How much may be written beside a byte of rows.
const COST_MAX: u64 = 2;
/// How often rounds may come at most by themselves: each is a version, and
/// files, of every table that has changes.
const GAP: Duration = Duration::from_secs(1);

/// How often rounds come.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The oldest change waits this long at least.
    age_min: Duration,
    /// It waits no longer; what is left of the latency is for the commit itself.
    pub age_max: Duration,
    gap: Duration,
}

/// What has been gathered since the last round.
#[derive(Clone, Copy, Debug)]
pub struct Gathered {
    /// Since the oldest change.
    pub age: Duration,
    /// Since the last round.
    pub gap: Duration,
    /// Rows, in bytes.
    pub rows: u64,
    /// Tables that have any.
    pub tables: u64,
    /// What the deletion vectors of the last commits of these tables took.
    pub vectors: u64,
}

impl Pace {
    pub fn of(max_latency: Duration) -> Self {
        let age_max = max_latency * 4 / 5;
        Self {
            age_min: max_latency / 5,
            age_max,
            gap: GAP.min(age_max),
        }
    }

    /// Whether the open batches are to be closed.
    pub fn is_due(&self, gathered: &Gathered) -> bool {
        let Gathered { age, gap, .. } = *gathered;
        age >= self.age_max || (age >= self.age_min && gap >= self.gap && pays(gathered))
    }
}

/// Whether the rows are worth their commits.
fn pays(gathered: &Gathered) -> bool {
    let cost = gathered.vectors + gathered.tables * COMMIT_BYTES;
    cost <= gathered.rows.saturating_mul(COST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    /// Two tables, changes 1,500 ms old, and 1,500 ms after the last round.
    fn gathered(rows: u64, vectors: u64) -> Gathered {
        let ms = Duration::from_millis(1500);
        Gathered {
            age: ms,
            gap: ms,
            rows,
            tables: 2,
            vectors,
        }
    }

    #[test]
    fn a_round_comes_early_only_when_it_pays() {
        let pace = Pace::of(Duration::from_secs(5));
        for (rows, vectors, due) in [
            // A few rows are not worth the files.
            (1, 0, false),
            (8 * KIB - 1, 0, false),
            (8 * KIB, 0, true),
            // Changes of recent rows touch small vectors, scattered ones large ones.
            (100 * KIB, 184 * KIB, true),
            (100 * KIB, 185 * KIB, false),
            (100 * KIB, 10_000 * KIB, false),
            (5_000 * KIB, 9_000 * KIB, true),
        ] {
            assert_eq!(pace.is_due(&gathered(rows, vectors)), due, "{rows} {vectors}");
        }
    }

    #[test]
    fn no_round_comes_later_than_the_latency_allows_nor_more_often_than_once_a_second() {
        let at = |latency: u64, age: u64, gap: u64, rows: u64| {
            let gathered = Gathered {
                age: Duration::from_millis(age),
                gap: Duration::from_millis(gap),
                ..gathered(rows, 0)
            };
            Pace::of(Duration::from_millis(latency)).is_due(&gathered)
        };
        for (latency, age, gap, rows, due) in [
            (5_000, 3_999, 3_999, 1, false),
            (5_000, 4_000, 0, 1, true),
            (5_000, 999, 60_000, 100 * KIB, false),
            (5_000, 1_000, 999, 100 * KIB, false),
            (5_000, 1_000, 1_000, 100 * KIB, true),
            (60_000, 11_999, 60_000, 100 * KIB, false),
            (60_000, 12_000, 60_000, 100 * KIB, true),
            // A short latency allows more.
            (500, 399, 399, 100 * KIB, false),
            (500, 100, 400, 100 * KIB, true),
            (500, 400, 0, 1, true),
        ] {
            assert_eq!(at(latency, age, gap, rows), due, "{latency} {age} {gap} {rows}");
        }
    }
}
