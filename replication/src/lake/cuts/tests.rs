//! The list of cuts: numbers, order, epochs, and that it does not grow for ever.

use super::*;
use crate::position::Lsn;

const PIPELINE: &str = "test";
const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;

/// A lake in a folder that goes with it.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("tributary-{}", uuid::Uuid::new_v4())))
    }

    fn lake(&self) -> Lake {
        Lake::open(&self.0.display().to_string(), &Default::default()).expect("lake")
    }

    async fn log(&self, epoch: u64) -> CutLog {
        CutLog::open(&self.lake(), PIPELINE, epoch).await.expect("cuts")
    }

    async fn read(&self) -> Cuts {
        Cuts::open(&self.lake()).await.expect("cuts").expect("some")
    }

    async fn all(&self) -> Vec<Cut> {
        self.read().await.find(|_| true, usize::MAX).await.expect("cuts")
    }

    fn files(&self, folder: &str, ending: &str) -> usize {
        let entries = std::fs::read_dir(self.0.join(FOLDER).join(folder)).expect("folder");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| name.ends_with(ending)).count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A cut at a position, of tables in some versions.
fn cut(lsn: u64, versions: &[u64]) -> Cut {
    let table = |(number, version): (usize, &u64)| CutTable {
        table: format!("public.t{number}"),
        path: format!("public/t{number}"),
        version: *version,
    };
    Cut {
        number: 0,
        position: Position::Lsn(Lsn(lsn)),
        committed_at: lsn as i64 * 1_000_000,
        recorded_at: 0,
        tables: versions.iter().enumerate().map(table).collect(),
    }
}

async fn add(log: &mut CutLog, cut: Cut) -> Added {
    log.add(&cut).await.expect("add")
}

