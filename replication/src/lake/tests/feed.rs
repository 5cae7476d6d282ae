//! The change data feed as the Delta kernel reads it: folded, version by
//! version, it is the table.

use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::table_changes::TableChanges;
use delta_kernel_default_engine::DefaultEngineBuilder;
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;

use super::*;
use crate::lake::feed::{FEATURE, PROPERTY};

type Row = (String, String);

/// One row of the feed.
#[derive(Clone, Debug)]
struct Change {
    version: u64,
    kind: String,
    id: i64,
    row: Row,
}

impl Folder {
    /// What versions tell, in their order.
    async fn feed(&self, from: u64, to: u64) -> Vec<Change> {
        let log = self.log();
        let (store, url) = (log.store().clone(), log.url().clone());
        let executor = TokioMultiThreadExecutor::new(tokio::runtime::Handle::current());
        let engine = DefaultEngineBuilder::new(store).with_task_executor(Arc::new(executor));
        let engine = Arc::new(engine.build());
        let read = move || {
            let changes = TableChanges::try_new(url, engine.as_ref(), from, Some(to))?;
            let scan = changes.into_scan_builder().build()?;
            let mut found = Vec::new();
            for data in scan.execute(engine)? {
                let data = ArrowEngineData::try_from_engine_data(data?)?;
                let rows = data.record_batch();
                let column = |name: &str| rows.column_by_name(name).expect("a column");
                let text = |name: &str, row: usize| column(name).as_string::<i32>().value(row).to_owned();
                let number = |name: &str, row: usize| column(name).as_primitive::<Int64Type>().value(row);
                found.extend((0..rows.num_rows()).map(|row| Change {
                    version: number("_commit_version", row) as u64,
                    kind: text("_change_type", row),
                    id: number("id", row),
                    row: (text("v", row), text("big", row)),
                }));
            }
            Ok::<_, delta_kernel::KernelError>(found)
        };
        let mut found = tokio::task::spawn_blocking(read)
            .await
            .expect("no panic")
            .expect("feed");
        found.sort_by_key(|change| change.version);
        found
    }

    /// The kinds of change of one version, and of which keys.
    async fn told(&self, version: u64) -> Vec<(String, i64)> {
        let changes = self.feed(version, version).await.into_iter();
        let mut told: Vec<_> = changes.map(|change| (change.kind, change.id)).collect();
        told.sort();
        told
    }

    async fn start_with_feed(&self) -> DeltaTable {
        let shape = Shape::new(&schema(), &Origin::default()).with_feed(true);
        let mut table = self.create_as(shape).await;
        table.commit("START", streaming).await.expect("start");
        table
    }
}

/// Which actions of a kind a version has.
async fn actions(table: &DeltaTable, version: u64, kind: &str) -> Vec<Value> {
    let entry = table.log.read(version).await.expect("read").expect("an entry");
    entry.iter().map(|a| a[kind].clone()).filter(|a| !a.is_null()).collect()
}

