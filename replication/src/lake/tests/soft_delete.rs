//! Tables that keep what is deleted, against a map that does.

use arrow::array::{Array, BooleanArray};
use arrow::datatypes::TimestampMicrosecondType;

use super::*;
use crate::config::Mode;
use crate::lake::mode::{DELETED, DELETED_AT};

/// By key: the values, and when it was deleted.
type Kept = BTreeMap<i64, (String, String, Option<i64>)>;

fn shape() -> Shape {
    Shape::new(&schema(), &Origin::default()).with_mode(Mode::SoftDelete)
}

/// All rows that readers see; a key that is there twice fails the test.
async fn kept(table: &DeltaTable) -> Kept {
    let mut kept = Kept::new();
    for file in table.files.iter().filter(|f| f.live_rows() > 0) {
        let mut row = 0;
        data_file::scan(&table.log, &file.stored(), &table.whole_schema, |batch| {
            let text = |column: usize| batch.column(column).as_string::<i32>();
            let id = batch.column(1).as_primitive::<Int64Type>();
            let deleted: &BooleanArray = batch.column_by_name(DELETED).expect("a mark").as_boolean();
            let at = batch.column_by_name(DELETED_AT).expect("a time");
            let at = at.as_primitive::<TimestampMicrosecondType>();
            for i in 0..batch.num_rows() {
                if !file.deleted.contains(row) {
                    let at = at.is_valid(i).then(|| at.value(i));
                    assert_eq!(deleted.value(i), at.is_some());
                    assert_eq!(file.marked.contains(row), at.is_some());
                    let values = (text(0).value(i).to_owned(), text(2).value(i).to_owned(), at);
                    let before = kept.insert(id.value(i), values);
                    assert!(before.is_none(), "key {} is there twice", id.value(i));
                }
                row += 1;
            }
            Ok(())
        })
        .await
        .expect("scan");
    }
    kept
}

/// What a batch does to the model: what went is marked with the batch's time.
fn mark(kept: &mut Kept, model: &Model, before: &Model, at: i64) {
    for (id, (v, big)) in before {
        if !model.contains_key(id) {
            kept.insert(*id, (v.clone(), big.clone(), Some(at)));
        }
    }
    for (id, (v, big)) in model {
        kept.insert(*id, (v.clone(), big.clone(), None));
    }
}

fn with_time(batch: ChangeBatch, at: i64) -> ChangeBatch {
    let point = CommitPoint {
        at: Some(at),
        position: None,
    };
    committed(batch, &point)
}

