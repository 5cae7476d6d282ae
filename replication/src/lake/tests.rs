//! The table against a plain map: batches, moves, unchanged cells, truncates,
//! chunks, parts of transactions, reopening, and other writers.

mod feed;
mod history;
mod index;
mod partitions;
mod soft_delete;
mod upkeep;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use arrow::array::{AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;

use super::*;
use crate::batch::{ChangeBatch, CommitPoint, Commits, Op, UnchangedCell};
use crate::error::Class;
use crate::position::Lsn;
use crate::schema::{Column, LakeType, SourceType};

const PIPELINE: &str = "test";

type Model = BTreeMap<i64, (String, String)>;

/// The next numbers of a sequence that looks random.
fn numbers(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    }
}

/// A lake in a folder that goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("tributary-{}", uuid::Uuid::new_v4())))
    }

    fn log(&self) -> Log {
        let lake = Lake::open(&self.0.display().to_string(), &StoreOptions::default()).expect("lake");
        lake.table(&TableId::new("public", "t")).expect("log")
    }

    async fn create(&self) -> DeltaTable {
        self.create_as(Shape::new(&schema(), &Origin::default())).await
    }

    async fn create_as(&self, shape: Shape) -> DeltaTable {
        let schema = schema();
        let record = TableRecord::new(PIPELINE.into(), "public.t".into(), 7, 1, position(1));
        DeltaTable::create(self.log(), schema, shape, record)
            .await
            .expect("create")
    }

    /// A table whose copy is over, with an index.
    async fn stream_as(&self, shape: Shape) -> DeltaTable {
        let mut table = self.create_as(shape).await;
        table.build_index().await.expect("index");
        table.commit("START", streaming).await.expect("start");
        table
    }

    async fn opened(&self) -> Opened {
        let opened = Opened::read(self.log(), PIPELINE).await.expect("open");
        opened.expect("a table")
    }

    /// New content for the table, of a shape and with a record by what it has.
    async fn copy(
        &self,
        schema: Arc<TableSchema>,
        shape: impl FnOnce(&Shape) -> Shape,
        change: impl FnOnce(&Opened, &mut TableRecord),
    ) -> DeltaTable {
        let lake = Lake::open(&self.0.display().to_string(), &StoreOptions::default()).expect("lake");
        let id = TableId::new("public", "t");
        let log = lake.copy(&table_path(&id), "copy").expect("log");
        let main = self.opened().await;
        let mut record = TableRecord::new(PIPELINE.into(), "public.t".into(), 7, 1, position(3));
        change(&main, &mut record);
        let copy = DeltaTable::create(log, schema, shape(&main.shape), record).await;
        let mut copy = copy.expect("create");
        copy.build_index().await.expect("index");
        copy.replacing(main)
    }

    async fn reopen(&self) -> DeltaTable {
        let mut table = DeltaTable::new(schema(), self.opened().await);
        table.prepare(&IndexHome::private(INDEX_MEMORY)).await.expect("index");
        table
    }
}

impl DeltaTable {
    /// Builds an index that goes with the table.
    async fn build_index(&mut self) -> Result<u64> {
        self.open_index(&IndexHome::private(INDEX_MEMORY)).await
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn schema() -> Arc<TableSchema> {
    let column = |attribute, name: &str, ty| Column {
        name: name.into(),
        ty,
        attribute,
        source: SourceType::default(),
    };
    Arc::new(TableSchema {
        columns: vec![
            column(1, "v", LakeType::String),
            column(2, "id", LakeType::Long),
            column(3, "big", LakeType::String),
        ],
        key: vec![1],
    })
}

fn position(lsn: u64) -> Position {
    Position::Lsn(Lsn(lsn))
}

/// Fails the test if it is asked: the lake has everything.
struct NoSource;

impl PointReader for NoSource {
    fn read<'a>(&'a self, _: RecordBatch) -> Pin<Box<dyn Future<Output = Result<PointRead>> + Send + 'a>> {
        Box::pin(async { Err(Error::bug("the source was asked for a row that the lake has")) })
    }
}

/// A source where every key asked for has one and the same row.
struct Source {
    big: &'static str,
    high: u64,
}