fn number(added: &Added) -> Option<u64> {
    match added {
        Added::Cut { number, .. } => Some(*number),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_are_numbered_and_found_again() {
    let folder = Folder::new();
    assert!(Cuts::open(&folder.lake()).await.expect("no cuts").is_none());
    let mut log = folder.log(1).await;
    assert!(folder.read().await.newest().await.expect("empty").is_none());
    for (at, versions, expected) in [
        (10, &[1, 1][..], Some(1)),
        // Nothing has changed, or the stream tells again what was told.
        (11, &[1, 1], None),
        (9, &[2, 1], None),
        (12, &[0, 2], None),
        (12, &[1, 2], Some(2)),
        (13, &[1, 2, 7], Some(3)),
        // A source that was restored: all content is new.
        (5, &[3, 3, 8], Some(4)),
        (6, &[4, 3], Some(5)),
    ] {
        let added = add(&mut log, cut(at, versions)).await;
        assert_eq!(number(&added), expected, "{at} {versions:?}");
    }
    let mut log = folder.log(2).await;
    assert_eq!(number(&add(&mut log, cut(6, &[4, 3])).await), None);
    assert_eq!(number(&add(&mut log, cut(7, &[4, 4])).await), Some(6));
    let all = folder.all().await;
    let numbers: Vec<u64> = all.iter().map(|cut| cut.number).collect();
    assert_eq!(numbers, [6, 5, 4, 3, 2, 1]);
    assert_eq!(all[3].tables, cut(13, &[1, 2, 7]).tables);
    assert_eq!(
        (&all[0].position, all[0].committed_at),
        (&Position::Lsn(Lsn(7)), 7_000_000)
    );
    let old = folder.read().await.find(|cut| cut.number < 4, 1).await.expect("cuts");
    assert_eq!(old[0].number, 3);
    assert_eq!(
        folder.read().await.oldest().await.expect("cuts").expect("one").number,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_sidecar_adds_none_any_more() {
    let folder = Folder::new();
    let mut old = folder.log(1).await;
    assert_eq!(number(&add(&mut old, cut(1, &[1])).await), Some(1));
    let mut new = folder.log(2).await;
    // As long as the newer one has added none, both are right.
    assert_eq!(number(&add(&mut old, cut(2, &[2])).await), Some(2));
    assert_eq!(number(&add(&mut new, cut(3, &[3])).await), Some(3));
    assert_eq!(add(&mut old, cut(4, &[4])).await, Added::Fenced);
    assert_eq!(add(&mut folder.log(1).await, cut(4, &[4])).await, Added::Fenced);
    let other = CutLog::open(&folder.lake(), "another", 9)
        .await
        .err()
        .expect("not ours");
    assert!(other.to_string().contains("not this pipeline's"), "{other}");
    assert_eq!(folder.all().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_cuts_are_few_files() {
    let folder = Folder::new();
    let mut log = folder.log(1).await;
    for at in 1..=300 {
        assert_eq!(number(&add(&mut log, cut(at, &[at, 1])).await), Some(at));
        log.tidy(now_ms() - WEEK_MS).await.expect("tidy");
    }
    let files = folder.read().await.files.len();
    assert!(files < FAN_IN, "{files} files");
    let numbers: Vec<u64> = folder.all().await.iter().map(|cut| cut.number).collect();
    assert_eq!(numbers, (1..=300).rev().collect::<Vec<u64>>());
    // Readers of older versions still have all.
    let all = folder.files("", ".parquet");
    assert!(all >= 300, "{all}");
    assert!(folder.files("_delta_log", ".json") > 300);

    // Later, nobody has.
    log.clean_up(now_ms() + 60_000).await.expect("clean up");
    assert_eq!(folder.files("", ".parquet"), folder.read().await.files.len());
    log.log.trim(now_ms() + 60_000).await.expect("trim");
    let (entries, checkpoints) = (
        folder.files("_delta_log", "0.json") + folder.files("_delta_log", "1.json"),
        folder.files("_delta_log", ".checkpoint.parquet"),
    );
    assert!(entries < 20 && checkpoints == 1, "{entries} {checkpoints}");
    assert_eq!(folder.all().await.len(), 300);

    // What nothing names, a later run removes.
    let log = folder.log(2).await;
    assert_eq!(folder.files("", ".parquet"), log.files.len());
    std::fs::write(folder.0.join(FOLDER).join("part-left.parquet"), b"").expect("a file");
    log.clean_up(now_ms() + 60_000).await.expect("clean up");
    assert_eq!(folder.files("", "left.parquet"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_cuts_go_but_the_last_stays() {
    let folder = Folder::new();
    let mut log = folder.log(1).await;
    for at in 1..=10 {
        add(&mut log, cut(at, &[at])).await;
    }
    for file in &mut log.files[..4] {
        file.data.modification_time -= 2 * WEEK_MS;
    }
    log.tidy(now_ms() - WEEK_MS).await.expect("tidy");
    let numbers: Vec<u64> = folder.all().await.iter().map(|cut| cut.number).collect();
    assert_eq!(numbers, [10, 9, 8, 7, 6, 5]);
    for file in &mut log.files {
        file.data.modification_time = 0;
    }
    log.tidy(now_ms() - WEEK_MS).await.expect("tidy");
    assert_eq!(folder.all().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_leaves_out_what_is_old() {
    let folder = Folder::new();
    let mut log = folder.log(1).await;
    for at in 1..=64 {
        add(&mut log, cut(at, &[at])).await;
    }
    let middle = folder.all().await[31].recorded_at;
    let (file, dropped) = log.merge(&log.files, middle).await.expect("merge");
    assert!(dropped);
    let kept = read(&log.log, &file).await.expect("cuts");
    assert!(kept.iter().all(|cut| cut.recorded_at >= middle));
    assert_eq!(kept.last().expect("the newest").number, 64);
    assert_eq!((file.first, file.last), (kept[0].number, 64));
    let (file, dropped) = log.merge(&log.files, 0).await.expect("merge");
    assert_eq!((dropped, file.first, file.data.rows), (false, 1, 64));
}