/// Folds the feed onto an empty table, in two ways: as rows that come and go,
/// and as a consumer does that merges by key. What goes must have been there.
/// `models` has the table at some versions.
fn fold(feed: &[Change], models: &BTreeMap<u64, Model>, last: u64) {
    let mut rows: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
    let mut by_key = Model::new();
    let mut feed = feed.iter().peekable();
    for version in 0..=last {
        let mut changes = Vec::new();
        while let Some(change) = feed.next_if(|change| change.version == version) {
            changes.push(change);
        }
        let (gone, come): (Vec<&Change>, Vec<&Change>) = changes
            .into_iter()
            .partition(|change| ["delete", "update_preimage"].contains(&change.kind.as_str()));
        for change in &gone {
            let of_key = rows.entry(change.id).or_default();
            let place = of_key.iter().position(|row| *row == change.row);
            let place = place.expect("what goes was there, as it was");
            of_key.swap_remove(place);
            if change.kind == "delete" {
                by_key.remove(&change.id);
            }
        }
        for change in &come {
            let was = gone.iter().any(|gone| gone.id == change.id && gone.kind != "delete");
            assert_eq!(change.kind == "update_postimage", was, "{change:?}");
            rows.entry(change.id).or_default().push(change.row.clone());
            by_key.insert(change.id, change.row.clone());
        }
        if let Some(model) = models.get(&version) {
            assert_eq!(by_key, *model, "merged by key up to version {version}");
            let flat: Vec<(i64, Row)> = rows
                .iter()
                .flat_map(|(id, rows)| rows.iter().map(|row| (*id, row.clone())))
                .collect();
            let expected: Vec<(i64, Row)> = model.clone().into_iter().collect();
            assert_eq!(flat, expected, "rows up to version {version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_folds_to_the_table_at_every_version() {
    for (seed, vectors) in [(1, true), (2, true), (3, false)] {
        let folder = Folder::new();
        let shape = Shape::new(&schema(), &Origin::default()).with_feed(true);
        let mut table = folder
            .create_as(if vectors { shape } else { shape.without_vectors() })
            .await;
        table.build_index().await.expect("index");
        let mut random = numbers(seed);
        let (mut model, mut models) = (Model::new(), BTreeMap::new());
        for round in 0..80_u64 {
            for _part in 0..=random(2) {
                let mut changes = Changes::default();
                for step in 0..random(60) {
                    let id = random(80) as i64;
                    let (v, big) = (format!("v{round}.{step}"), format!("b{round}.{step}"));
                    let known = model.contains_key(&id);
                    match random(100) {
                        0 if round % 10 == 0 => changes.truncate(&mut model),
                        1..=20 if known => changes.delete(&mut model, id),
                        21..=35 if known => {
                            let to = random(80) as i64;
                            if to != id && !model.contains_key(&to) {
                                changes.rename(&mut model, id, to, &v);
                            }
                        }
                        36..=65 if known => changes.upsert(&mut model, id, &v, None),
                        _ => changes.upsert(&mut model, id, &v, Some(&big)),
                    }
                }
                table.stage(changes.batch(), &NoSource).await.expect("stage");
            }
            if round % 17 == 0 {
                let mut changes = Changes::default();
                changes.truncate(&mut model);
                table.stage(changes.batch(), &NoSource).await.expect("stage");
            }
            if round < 50 && random(2) == 0 {
                let ids: Vec<i64> = (0..20).map(|i| random(20) as i64 + i * 20).collect();
                let chunk = chunk(&table, &ids, 2).await;
                table.stage_chunk(chunk).await.expect("chunk");
                for id in ids {
                    model.entry(id).or_insert(("chunk".to_owned(), "chunk".to_owned()));
                }
            }
            let state = if round < 50 {
                State::Snapshotting
            } else {
                State::Streaming
            };
            let committed = table.commit("MERGE", |record| record.state = state).await;
            models.insert(committed.expect("commit").version, model.clone());
            assert_eq!(rows(&table).await, model, "round {round}");
            if round % 7 == 0 {
                table = folder.reopen().await;
            }
            if let Some(compaction) = table.compaction() {
                let done = compaction.run(&AtomicBool::new(false)).await;
                let done = done.expect("compaction").expect("a file");
                let version = table
                    .take_compacted(&done)
                    .await
                    .expect("compacted")
                    .expect("a version");
                assert!(actions(&table, version, "cdc").await.is_empty());
                models.insert(version, model.clone());
            }
        }
        let feed = folder.feed(0, table.version).await;
        fold(&feed, &models, table.version);
        let kinds = ["insert", "delete", "update_preimage", "update_postimage"];
        for kind in kinds {
            assert!(feed.iter().filter(|change| change.kind == kind).count() > 100, "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_writers_changes_are_told_once() {
    for (seed, vectors) in [(11, true), (12, true), (13, true), (14, false)] {
        let folder = Folder::new();
        let shape = Shape::new(&schema(), &Origin::default()).with_feed(true);
        let mut table = folder
            .create_as(if vectors { shape } else { shape.without_vectors() })
            .await;
        table.build_index().await.expect("index");
        table.commit("START", streaming).await.expect("start");
        let mut random = numbers(seed);
        let (mut model, mut models) = (Model::new(), BTreeMap::new());
        for round in 0..60_u64 {
            let mut changes = Changes::default();
            for step in 0..random(40) {
                let id = random(60) as i64;
                let (v, big) = (format!("v{round}.{step}"), format!("b{round}.{step}"));
                match random(100) {
                    0 if round % 10 == 0 => changes.truncate(&mut model),
                    1..=30 if model.contains_key(&id) => changes.delete(&mut model, id),
                    _ => changes.upsert(&mut model, id, &v, Some(&big)),
                }
            }
            // Without vectors, only between commits: beside one, it starts anew.
            let beside = vectors && random(3) == 0;
            if !beside {
                table.stage(changes.batch(), &NoSource).await.expect("stage");
                let committed = commit(&mut table, round + 2).await.expect("commit");
                models.insert(committed.version, model.clone());
                changes = Changes::default();
            } else {
                let changes = std::mem::take(&mut changes);
                table.stage(changes.batch(), &NoSource).await.expect("stage");
            }
            match random(5) {
                0 => folder.optimize().await,
                1 if vectors => {
                    let gone = folder.delete_some(round).await;
                    // What is staged comes after it.
                    gone.iter()
                        .filter(|id| !is_staged(&table, **id))
                        .for_each(|id| drop(model.remove(id)));
                }
                2 => {
                    let ids: Vec<i64> = (0..random(10)).map(|i| (random(60) + i * 60) as i64).collect();
                    folder.append(&ids, random(2) == 0).await;
                    let emptied = table.files.iter().any(|file| file.removed && file.committed);
                    for id in ids.into_iter().filter(|_| !emptied) {
                        model.entry(id).or_insert(("other".to_owned(), "other".to_owned()));
                    }
                }
                _ => {}
            }
            if !beside && random(4) == 0 {
                table = folder.reopen().await;
            }
            let committed = commit(&mut table, round + 2).await.expect("commit");
            models.insert(committed.version, model.clone());
            assert_eq!(rows(&table).await, model, "round {round}, seed {seed}");
        }
        let feed = folder.feed(0, table.version).await;
        fold(&feed, &models, table.version);
    }
}

/// Whether the row of a key is staged, and in no version yet.
fn is_staged(table: &DeltaTable, id: i64) -> bool {
    let found = table.find(id as Key).expect("find");
    found.is_some_and(|location| !table.files[location.file() as usize].committed)
}

fn told(kinds: &[(&str, i64)]) -> Vec<(String, i64)> {
    kinds.iter().map(|(kind, id)| ((*kind).to_owned(), *id)).collect()
}

fn upserts(model: &mut Model, ids: impl IntoIterator<Item = i64>, v: &str) -> Changes {
    let mut changes = Changes::default();
    for id in ids {
        changes.upsert(model, id, v, Some("big"));
    }
    changes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_told_once_by_its_net_change() {
    for vectors in [true, false] {
        check_net_changes(vectors).await;
    }
}

async fn check_net_changes(vectors: bool) {
    let folder = Folder::new();
    let shape = Shape::new(&schema(), &Origin::default()).with_feed(true);
    let shape = if vectors { shape } else { shape.without_vectors() };
    let mut table = folder.stream_as(shape).await;
    let mut model = Model::new();
    // Inserts alone need no file of their own.
    let version = apply(&mut table, upserts(&mut model, 0..5, "a"), 2).await.version;
    assert!(actions(&table, version, "cdc").await.is_empty());
    assert_eq!(
        folder.told(version).await,
        (0..5).map(|id| ("insert".to_owned(), id)).collect::<Vec<_>>()
    );
    // A transaction in three parts.
    for part in ["b", "c", "d"] {
        let mut changes = upserts(&mut model, [1, 2, 10, 11], part);
        match part {
            "b" => changes.delete(&mut model, 2),
            "c" => changes.delete(&mut model, 11),
            _ => {
                changes.delete(&mut model, 1);
                changes.delete(&mut model, 11);
                changes.delete(&mut model, 4);
            }
        }
        table.stage(changes.batch(), &NoSource).await.expect("stage");
    }
    let version = commit(&mut table, 3).await.expect("commit").version;
    let net = [
        ("delete", 1),
        ("delete", 4),
        ("insert", 10),
        ("update_postimage", 2),
        ("update_preimage", 2),
    ];
    assert_eq!(folder.told(version).await, told(&net));
    let cdc = actions(&table, version, "cdc").await;
    assert_eq!(cdc.len(), 1);
    let path = folder.0.join("public/t").join(cdc[0]["path"].as_str().expect("a path"));
    assert_eq!(cdc[0]["size"], std::fs::metadata(path).expect("a file").len());
    assert_eq!(
        (&cdc[0]["dataChange"], &cdc[0]["partitionValues"]),
        (&json!(false), &json!({}))
    );
    let row = |version: u64, kind: &'static str| {
        let feed = folder.feed(version, version);
        async move {
            let mut found = feed.await.into_iter();
            found.find(|change| change.kind == kind).expect("a change").row.0
        }
    };
    assert_eq!(row(version, "update_preimage").await, "a");
    assert_eq!(row(version, "update_postimage").await, "d");
    // All rows are deleted one by one.
    let mut changes = Changes::default();
    for id in model.keys().copied().collect::<Vec<_>>() {
        changes.delete(&mut model, id);
    }
    let version = apply(&mut table, changes, 4).await.version;
    assert_eq!(
        folder.told(version).await,
        told(&[("delete", 0), ("delete", 2), ("delete", 3), ("delete", 10)])
    );
    // Nothing changes, nothing is told.
    let version = commit(&mut table, 5).await.expect("commit").version;
    assert!(folder.told(version).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_table_is_told_by_its_files() {
    let folder = Folder::new();
    let mut table = folder.start_with_feed().await;
    let mut model = Model::new();
    apply(&mut table, upserts(&mut model, 0..5, "a"), 2).await;
    // A row dies in the transaction that truncates, just before.
    let mut changes = Changes::default();
    changes.delete(&mut model, 1);
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    let mut changes = Changes::default();
    changes.truncate(&mut model);
    let version = apply(&mut table, changes, 4).await.version;
    assert!(actions(&table, version, "cdc").await.is_empty());
    let all = [0, 1, 2, 3, 4].map(|id| ("delete", id));
    assert_eq!(folder.told(version).await, told(&all));
    // A file that goes has a vector, which not every reader honours.
    apply(&mut table, upserts(&mut model, 0..3, "b"), 5).await;
    let mut changes = Changes::default();
    changes.delete(&mut model, 0);
    apply(&mut table, changes, 5).await;
    let mut changes = Changes::default();
    changes.truncate(&mut model);
    let version = apply(&mut table, changes, 5).await.version;
    assert_eq!(actions(&table, version, "cdc").await.len(), 1);
    assert_eq!(folder.told(version).await, told(&[("delete", 1), ("delete", 2)]));
    // Truncated and filled again: some keys stay.
    apply(&mut table, upserts(&mut model, 0..3, "b"), 5).await;
    let mut changes = Changes::default();
    changes.truncate(&mut model);
    let refilled = upserts(&mut model, 2..4, "c");
    let changes = Changes {
        truncated_by: changes.truncated_by,
        ..refilled
    };
    let version = apply(&mut table, changes, 6).await.version;
    let net = [
        ("delete", 0),
        ("delete", 1),
        ("insert", 3),
        ("update_postimage", 2),
        ("update_preimage", 2),
    ];
    assert_eq!(folder.told(version).await, told(&net));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_tells_the_rows_that_it_adds() {
    for vectors in [true, false] {
        let folder = Folder::new();
        let shape = Shape::new(&schema(), &Origin::default()).with_feed(true);
        let mut table = folder
            .create_as(if vectors { shape } else { shape.without_vectors() })
            .await;
        table.build_index().await.expect("index");
        apply(&mut table, upserts(&mut Model::new(), [2, 3], "stream"), 2).await;
        // All of it, then a part of it.
        for (ids, files, added) in [([5, 6], 0, vec![5, 6]), ([3, 4], usize::from(vectors), vec![4])] {
            let chunk = chunk(&table, &ids, 9).await;
            table.stage_chunk(chunk).await.expect("chunk");
            let version = commit(&mut table, 3).await.expect("commit").version;
            assert_eq!(actions(&table, version, "cdc").await.len(), files);
            let added: Vec<_> = added.into_iter().map(|id| ("insert", id)).collect();
            assert_eq!(folder.told(version).await, told(&added));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_is_turned_on_and_off_by_commits() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    let plain = table.shape.domain_action().to_string();
    assert!(!plain.contains("feed"), "{plain}");
    table.commit("START", streaming).await.expect("start");
    let mut model = Model::new();
    apply(&mut table, upserts(&mut model, 0..5, "a"), 2).await;
    let version = apply(&mut table, upserts(&mut model, 0..2, "b"), 3).await.version;
    assert!(actions(&table, version, "cdc").await.is_empty());

    let mut table = folder.reopen().await;
    table.set_feed(true);
    let on = table.commit("CLAIM", |_| {}).await.expect("claim").version;
    let protocol = actions(&table, on, "protocol").await.remove(0);
    let has = |features: &Value| {
        let mut features = features.as_array().into_iter().flatten();
        features.any(|f| f == FEATURE)
    };
    assert!(has(&protocol["writerFeatures"]) && !has(&protocol["readerFeatures"]));
    let metadata = actions(&table, on, "metaData").await.remove(0);
    assert_eq!(metadata["configuration"][PROPERTY], "true");
    let mut table = folder.reopen().await;
    assert!(table.shape.feed);
    table.set_feed(true);
    let same = table.commit("CLAIM", |_| {}).await.expect("claim").version;
    assert!(actions(&table, same, "metaData").await.is_empty());
    apply(&mut table, upserts(&mut model, 1..3, "c"), 4).await;
    let last = table.version;
    let feed = folder.feed(on, last).await;
    assert_eq!(feed.len(), 4, "{feed:?}");

    table.set_feed(false);
    let off = table.commit("CLAIM", |_| {}).await.expect("claim").version;
    let metadata = actions(&table, off, "metaData").await.remove(0);
    assert!(metadata["configuration"][PROPERTY].is_null(), "{metadata}");
    assert!(actions(&table, off, "protocol").await.is_empty());
    let version = apply(&mut table, upserts(&mut model, 1..3, "d"), 5).await.version;
    assert!(actions(&table, version, "cdc").await.is_empty());
    assert!(!folder.reopen().await.shape.feed);
    // On again: the protocol has it already.
    let mut table = folder.reopen().await;
    table.set_feed(true);
    let on = table.commit("CLAIM", |_| {}).await.expect("claim").version;
    assert!(actions(&table, on, "protocol").await.is_empty());
    apply(&mut table, upserts(&mut model, 1..3, "e"), 6).await;
    assert_eq!(folder.feed(on, table.version).await.len(), 4);
    assert_eq!(rows(&folder.reopen().await).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_program_that_turns_the_feed_on_gets_one() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    table.commit("START", streaming).await.expect("start");
    let mut model = Model::new();
    apply(&mut table, upserts(&mut model, 0..5, "a"), 2).await;
    let theirs = table.shape.clone().with_feed(true);
    let metadata = theirs.metadata_action("public.t", &schema());
    folder.commit(vec![theirs.protocol_action(), metadata]).await;
    let mut table = folder.reopen().await;
    assert!(table.shape.feed);
    let version = apply(&mut table, upserts(&mut model, 0..2, "b"), 3).await.version;
    assert_eq!(actions(&table, version, "cdc").await.len(), 1);
    assert_eq!(folder.told(version).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_told_where_it_replaces_the_table() {
    let folder = Folder::new();
    let mut table = folder.start_with_feed().await;
    let mut old = Model::new();
    apply(&mut table, upserts(&mut old, 0..5, "old"), 2).await;
    let mut changes = Changes::default();
    changes.delete(&mut old, 4);
    apply(&mut table, changes, 3).await;
    let main = Opened::read(folder.log(), PIPELINE)
        .await
        .expect("open")
        .expect("table");
    let shape = main.shape.replacing(&schema(), &Origin::default());
    let lake = Lake::open(&folder.0.display().to_string(), &StoreOptions::default()).expect("lake");
    let log = lake.copy(&table_path(&TableId::new("public", "t")), "c").expect("log");
    let record = TableRecord::new(PIPELINE.into(), "public.t".into(), 7, 1, position(3));
    let copy = DeltaTable::create(log, schema(), shape, record).await.expect("create");
    let mut copy = copy.replacing(main);
    let mut new = Model::new();
    apply(&mut copy, upserts(&mut new, 3..9, "new"), 4).await;
    let mut changes = upserts(&mut new, 3..5, "newer");
    changes.delete(&mut new, 8);
    let hidden = apply(&mut copy, changes, 5).await.version;
    assert!(actions(&copy, hidden, "cdc").await.is_empty());
    let version = copy.replace().await.expect("replace").expect("a version");
    assert!(actions(&copy, version, "cdc").await.is_empty());
    let gone = (0..4).map(|id| ("delete".to_owned(), id));
    let come = (3..8).map(|id| ("insert".to_owned(), id));
    assert_eq!(folder.told(version).await, gone.chain(come).collect::<Vec<_>>());
    // From here on it is the table.
    let version = apply(&mut copy, upserts(&mut new, 3..4, "newest"), 6).await.version;
    assert_eq!(
        folder.told(version).await,
        told(&[("update_postimage", 3), ("update_preimage", 3)])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_have_the_columns_of_their_version() {
    let folder = Folder::new();
    let mut table = folder.start_with_feed().await;
    let mut model = Model::new();
    apply(&mut table, upserts(&mut model, 0..5, "a"), 2).await;
    let mut changes = Changes::default();
    changes.delete(&mut model, 3);
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    table.evolve(renamed(), &Origin::default()).expect("evolve");
    let version = commit(&mut table, 3).await.expect("commit").version;
    let cdc = actions(&table, version, "cdc").await.remove(0);
    let path = folder.0.join("public/t").join(cdc["path"].as_str().expect("a path"));
    let file = std::fs::File::open(path).expect("a file");
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).expect("parquet");
    let names: Vec<String> = reader.schema().fields().iter().map(|f| f.name().clone()).collect();
    // Physical names, under which the mapping finds them.
    assert_eq!(names, ["v", "id", "big", "extra", "_change_type"]);
    let large = {
        let log = folder.log();
        let executor = TokioMultiThreadExecutor::new(tokio::runtime::Handle::current());
        let engine = DefaultEngineBuilder::new(log.store().clone()).with_task_executor(Arc::new(executor));
        let engine = Arc::new(engine.build());
        let url = log.url().clone();
        tokio::task::spawn_blocking(move || {
            let changes = TableChanges::try_new(url, engine.as_ref(), version, Some(version)).expect("changes");
            let scan = changes.into_scan_builder().build().expect("scan");
            let data = scan
                .execute(engine)
                .expect("execute")
                .next()
                .expect("data")
                .expect("data");
            let data = ArrowEngineData::try_from_engine_data(data).expect("arrow");
            let rows = data.record_batch();
            let large = rows.column_by_name("large").expect("the new name").clone();
            large.as_string::<i32>().value(0).to_owned()
        })
        .await
        .expect("no panic")
    };
    assert_eq!(large, "big");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_with_a_name_of_the_feed_ends_it() {
    let folder = Folder::new();
    let mut table = folder.start_with_feed().await;
    let mut model = Model::new();
    apply(&mut table, upserts(&mut model, 0..5, "a"), 2).await;
    let mut schema = schema().as_ref().clone();
    schema.columns.push(Column {
        name: "_Change_type".into(),
        ty: LakeType::String,
        attribute: 4,
        source: SourceType::default(),
    });
    assert_eq!(reserved_column(&schema), Some("_Change_type"));
    let mut changes = Changes::default();
    changes.delete(&mut model, 3);
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    table.evolve(Arc::new(schema), &Origin::default()).expect("evolve");
    let version = commit(&mut table, 3).await.expect("commit").version;
    assert!(actions(&table, version, "cdc").await.is_empty());
    let metadata = actions(&table, version, "metaData").await.remove(0);
    assert!(metadata["configuration"][PROPERTY].is_null(), "{metadata}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_kept_as_long_as_their_versions() {
    let folder = Folder::new();
    let mut table = folder.start_with_feed().await;
    let mut model = Model::new();
    apply(&mut table, upserts(&mut model, 0..20, "a"), 2).await;
    let kept = |folder: &Folder| {
        let listed = std::fs::read_dir(folder.0.join("public/t/_change_data")).expect("a folder");
        listed.count()
    };
    for round in 0..10 {
        apply(&mut table, upserts(&mut model, round..round + 3, "b"), 3).await;
    }
    table.log.checkpoint(table.version).await.expect("checkpoint");
    // What a commit left that never was.
    std::fs::write(folder.0.join("public/t/_change_data/cdc-stray.snappy.parquet"), "x").expect("a file");
    folder.age(100);
    let first = table.version + 1;
    for round in 0..10 {
        apply(&mut table, upserts(&mut model, round..round + 3, "c"), 4).await;
    }
    table.log.checkpoint(table.version).await.expect("checkpoint");
    assert_eq!(kept(&folder), 21);
    let cutoff = |hours: i64| now_ms() - hours * 3600 * 1000;
    table.cleaning().expect("alone").run(cutoff(1000)).await.expect("clean");
    assert_eq!(kept(&folder), 21);
    // The version before was current until then.
    table.cleaning().expect("alone").run(cutoff(50)).await.expect("clean");
    assert_eq!(kept(&folder), 11);
    let feed = folder.feed(first - 1, table.version).await;
    assert_eq!(feed.len(), 11 * 6);
    // Younger files may be on their way.
    std::fs::write(folder.0.join("public/t/_change_data/cdc-late.snappy.parquet"), "x").expect("a file");
    table.cleaning().expect("alone").run(cutoff(50)).await.expect("clean");
    assert_eq!(kept(&folder), 12);
    folder.age(100);
    table.cleaning().expect("alone").run(cutoff(50)).await.expect("clean");
    // The newest version tells its own.
    assert_eq!(kept(&folder), 1);
    assert_eq!(folder.feed(table.version, table.version).await.len(), 6);
    assert_eq!(rows(&folder.reopen().await).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_written_anew_beside_another_writer_are_given_up() {
    let folder = Folder::new();
    let shape = Shape::new(&schema(), &Origin::default()).without_vectors();
    let mut table = folder.stream_as(shape.with_feed(true)).await;
    let mut model = Model::new();
    apply(&mut table, upserts(&mut model, 0..5, "a"), 2).await;
    let changes = upserts(&mut model.clone(), 1..2, "b");
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    folder.append(&[7], true).await;
    let taken = commit(&mut table, 3).await.expect_err("its version is taken");
    assert_eq!(taken.class(), Class::Transient);
    // The source sends it again.
    model.insert(7, ("other".to_owned(), "other".to_owned()));
    let mut table = folder.reopen().await;
    apply(&mut table, upserts(&mut model, 1..2, "b"), 3).await;
    assert_eq!(rows(&folder.reopen().await).await, model);
}