impl PointReader for Source {
    fn read<'a>(&'a self, keys: RecordBatch) -> Pin<Box<dyn Future<Output = Result<PointRead>> + Send + 'a>> {
        let mut found = Changes::default();
        for id in keys.column(0).as_primitive::<Int64Type>().values() {
            found.push(Op::Upsert, *id, Some("source"), Some(self.big));
        }
        let rows = found.batch().rows;
        let high = position(self.high);
        let asked = keys.num_rows();
        Box::pin(async move { Ok(PointRead { rows, asked, high }) })
    }
}

/// Gathers changes the way a source does, and applies them to a model.
#[derive(Default)]
struct Changes {
    v: Vec<Option<String>>,
    id: Vec<i64>,
    big: Vec<Option<String>>,
    ops: Vec<Op>,
    unchanged: Vec<UnchangedCell>,
    truncated_by: Option<TxId>,
}

impl Changes {
    fn push(&mut self, op: Op, id: i64, v: Option<&str>, big: Option<&str>) {
        if op != Op::Delete && big.is_none() {
            self.unchanged.push(UnchangedCell {
                row: self.ops.len() as u32,
                column: 2,
            });
        }
        self.ops.push(op);
        self.id.push(id);
        self.v.push(v.map(str::to_owned));
        self.big.push(big.map(str::to_owned));
    }

    fn upsert(&mut self, model: &mut Model, id: i64, v: &str, big: Option<&str>) {
        self.push(Op::Upsert, id, Some(v), big);
        let big = big.map_or_else(|| model[&id].1.clone(), str::to_owned);
        model.insert(id, (v.to_owned(), big));
    }

    fn delete(&mut self, model: &mut Model, id: i64) {
        self.push(Op::Delete, id, None, None);
        model.remove(&id);
    }

    fn rename(&mut self, model: &mut Model, from: i64, to: i64, v: &str) {
        self.push(Op::Delete, from, None, None);
        self.push(Op::Move, to, Some(v), None);
        let (_, big) = model.remove(&from).expect("a row to move");
        model.insert(to, (v.to_owned(), big));
    }

    fn truncate(&mut self, model: &mut Model) {
        *self = Self {
            truncated_by: Some(1),
            ..Self::default()
        };
        model.clear();
    }

    fn batch(self) -> ChangeBatch {
        let rows = RecordBatch::try_new(
            schema().arrow(),
            vec![
                Arc::new(StringArray::from(self.v)),
                Arc::new(Int64Array::from(self.id)),
                Arc::new(StringArray::from(self.big)),
            ],
        );
        ChangeBatch {
            rows: rows.expect("batch"),
            transactions: vec![1; self.ops.len()],
            ops: self.ops,
            unchanged: self.unchanged,
            truncated_by: self.truncated_by,
            patches: None,
            commits: None,
        }
    }
}

/// All live rows; a key that is there twice fails the test.
async fn rows(table: &DeltaTable) -> Model {
    let mut model = Model::new();
    for file in table.files.iter().filter(|f| f.live_rows() > 0) {
        let mut row = 0;
        let columns = table.columns_schema(&[0, 1, 2]).expect("columns");
        data_file::scan(&table.log, &file.stored(), &columns, |batch| {
            let (v, id, big) = (
                batch.column(0).as_string::<i32>(),
                batch.column(1).as_primitive::<Int64Type>(),
                batch.column(2).as_string::<i32>(),
            );
            for i in 0..batch.num_rows() {
                if !file.deleted.contains(row) {
                    let before = model.insert(id.value(i), (v.value(i).to_owned(), big.value(i).to_owned()));
                    assert!(before.is_none(), "key {} is there twice", id.value(i));
                }
                row += 1;
            }
            Ok(())
        })
        .await
        .expect("scan");
    }
    model
}

async fn commit(table: &mut DeltaTable, lsn: u64) -> Result<Committed> {
    table.commit("MERGE", |record| record.watermark = position(lsn)).await
}

/// Stages changes of which the lake has every value, and commits them.
async fn apply(table: &mut DeltaTable, changes: Changes, lsn: u64) -> Committed {
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    commit(table, lsn).await.expect("commit")
}

/// A batch all of which one commit brought.
fn committed(mut batch: ChangeBatch, point: &CommitPoint) -> ChangeBatch {
    let mut commits = Commits::default();
    commits.note(batch.ops.len(), batch.truncated_by.is_some(), point);
    batch.commits = Some(Box::new(commits));
    batch
}