async fn check_sequence(shape: Shape, seed: u64) {
    let folder = Folder::new();
    let mut random = numbers(seed);
    let mut table = folder.stream_as(shape).await;
    let (mut model, mut kept_model) = (Model::new(), Kept::new());
    let mut compacted = 0;
    for round in 0..120_u64 {
        let mut batches: Vec<ChangeBatch> = Vec::new();
        for part in 0..=random(2) {
            let at = (round * 10 + part) as i64 * 1_000_000;
            let mut changes = Changes::default();
            if random(15) == 0 {
                let before = model.clone();
                changes.truncate(&mut model);
                mark(&mut kept_model, &model, &before, at);
            }
            for step in 0..random(60) {
                let id = random(80) as i64;
                let (v, big) = (format!("v{round}.{step}"), format!("b{round}.{step}"));
                let known = model.contains_key(&id);
                let before = model.clone();
                match random(100) {
                    0..=25 if known => changes.delete(&mut model, id),
                    26..=40 if known => {
                        let to = random(80) as i64;
                        if to != id && !model.contains_key(&to) {
                            changes.rename(&mut model, id, to, &v);
                        }
                    }
                    41..=65 if known => changes.upsert(&mut model, id, &v, None),
                    _ => changes.upsert(&mut model, id, &v, Some(&big)),
                }
                mark(&mut kept_model, &model, &before, at);
            }
            let mut batch = with_time(changes.batch(), at);
            // A log that empties the table in the middle has what came before.
            if batch.truncated_by.is_some()
                && let Some(earlier) = batches.pop()
                && let Some(commits) = &mut batch.commits
            {
                commits.earlier = earlier.with_earlier();
            }
            batches.push(batch);
        }
        for batch in batches {
            table.stage(batch, &NoSource).await.expect("stage");
        }
        if random(8) == 0 {
            folder.optimize().await;
        }
        commit(&mut table, round + 2).await.expect("commit");
        assert_eq!(kept(&table).await, kept_model, "round {round}");
        if round % 7 == 0 {
            table = folder.reopen().await;
            assert_eq!(kept(&table).await, kept_model, "reopened in round {round}");
        }
        if let Some(compaction) = table.compaction() {
            let done = compaction.run(&AtomicBool::new(false)).await;
            let done = done.expect("compaction").expect("a file");
            table.take_compacted(&done).await.expect("compacted");
            compacted += 1;
            assert_eq!(kept(&table).await, kept_model, "compacted in round {round}");
        }
    }
    // Without vectors, small files become one with every commit.
    assert_eq!(compacted > 0, table.shape.has_vectors());
    assert!(kept_model.values().any(|(_, _, at)| at.is_some()));
    assert!(kept_model.values().any(|(_, _, at)| at.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_stays_with_its_last_values() {
    for seed in [3, 5] {
        check_sequence(shape(), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_stays_without_vectors() {
    check_sequence(shape().without_vectors(), 11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_brings_back_only_what_came_after_the_delete() {
    let folder = Folder::new();
    let mut table = folder.create_as(shape()).await;
    table.build_index().await.expect("index");
    let mut changes = Changes::default();
    for id in 1..=3 {
        changes.push(Op::Upsert, id, Some("stream"), Some("stream"));
    }
    table
        .stage(with_time(changes.batch(), 1), &NoSource)
        .await
        .expect("stage");
    let mut changes = Changes::default();
    for id in [1, 2, 9] {
        changes.push(Op::Delete, id, None, None);
    }
    // By transaction 1.
    table
        .stage(with_time(changes.batch(), 5), &NoSource)
        .await
        .expect("stage");
    // Neither the rows of before the delete, nor one of which the lake has none.
    let unseen = chunk(&table, &[1, 2, 3, 4, 9], 0).await;
    assert_eq!(table.stage_chunk(unseen).await.expect("stage"), 1);
    let streamed = |at| ("stream".to_owned(), "stream".to_owned(), at);
    let copied = || ("chunk".to_owned(), "chunk".to_owned(), None);
    commit(&mut table, 2).await.expect("commit");
    let mut expected = Kept::from([
        (1, streamed(Some(5))),
        (2, streamed(Some(5))),
        (3, streamed(None)),
        (4, copied()),
    ]);
    assert_eq!(kept(&table).await, expected);
    // This one saw the delete: what it has came later, by whatever way.
    let seen = chunk(&table, &[1, 3], 2).await;
    assert_eq!(table.stage_chunk(seen).await.expect("stage"), 1);
    commit(&mut table, 3).await.expect("commit");
    expected.insert(1, copied());
    assert_eq!(kept(&table).await, expected);
    assert_eq!(kept(&folder.reopen().await).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_row_gives_no_values_to_the_next_of_its_key() {
    let folder = Folder::new();
    let mut table = folder.stream_as(shape()).await;
    let mut model = Model::new();
    let mut changes = Changes::default();
    changes.upsert(&mut model, 1, "a", Some("old"));
    changes.delete(&mut model, 1);
    table
        .stage(with_time(changes.batch(), 5), &NoSource)
        .await
        .expect("stage");
    commit(&mut table, 2).await.expect("commit");
    // What is left out now is of another row: the source has to be asked.
    let mut changes = Changes::default();
    changes.push(Op::Upsert, 1, Some("stream"), None);
    let source = Source { big: "new", high: 9 };
    let high = table.stage(changes.batch(), &source).await.expect("stage");
    assert_eq!(high, Some(position(9)));
    commit(&mut table, 3).await.expect("commit");
    let alive = ("stream".to_owned(), "new".to_owned(), None);
    assert_eq!(kept(&table).await, Kept::from([(1, alive)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_source_knew_stays_as_the_lake_has_it() {
    let folder = Folder::new();
    let mut table = folder.create_as(shape()).await;
    table.build_index().await.expect("index");
    // The lake has no row of key 1, and the source has none any more.
    let mut changes = Changes::default();
    changes.push(Op::Upsert, 1, Some("a"), None);
    changes.push(Op::Delete, 1, None, None);
    changes.push(Op::Delete, 2, None, None);
    table
        .stage(with_time(changes.batch(), 5), &NoSource)
        .await
        .expect("stage");
    commit(&mut table, 2).await.expect("commit");
    assert_eq!(kept(&table).await, Kept::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_content_keeps_what_was_deleted_and_what_went_meanwhile() {
    for other_column in [false, true] {
        let folder = Folder::new();
        let mut table = folder.stream_as(shape()).await;
        let mut model = Model::new();
        let mut changes = Changes::default();
        for id in 1..=5 {
            changes.upsert(&mut model, id, "old", Some("old"));
        }
        changes.delete(&mut model, 1);
        changes.delete(&mut model, 2);
        table
            .stage(with_time(changes.batch(), 5), &NoSource)
            .await
            .expect("stage");
        commit(&mut table, 2).await.expect("commit");

        let mut new = schema().as_ref().clone();
        if other_column {
            new.columns[0].ty = LakeType::Binary;
        }
        let new = Arc::new(new);
        let shape = |main: &Shape| main.replacing(&new, &Origin::default());
        let mut copy = folder.copy(new.clone(), shape, |_, _| ()).await;
        // Keys 2 and 3 are there; 2 is there again, 4 and 5 are not.
        let mut changes = Changes::default();
        changes.push(Op::Upsert, 2, Some("new"), Some("new"));
        changes.push(Op::Upsert, 3, Some("new"), Some("new"));
        let mut batch = changes.batch();
        if other_column {
            let mut columns = batch.rows.columns().to_vec();
            columns[0] = arrow::compute::cast(&columns[0], &LakeType::Binary.arrow()).expect("bytes");
            batch.rows = RecordBatch::try_new(new.arrow(), columns).expect("rows");
        }
        copy.stage(batch, &NoSource).await.expect("stage");
        copy.commit("MERGE", streaming).await.expect("commit");
        // A foreign commit takes the version of the first try.
        folder.optimize().await;
        assert!(copy.replace().await.expect("replace").is_some());
        if other_column {
            // The old values are of another type.
            let mut found = BTreeMap::new();
            for file in copy.files.iter().filter(|f| f.live_rows() > 0) {
                let stored = file.stored();
                let scan = data_file::scan(&copy.log, &stored, &copy.whole_schema, |batch| {
                    let (v, id) = (batch.column(0), batch.column(1).as_primitive::<Int64Type>());
                    let big = batch.column(2).as_string::<i32>();
                    for i in 0..batch.num_rows() {
                        found.insert(id.value(i), (v.is_null(i), big.value(i).to_owned()));
                    }
                    Ok(())
                });
                scan.await.expect("scan");
            }
            let value = |null: bool, text: &str| (null, text.to_owned());
            let expected = [(1, true), (2, false), (3, false), (4, true), (5, true)];
            let expected = expected.map(|(id, null)| (id, value(null, if null { "old" } else { "new" })));
            assert_eq!(found, BTreeMap::from(expected));
            continue;
        }
        let rows = kept(&copy).await;
        let own = |v: &str, at| (v.to_owned(), v.to_owned(), at);
        assert_eq!(rows[&1], own("old", Some(5)));
        assert_eq!((&rows[&2], &rows[&3]), (&own("new", None), &own("new", None)));
        for id in [4, 5] {
            let (v, _, at) = &rows[&id];
            assert!(v == "old" && at.is_some_and(|at| at > 5), "{:?}", rows[&id]);
        }
        assert_eq!(rows.len(), 5);
        // It goes on like any other.
        let mut changes = Changes::default();
        changes.push(Op::Upsert, 4, Some("again"), Some("again"));
        changes.push(Op::Delete, 3, None, None);
        copy.stage(with_time(changes.batch(), 8), &NoSource)
            .await
            .expect("stage");
        commit(&mut copy, 9).await.expect("commit");
        let again = kept(&folder.reopen().await).await;
        assert_eq!(again, kept(&copy).await);
        assert_eq!((&again[&4], &again[&3]), (&own("again", None), &own("new", Some(8))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_takes_marked_rows_for_missing_ones() {
    let folder = Folder::new();
    let mut table = folder.create_as(shape()).await;
    table.build_index().await.expect("index");
    let mut changes = Changes::default();
    for id in 1..=3 {
        changes.push(Op::Upsert, id, Some("a"), Some("b"));
    }
    let source = changes.batch().rows;
    for id in 1..=4 {
        changes = Changes::default();
        changes.push(Op::Upsert, id, Some("a"), Some("b"));
        table.stage(changes.batch(), &NoSource).await.expect("stage");
    }
    let mut changes = Changes::default();
    changes.push(Op::Delete, 2, None, None);
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    commit(&mut table, 2).await.expect("commit");
    let mut again = folder.reopen().await;
    let mut seen = Seen::default();
    let (source, mut cache) = ([source], FileCache::new(0));
    let compared = again.compare(&source, None, Some(&mut seen), &mut cache);
    let mismatch = compared.await.expect("compare");
    assert_eq!((mismatch.missing, mismatch.different.len()), (vec![(0, 1)], 0));
    let mut extra = Vec::new();
    for number in again.file_numbers() {
        let mut from = 0;
        while let Some(unseen) = again.unseen(number, &seen, |_| true, &mut from).await.expect("unseen") {
            extra.extend(
                unseen
                    .keys
                    .column(0)
                    .as_primitive::<Int64Type>()
                    .values()
                    .iter()
                    .copied(),
            );
        }
    }
    assert_eq!(extra, [4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_may_be_mapped() {
    let folder = Folder::new();
    let mut table = folder.create_as(shape()).await;
    table.build_index().await.expect("index");
    let mut model = Model::new();
    let mut changes = Changes::default();
    for id in 1..4 {
        changes.upsert(&mut model, id, "a", Some("large"));
    }
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    table.evolve(renamed(), &Origin::default()).expect("evolve");
    let mut changes = Changes::default();
    changes.push(Op::Delete, 2, None, None);
    let mut batch = with_time(changes.batch(), 5);
    let mut columns = batch.rows.columns().to_vec();
    columns.push(arrow::array::new_null_array(&LakeType::TimestampNtz.arrow(), 1));
    batch.rows = RecordBatch::try_new(renamed().arrow(), columns).expect("rows");
    table.stage(batch, &NoSource).await.expect("stage");
    commit(&mut table, 2).await.expect("commit");
    let expected = |at| ("a".to_owned(), "large".to_owned(), at);
    let expected = Kept::from([(1, expected(None)), (2, expected(Some(5))), (3, expected(None))]);
    assert_eq!(kept(&table).await, expected);
    let metadata = table.shape.metadata_action("t", &renamed());
    let schema = metadata["metaData"]["schemaString"].as_str().expect("a schema");
    let fields = serde_json::from_str::<Value>(schema).expect("json")["fields"].clone();
    let field = |name: &str| {
        let fields = fields.as_array().expect("fields").iter();
        fields
            .clone()
            .find(|field| field["name"] == name)
            .cloned()
            .expect("a field")
    };
    let id = |name: &str| field(name)["metadata"]["delta.columnMapping.id"].clone();
    assert_eq!(
        (id(DELETED), id(DELETED_AT), id("extra")),
        (json!(4), json!(5), json!(6))
    );
    for (name, id) in [(DELETED, "4"), (DELETED_AT, "5")] {
        let field = table.file_schema.field_with_name(name).expect("a field");
        assert_eq!(field.metadata()[parquet::arrow::PARQUET_FIELD_ID_META_KEY], id);
    }
}

#[test]
fn a_column_of_the_same_name_is_found_whatever_its_case() {
    let mut schema = schema().as_ref().clone();
    assert_eq!(mode::system_column_of(&schema, Mode::SoftDelete), None);
    schema.columns[0].name = "_DELETED_at".into();
    assert!(mode::system_column_of(&schema, Mode::Mirror).is_none());
    let (column, hint) = mode::system_column_of(&schema, Mode::SoftDelete).expect("a clash");
    assert_eq!(column, "_DELETED_at");
    assert!(hint.contains("exclude"), "{hint}");
}