fn streaming(record: &mut TableRecord) {
    record.state = State::Streaming;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_sequence_of_batches_equals_a_map() {
    check_sequence(&Folder::new(), Shape::new(&schema(), &Origin::default()), u64::MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_sequence_of_batches_equals_a_map_without_vectors() {
    let folder = Folder::new();
    let table = check_sequence(
        &folder,
        Shape::new(&schema(), &Origin::default()).without_vectors(),
        u64::MAX,
    )
    .await;
    let protocol = table.shape.protocol_action();
    assert_eq!(protocol["protocol"]["minReaderVersion"], 1);
    for version in 0..=table.version {
        let entry = table.log.read(version).await.expect("read").expect("an entry");
        assert!(entry.iter().all(|action| action["add"]["deletionVector"].is_null()));
    }
}

/// `kinds` is how many values of `v` there are.
async fn check_sequence(folder: &Folder, shape: Shape, kinds: u64) -> DeltaTable {
    let mut random = numbers(7);
    let mut table = folder.stream_as(shape).await;
    let mut model = Model::new();
    for round in 0..150_u64 {
        for _part in 0..=random(2) {
            let mut changes = Changes::default();
            for step in 0..random(60) {
                let id = random(80) as i64;
                let v = format!("v{}", (round * 100 + step) % kinds);
                let big = format!("b{round}.{step}");
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
        commit(&mut table, round + 2).await.expect("commit");
        assert_eq!(rows(&table).await, model, "round {round}");
        assert_eq!(table.rows(), model.len() as u64);
        if round % 7 == 0 {
            table = folder.reopen().await;
            assert_eq!(rows(&table).await, model, "reopened in round {round}");
            assert_eq!(table.record().watermark, position(round + 2));
        }
        if let Some(compaction) = table.compaction() {
            let done = compaction
                .run(&AtomicBool::new(false))
                .await
                .expect("compaction")
                .expect("a file");
            table.take_compacted(&done).await.expect("compacted");
            assert_eq!(rows(&table).await, model, "compacted in round {round}");
        }
    }
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remove_carries_the_vector_of_the_add_before() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    let mut model = Model::new();
    let mut first = Changes::default();
    for id in 0..10 {
        first.upsert(&mut model, id, "a", Some("b"));
    }
    apply(&mut table, first, 2).await;
    for id in 0..3 {
        let mut changes = Changes::default();
        changes.delete(&mut model, id);
        apply(&mut table, changes, 3).await;
    }
    let mut before = Value::Null;
    for version in 1..=4 {
        let actions = table.log.read(version).await.expect("read").expect("entry");
        let of = |kind: &str| actions.iter().map(|a| a[kind].clone()).find(|a| !a.is_null());
        if version > 1 {
            assert_eq!(
                of("remove").expect("a remove")["deletionVector"],
                before,
                "version {version}"
            );
        }
        before = of("add").expect("an add")["deletionVector"].clone();
    }
    assert_eq!(before["cardinality"], 3);
    assert_eq!(rows(&folder.reopen().await).await, model);
}

/// A chunk with these ids, whose snapshot saw transactions below `horizon`.
async fn chunk(table: &DeltaTable, ids: &[i64], horizon: TxId) -> Chunk {
    let mut changes = Changes::default();
    for id in ids {
        changes.push(Op::Upsert, *id, Some("chunk"), Some("chunk"));
    }
    let batch = changes.batch().rows;
    let keys = table.encoder().keys(&batch).expect("keys");
    let mut writer = table.file_format().writer();
    writer.write(&batch, &keys).await.expect("write");
    Chunk {
        files: writer.finish().await.expect("finish"),
        saw: Box::new(move |transaction| transaction < horizon),
        all_saw: Box::new(move |transaction| transaction < horizon),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_adds_only_what_the_stream_has_not_told() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    let mut model = Model::new();
    let mut changes = Changes::default();
    changes.upsert(&mut model, 1, "stream", Some("stream"));
    // Deleted by transaction 1.
    changes.push(Op::Delete, 2, None, None);
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    // The chunk's snapshot saw no transaction: key 2 was deleted after it.
    let unseen = chunk(&table, &[1, 2, 3], 0).await;
    assert_eq!(table.stage_chunk(unseen).await.expect("stage"), 1);
    // This one saw the delete, so its key 2 came later.
    let seen = chunk(&table, &[2, 3, 4], 2).await;
    assert_eq!(table.stage_chunk(seen).await.expect("stage"), 2);
    commit(&mut table, 2).await.expect("commit");
    let copied = || ("chunk".to_owned(), "chunk".to_owned());
    model.extend([2, 3, 4].map(|id| (id, copied())));
    assert_eq!(rows(&table).await, model);
    assert_eq!(rows(&folder.reopen().await).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_read_at_the_source_never_go_to_another_key() {
    let later = Source {
        big: "of a later row",
        high: 9,
    };
    let own = Source { big: "own", high: 20 };
    for reopened in [false, true] {
        let folder = Folder::new();
        let mut table = folder.create().await;
        // Key 1 is not copied yet; the source has another row of that key by now.
        let mut changes = Changes::default();
        changes.push(Op::Upsert, 1, Some("stream"), None);
        let high = table
            .stage(changes.batch(), &later)
            .await
            .expect("stage")
            .expect("a read");
        table.expect_catch_up(high);
        commit(&mut table, 2).await.expect("commit");
        if reopened {
            table = folder.reopen().await;
        }
        let mut changes = Changes::default();
        changes.push(Op::Delete, 1, None, None);
        changes.push(Op::Move, 2, Some("moved"), None);
        let high = table.stage(changes.batch(), &own).await.expect("stage");
        assert_eq!(high, Some(position(20)));
        table.expect_catch_up(position(20));
        commit(&mut table, 3).await.expect("commit");
        let expected = Model::from([(2, ("moved".to_owned(), "own".to_owned()))]);
        assert_eq!(rows(&table).await, expected, "reopened: {reopened}");
        // Once the stream has passed the read, the value is the row's.
        commit(&mut table, 20).await.expect("commit");
        let mut changes = Changes::default();
        changes.push(Op::Delete, 2, None, None);
        changes.push(Op::Move, 3, Some("moved"), None);
        table.stage(changes.batch(), &NoSource).await.expect("stage");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_from_before_a_truncate_adds_nothing() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    let mut changes = Changes::default();
    changes.truncate(&mut Model::new());
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    let before = chunk(&table, &[1, 2], 1).await;
    assert_eq!(table.stage_chunk(before).await.expect("stage"), 0);
    let after = chunk(&table, &[5], 2).await;
    assert_eq!(table.stage_chunk(after).await.expect("stage"), 1);
    commit(&mut table, 2).await.expect("commit");
    assert_eq!(rows(&table).await.into_keys().collect::<Vec<_>>(), [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_sidecar_stops_and_a_stray_commit_is_passed() {
    let folder = Folder::new();
    let mut old = folder.create().await;
    let mut new = folder.reopen().await;
    new.commit("CLAIM", |record| record.epoch = 2).await.expect("claim");
    let fenced = commit(&mut old, 2).await.expect_err("a newer epoch");
    assert_eq!(fenced.class(), Class::NeedsOperator);
    assert!(fenced.to_string().contains("another sidecar"), "{fenced}");
    let info = vec![json!({"commitInfo": {"operation": "FOREIGN"}})];
    folder.log().commit(2, "FOREIGN", info).await.expect("foreign");
    assert_eq!(commit(&mut new, 2).await.expect("past a stray commit").version, 3);
    // One whose epoch is not newer has written our own changes.
    let mut same = folder.reopen().await;
    commit(&mut same, 3).await.expect("commit");
    let taken = commit(&mut new, 3).await.expect_err("our own changes");
    assert_eq!(taken.class(), Class::Transient);
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_keep_records_and_vectors() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    let mut model = Model::new();
    let mut changes = Changes::default();
    for id in 0..5 {
        changes.upsert(&mut model, id, "a", Some("b"));
    }
    apply(&mut table, changes, 2).await;
    let mut changes = Changes::default();
    changes.delete(&mut model, 3);
    apply(&mut table, changes, 3).await;
    table.log.checkpoint(2).await.expect("checkpoint");
    for version in 0..=2 {
        let entry = folder.0.join(format!("public/t/_delta_log/{version:020}.json"));
        std::fs::remove_file(entry).expect("clean up");
    }
    let mut table = folder.reopen().await;
    assert_eq!(rows(&table).await, model);
    assert_eq!(table.record().watermark, position(3));
    commit(&mut table, 4).await.expect("commit");
    assert_eq!(table.version(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_goes_leaves_no_checkpoint() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    commit(&mut table, 2).await.expect("commit");
    let log = table.log.clone();
    assert!(log.checkpoint_is_due(0), "the version of each checkpoint's interval");
    let writing = tokio::spawn(async move { log.checkpoint(1).await });
    table.log.discard([]).await;
    writing.await.expect("the task").expect("checkpoint");
    let left = std::fs::read_dir(folder.0.join("public/t/_delta_log")).map(|left| left.count());
    assert_eq!(left.unwrap_or_default(), 0);
}

#[test]
fn hostile_names_stay_inside_the_lake() {
    let lake = Lake::open("/lake", &StoreOptions::default()).expect("lake");
    for (schema, name, path) in [
        ("public", "orders", "/lake/public/orders/"),
        ("..", "../../etc", "/lake/~2E~2E/~2E~2E~2F~2E~2E~2Fetc/"),
        ("a b", "ü", "/lake/a~20b/~C3~BC/"),
        ("_delta_log", "_x", "/lake/~5Fdelta_log/~5Fx/"),
    ] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .expect("runtime");
        let _guard = runtime.enter();
        let log = lake.table(&TableId::new(schema, name)).expect("log");
        assert_eq!(log.url().to_file_path().expect("path"), PathBuf::from(path));
    }
}

fn renamed() -> Arc<TableSchema> {
    let mut schema = schema().as_ref().clone();
    schema.columns[2].name = "large".into();
    schema.columns.push(Column {
        name: "extra".into(),
        ty: LakeType::TimestampNtz,
        attribute: 4,
        source: SourceType::default(),
    });
    Arc::new(schema)
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_change_in_the_middle_of_a_commit() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    let mut model = Model::new();
    let mut changes = Changes::default();
    for id in 1..4 {
        changes.upsert(&mut model, id, "a", Some("large"));
    }
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    table.evolve(renamed(), &Origin::default()).expect("evolve");
    // With a value that is in a file under the old name.
    let mut changes = Changes::default();
    changes.upsert(&mut model, 2, "b", None);
    let mut batch = changes.batch();
    let mut columns = batch.rows.columns().to_vec();
    columns.push(arrow::array::new_null_array(&LakeType::TimestampNtz.arrow(), 1));
    batch.rows = RecordBatch::try_new(renamed().arrow(), columns).expect("rows");
    table.stage(batch, &NoSource).await.expect("stage");
    commit(&mut table, 2).await.expect("commit");
    assert_eq!(rows(&table).await, model);
    let entry = table.log.read(1).await.expect("read").expect("entry");
    let protocol = entry.iter().find_map(|a| a.get("protocol")).expect("a protocol");
    for feature in ["columnMapping", "timestampNtz", "deletionVectors"] {
        assert!(
            protocol["readerFeatures"]
                .as_array()
                .expect("features")
                .contains(&json!(feature))
        );
    }
    let opened = Opened::read(folder.log(), PIPELINE)
        .await
        .expect("open")
        .expect("table");
    let mut again = DeltaTable::new(renamed(), opened);
    again.build_index().await.expect("index");
    assert_eq!(rows(&again).await, model);
    assert_eq!(again.shape.columns[2].physical, "big");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_the_place_of_all_content_at_once() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    let mut old = Model::new();
    let mut changes = Changes::default();
    for id in 1..100 {
        changes.upsert(&mut old, id, "old", Some("old"));
    }
    apply(&mut table, changes, 2).await;
    let shape = |main: &Shape| main.replacing(&schema(), &Origin::default());
    let mut copy = folder.copy(schema(), shape, |_, _| ()).await;
    let mut new = Model::new();
    let mut changes = Changes::default();
    for id in 50..60 {
        changes.upsert(&mut new, id, "new", Some("new"));
    }
    apply(&mut copy, changes, 4).await;
    let mut changes = Changes::default();
    changes.delete(&mut new, 50);
    apply(&mut copy, changes, 5).await;
    // Readers see nothing of it yet.
    assert_eq!(rows(&folder.reopen().await).await, old);
    assert_eq!(copy.replace().await.expect("replace"), Some(2));
    assert_eq!(copy.replace().await.expect("replace"), None);
    let reopened = folder.reopen().await;
    assert_eq!(rows(&reopened).await, new);
    assert_eq!(
        (reopened.record.generation, reopened.record.watermark),
        (1, position(5))
    );
    // It goes on as any table.
    let mut changes = Changes::default();
    changes.upsert(&mut new, 51, "newer", None);
    apply(&mut copy, changes, 6).await;
    assert_eq!(rows(&folder.reopen().await).await, new);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_follows_the_log() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    table.commit("START", streaming).await.expect("start");
    let mut model = Model::new();
    let mut reader = folder.reopen().await;
    // Full before the end.
    let mut cache = FileCache::new(8 << 10);
    for round in 0..60_i64 {
        let mut changes = Changes::default();
        let (v, big) = (format!("v{round}"), format!("b{round}"));
        for id in (round * 7 % 50)..(round * 7 % 50 + 20) {
            match (id + round) % 5 {
                0 if model.contains_key(&id) => changes.delete(&mut model, id),
                1 if model.contains_key(&id) && !model.contains_key(&(id + 1000)) => {
                    changes.rename(&mut model, id, id + 1000, &v);
                }
                _ => changes.upsert(&mut model, id, &v, Some(&big)),
            }
        }
        if round == 40 {
            changes.truncate(&mut model);
            changes.upsert(&mut model, 5, &v, Some(&big));
        }
        apply(&mut table, changes, round as u64 + 2).await;
        if round % 3 != 0 && round != 40 {
            continue;
        }
        assert_eq!(reader.refresh().await.expect("refresh"), Refreshed::Current);
        assert_eq!(rows(&reader).await, model, "round {round}");
        assert_eq!(
            (reader.version(), reader.record().watermark.clone()),
            (table.version(), position(round as u64 + 2))
        );
        check_found(&mut reader, &model, &mut cache).await;
    }
}

/// Every row of the model is found by key and equal; all others are unseen.
async fn check_found(table: &mut DeltaTable, model: &Model, cache: &mut FileCache) {
    let mut source = Changes::default();
    let mut expected = Vec::new();
    for (id, (v, big)) in model {
        match id % 4 {
            // Known to the lake, not to the source.
            0 => continue,
            1 => {
                source.push(Op::Upsert, *id, Some("else"), Some(big));
                expected.push((source.id.len() - 1, vec![0]));
            }
            _ => source.push(Op::Upsert, *id, Some(v), Some(big)),
        }
    }
    source.push(Op::Upsert, -1, Some("missing"), Some("missing"));
    let rows = source.batch().rows;
    let last = rows.num_rows() - 1;
    // In two batches, the other way round.
    let half = rows.num_rows() / 2;
    let batches = [rows.slice(half, last + 1 - half), rows.slice(0, half)];
    let place = |row: usize| if row < half { (1, row) } else { (0, row - half) };
    let mut seen = Seen::default();
    let found = table
        .compare(&batches, None, Some(&mut seen), cache)
        .await
        .expect("compare");
    assert_eq!(found.missing, [place(last)]);
    let mut expected: Vec<_> = expected
        .into_iter()
        .map(|(row, columns)| (place(row), columns))
        .collect();
    expected.sort_unstable();
    assert_eq!(found.different, expected);
    let mut unseen = Vec::new();
    for number in table.file_numbers() {
        let mut from = 0;
        while let Some(part) = table.unseen(number, &seen, |_| true, &mut from).await.expect("unseen") {
            assert!(part.doubles.is_empty());
            unseen.extend_from_slice(part.keys.column(0).as_primitive::<Int64Type>().values());
        }
    }
    unseen.sort_unstable();
    let others: Vec<i64> = model.keys().copied().filter(|id| id % 4 == 0).collect();
    assert_eq!(unseen, others);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_tells_what_its_vectors_take_and_its_version() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    let mut commits = Vec::new();
    for (lsn, ids) in [(10, 0..1000), (20, 0..1), (30, 0..500), (40, 2000..2001)] {
        let mut changes = Changes::default();
        for id in ids {
            changes.push(Op::Upsert, id, Some("v"), Some("big"));
        }
        table.stage(changes.batch(), &NoSource).await.expect("stage");
        let commit = table.commit("MERGE", |record| record.watermark = position(lsn)).await;
        commits.push(commit.expect("commit"));
        assert_eq!(table.visible_version(), commits.last().map(|commit| commit.version));
    }
    let bytes: Vec<u64> = commits.iter().map(|commit| commit.vector_bytes).collect();
    // No row was there; one file is touched; two are, one of which is gone; none.
    assert_eq!((bytes[0], bytes[3]), (0, 0));
    assert!(bytes[1] > TOUCH_BYTES && bytes[2] > TOUCH_BYTES, "{bytes:?}");

    // What a copy has, nobody sees yet.
    let opened = Opened::read(folder.log(), PIPELINE)
        .await
        .expect("open")
        .expect("a table");
    assert_eq!(table.replacing(opened).visible_version(), None);
}
