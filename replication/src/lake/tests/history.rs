//! Tables with a row for every change, against a list of all changes.

use arrow::array::Array;
use arrow::datatypes::{DataType, TimestampMicrosecondType};

use super::*;
use crate::config::Mode;
use crate::lake::mode::{COMMITTED_AT, OP, POSITION, SEQUENCE};

/// Of a key, each change: what it was, the values, when and where.
type Told = (String, Option<(String, String)>, Option<i64>, Option<String>);
type History = BTreeMap<i64, Vec<Told>>;

fn shape() -> Shape {
    Shape::new(&schema(), &Origin::default()).with_mode(Mode::History)
}

/// All rows that readers see of a table, in the order that they say.
async fn history(folder: &Folder) -> History {
    let opened = folder.opened().await;
    let table = DeltaTable::new(schema(), opened);
    let mut all = BTreeMap::new();
    for file in &table.files {
        assert!(file.vector.is_none(), "rows of a history went");
        data_file::scan(&table.log, &file.stored(), &table.whole_schema, |batch| {
            let text = |name: &str| batch.column_by_name(name).expect("a column").as_string::<i32>().clone();
            let (v, big, op, position) = (text("v"), text("big"), text(OP), text(POSITION));
            let id = batch.column(1).as_primitive::<Int64Type>();
            let at = batch.column_by_name(COMMITTED_AT).expect("a time");
            let at = at.as_primitive::<TimestampMicrosecondType>();
            let sequence = batch.column_by_name(SEQUENCE).expect("a number");
            let sequence = sequence.as_primitive::<Int64Type>();
            for i in 0..batch.num_rows() {
                let values = v.is_valid(i).then(|| (v.value(i).to_owned(), big.value(i).to_owned()));
                let at = at.is_valid(i).then(|| at.value(i));
                let position = position.is_valid(i).then(|| position.value(i).to_owned());
                let told = (op.value(i).to_owned(), values, at, position);
                let before = all.insert(sequence.value(i), (id.value(i), told));
                assert!(before.is_none(), "{} is there twice", sequence.value(i));
            }
            Ok(())
        })
        .await
        .expect("scan");
    }
    assert!(all.keys().all(|sequence| *sequence < table.record.next_sequence));
    let mut history = History::new();
    for (id, told) in all.into_values() {
        history.entry(id).or_default().push(told);
    }
    history
}

/// The rows that live, as the writer knows them.
async fn living(table: &DeltaTable) -> Model {
    let mut model = Model::new();
    for file in table.files.iter().filter(|file| !file.removed) {
        let mut row = 0;
        data_file::scan(&table.log, &file.stored(), &table.whole_schema, |batch| {
            let text = |column: usize| batch.column(column).as_string::<i32>();
            let id = batch.column(1).as_primitive::<Int64Type>();
            for i in 0..batch.num_rows() {
                if !file.deleted.contains(row) && !file.marked.contains(row) {
                    let before = model.insert(id.value(i), (text(0).value(i).to_owned(), text(2).value(i).to_owned()));
                    assert!(before.is_none(), "key {} lives twice", id.value(i));
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

fn told_by(batch: ChangeBatch, at: i64) -> ChangeBatch {
    let point = CommitPoint {
        at: Some(at),
        position: Some(format!("0/{at}").into()),
    };
    committed(batch, &point)
}

fn told(op: &str, values: Option<&(String, String)>, at: i64) -> Told {
    (op.to_owned(), values.cloned(), Some(at), Some(format!("0/{at}")))
}

async fn check_sequence(shape: Shape, seed: u64, foreign: bool) {
    let folder = Folder::new();
    let mut random = numbers(seed);
    let mut table = folder.stream_as(shape).await;
    let (mut model, mut expected) = (Model::new(), History::new());
    let mut compacted = 0;
    for round in 0..100_u64 {
        let mut batches: Vec<ChangeBatch> = Vec::new();
        for part in 0..=random(2) {
            let at = (round * 10 + part) as i64 * 1_000_000;
            let mut changes = Changes::default();
            let mut tell = |id: i64, told: Told| expected.entry(id).or_default().push(told);
            if random(15) == 0 {
                for (id, values) in &model {
                    tell(*id, told("d", Some(values), at));
                }
                changes.truncate(&mut model);
            }
            for step in 0..random(60) {
                let id = random(80) as i64;
                let (v, big) = (format!("v{round}.{step}"), format!("b{round}.{step}"));
                let before = model.get(&id).cloned();
                match random(100) {
                    0..=25 => {
                        changes.delete(&mut model, id);
                        // The key alone is known of what was not there.
                        let is_known = before.is_some();
                        tell(id, told("d", before.as_ref().filter(|_| is_known), at));
                    }
                    26..=40 if before.is_some() => {
                        let to = random(80) as i64;
                        if to != id && !model.contains_key(&to) {
                            changes.rename(&mut model, id, to, &v);
                            tell(id, told("d", before.as_ref(), at));
                            tell(to, told("c", model.get(&to), at));
                        }
                    }
                    41..=65 if before.is_some() => {
                        changes.upsert(&mut model, id, &v, None);
                        tell(id, told("u", model.get(&id), at));
                    }
                    _ => {
                        changes.upsert(&mut model, id, &v, Some(&big));
                        tell(id, told("u", model.get(&id), at));
                    }
                }
            }
            let mut batch = told_by(changes.batch(), at);
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
        if foreign && random(6) == 0 {
            folder.optimize().await;
        }
        commit(&mut table, round + 2).await.expect("commit");
        assert_eq!(history(&folder).await, expected, "round {round}");
        assert_eq!(living(&table).await, model, "round {round}");
        assert_eq!(table.rows(), expected.values().map(Vec::len).sum::<usize>() as u64);
        if round % 7 == 0 {
            table = folder.reopen().await;
            assert_eq!(living(&table).await, model, "reopened in round {round}");
        }
        if let Some(compaction) = table.compaction().filter(|_| random(3) > 0) {
            let done = compaction.run(&AtomicBool::new(false)).await;
            let done = done.expect("compaction").expect("a file");
            // Changes go on meanwhile.
            if round % 2 == 0 {
                let mut changes = Changes::default();
                let (id, at) = (random(80) as i64, round as i64);
                changes.upsert(&mut model, id, "beside", Some("compaction"));
                expected.entry(id).or_default().push(told("u", model.get(&id), at));
                table
                    .stage(told_by(changes.batch(), at), &NoSource)
                    .await
                    .expect("stage");
                commit(&mut table, round + 2).await.expect("commit");
            }
            table.take_compacted(&done).await.expect("compacted");
            compacted += 1;
            assert_eq!(history(&folder).await, expected, "compacted in round {round}");
            assert_eq!(living(&table).await, model, "compacted in round {round}");
        }
    }
    assert!(compacted > 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_a_row() {
    for (seed, foreign) in [(3, false), (5, true), (8, true)] {
        check_sequence(shape(), seed, foreign).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_a_row_of_its_partition() {
    let by = "bucket(3, id)".parse().expect("a bucket");
    let shape = shape().partitioned(&[by], &schema()).expect("partitions");
    check_sequence(shape, 13, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_kept_knows_what_lives() {
    let folder = Folder::new();
    let home = || IndexHome::open(Some(&folder.0.join("cache")), INDEX_MEMORY).expect("home");
    let mut table = folder.create_as(shape()).await;
    table.open_index(&home()).await.expect("index");
    let mut model = Model::new();
    for round in 0..5 {
        let mut changes = Changes::default();
        for id in 0..20 {
            changes.upsert(&mut model, id, &format!("v{round}"), Some("big"));
        }
        changes.delete(&mut model, round);
        table
            .stage(told_by(changes.batch(), 1), &NoSource)
            .await
            .expect("stage");
        commit(&mut table, round as u64 + 2).await.expect("commit");
    }
    table.end_index();
    drop(table);
    // What another program has written since has to be read.
    folder.optimize().await;
    let opened = folder.opened().await;
    let mut table = DeltaTable::new(schema(), opened);
    assert_eq!(table.prepare(&home()).await.expect("index"), 0);
    assert_eq!(living(&table).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_adds_only_rows_that_nobody_has_told_of() {
    let folder = Folder::new();
    let mut table = folder.create_as(shape()).await;
    table.build_index().await.expect("index");
    let mut changes = Changes::default();
    changes.push(Op::Upsert, 1, Some("stream"), Some("stream"));
    changes.push(Op::Insert, 2, Some("stream"), Some("stream"));
    changes.push(Op::Delete, 2, None, None);
    // By transaction 1, of a row that is not copied yet.
    changes.push(Op::Delete, 9, None, None);
    table
        .stage(told_by(changes.batch(), 5), &NoSource)
        .await
        .expect("stage");
    let unseen = chunk(&table, &[1, 2, 3, 9, 4], 0).await;
    assert_eq!(table.stage_chunk(unseen).await.expect("stage"), 2);
    let none = chunk(&table, &[1, 2], 0).await;
    assert_eq!(table.stage_chunk(none).await.expect("stage"), 0);
    // This one saw the delete: what it has came later, by whatever way.
    let seen = chunk(&table, &[2, 1], 2).await;
    assert_eq!(table.stage_chunk(seen).await.expect("stage"), 1);
    commit(&mut table, 2).await.expect("commit");
    let streamed = ("stream".to_owned(), "stream".to_owned());
    let copied = || {
        (
            "r".to_owned(),
            Some(("chunk".to_owned(), "chunk".to_owned())),
            None,
            None,
        )
    };
    let expected = History::from([
        (1, vec![told("u", Some(&streamed), 5)]),
        (
            2,
            vec![told("c", Some(&streamed), 5), told("d", Some(&streamed), 5), copied()],
        ),
        (3, vec![copied()]),
        (4, vec![copied()]),
        (9, vec![told("d", None, 5)]),
    ]);
    assert_eq!(history(&folder).await, expected);
    let living_keys = |model: Model| model.into_keys().collect::<Vec<i64>>();
    assert_eq!(living_keys(living(&table).await), [1, 2, 3, 4]);
    assert_eq!(living_keys(living(&folder.reopen().await).await), [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_content_comes_after_what_is_there() {
    for other_column in [false, true] {
        let folder = Folder::new();
        let mut table = folder.stream_as(shape()).await;
        let mut model = Model::new();
        let mut changes = Changes::default();
        for id in 1..=5 {
            changes.upsert(&mut model, id, "old", Some("old"));
        }
        changes.delete(&mut model, 1);
        table
            .stage(told_by(changes.batch(), 5), &NoSource)
            .await
            .expect("stage");
        commit(&mut table, 2).await.expect("commit");
        let before = history(&folder).await;

        let mut new = schema().as_ref().clone();
        if other_column {
            new.columns[0].ty = LakeType::Long;
        }
        let new = Arc::new(new);
        let shape = |main: &Shape| {
            let shape = main.continuing(&new, &Origin::default(), false);
            assert_eq!(shape.mapped, other_column);
            shape
        };
        let after = |main: &Opened, record: &mut TableRecord| {
            record.first_sequence = main.record.next_sequence;
            record.next_sequence = main.record.next_sequence;
        };
        let mut copy = folder.copy(new.clone(), shape, after).await;
        // Key 3 is deleted, and 4 and 5 are not there any more.
        let mut changes = Changes::default();
        changes.push(Op::Upsert, 2, Some("7"), Some("new"));
        changes.push(Op::Insert, 3, Some("8"), Some("new"));
        changes.push(Op::Delete, 3, None, None);
        let mut batch = told_by(changes.batch(), 7);
        if other_column {
            let mut columns = batch.rows.columns().to_vec();
            columns[0] = arrow::compute::cast(&columns[0], &DataType::Int64).expect("numbers");
            batch.rows = RecordBatch::try_new(new.arrow(), columns).expect("rows");
        }
        copy.stage(batch, &NoSource).await.expect("stage");
        copy.commit("MERGE", streaming).await.expect("commit");
        // A foreign commit takes the version of the first try.
        folder.optimize().await;
        assert!(copy.replace().await.expect("replace").is_some());
        let metadata = copy.shape.metadata_action("t", &new)["metaData"].clone();
        assert_eq!(metadata["configuration"]["delta.appendOnly"], "true");
        let entry = copy.log.read(copy.version).await.expect("read").expect("an entry");
        assert!(entry.iter().all(|action| action["remove"].is_null()));
        let opened = folder.opened().await;
        let mut again = DeltaTable::new(new.clone(), opened);
        again.prepare(&IndexHome::private(INDEX_MEMORY)).await.expect("index");
        for table in [&copy, &again] {
            let lives = |file: &DataFile| u64::from(file.rows) - (&file.deleted | &file.marked).len();
            let live: u64 = table.files.iter().map(lives).sum();
            assert_eq!((live, table.rows()), (1, 6 + 3 + 2), "{other_column}");
        }
        if other_column {
            continue;
        }
        let now = history(&folder).await;
        let (own, old) = (
            |v: &str| (v.to_owned(), "new".to_owned()),
            ("old".to_owned(), "old".to_owned()),
        );
        assert_eq!(now[&1], before[&1]);
        assert_eq!(
            now[&2],
            [before[&2].clone(), vec![told("u", Some(&own("7")), 7)]].concat()
        );
        let of_3 = [told("c", Some(&own("8")), 7), told("d", Some(&own("8")), 7)];
        assert_eq!(now[&3], [before[&3].clone(), of_3.to_vec()].concat());
        for id in [4, 5] {
            let (op, values, at, position) = now[&id].last().expect("rows");
            assert_eq!((op.as_str(), values, position), ("d", &Some(old.clone()), &None));
            assert!(at.is_some_and(|at| at > 7) && now[&id].len() == 2);
        }
        // It goes on like any other.
        let mut changes = Changes::default();
        changes.push(Op::Insert, 4, Some("9"), Some("new"));
        changes.push(Op::Upsert, 2, Some("10"), None);
        copy.stage(told_by(changes.batch(), 8), &NoSource).await.expect("stage");
        commit(&mut copy, 9).await.expect("commit");
        let now = history(&folder).await;
        assert_eq!(now[&4].last(), Some(&told("c", Some(&own("9")), 8)));
        assert_eq!(now[&2].last(), Some(&told("u", Some(&own("10")), 8)));
        assert_eq!(living(&copy).await, living(&folder.reopen().await).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_others_are_no_key_s() {
    let folder = Folder::new();
    let mut table = folder.stream_as(shape()).await;
    let mut model = Model::new();
    let mut changes = Changes::default();
    changes.upsert(&mut model, 1, "a", Some("ours"));
    table
        .stage(told_by(changes.batch(), 5), &NoSource)
        .await
        .expect("stage");
    commit(&mut table, 2).await.expect("commit");
    // A file without the columns of a history, for keys 1 and 2.
    let mut theirs = Changes::default();
    theirs.push(Op::Upsert, 1, Some("theirs"), Some("theirs"));
    theirs.push(Op::Upsert, 2, Some("theirs"), Some("theirs"));
    let plain = schema().arrow();
    let mut writer = FileWriter::create(&table.log, &plain, &[1], System::default()).expect("a file");
    writer.write(&theirs.batch().rows).await.expect("rows");
    let file = DataFile::written(writer.finish().await.expect("a file"));
    let add = file.add_action(None, true);
    let put = table.log.commit(table.version + 1, "WRITE", vec![add]).await;
    assert_eq!(put.expect("commit"), Commit::Committed);
    let mut changes = Changes::default();
    changes.upsert(&mut model, 1, "b", None);
    table
        .stage(told_by(changes.batch(), 6), &NoSource)
        .await
        .expect("stage");
    commit(&mut table, 3).await.expect("commit");
    assert_eq!(living(&table).await, model);
    assert_eq!(living(&folder.reopen().await).await, model);
    assert_eq!(table.rows(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_looks_at_what_lives() {
    let folder = Folder::new();
    let mut table = folder.create_as(shape()).await;
    table.build_index().await.expect("index");
    let mut model = Model::new();
    let mut reader = folder.reopen().await;
    for round in 0..30_i64 {
        let mut changes = Changes::default();
        for id in (round * 7 % 50)..(round * 7 % 50 + 20) {
            match (id + round) % 5 {
                0 if model.contains_key(&id) => changes.delete(&mut model, id),
                _ => changes.upsert(&mut model, id, &format!("v{round}"), Some("b")),
            }
        }
        table
            .stage(told_by(changes.batch(), round), &NoSource)
            .await
            .expect("stage");
        commit(&mut table, round as u64 + 2).await.expect("commit");
        if round == 20 {
            folder.optimize().await;
            table = folder.reopen().await;
        }
        assert_eq!(reader.refresh().await.expect("refresh"), Refreshed::Current);
        check_found(&mut reader, &model, &mut FileCache::new(8 << 10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_that_others_were_faster_than_is_given_up() {
    let folder = Folder::new();
    let mut table = folder.create_as(shape()).await;
    table.build_index().await.expect("index");
    let mut model = Model::new();
    for round in 0..9 {
        let mut changes = Changes::default();
        changes.upsert(&mut model, round % 3, &format!("v{round}"), Some("big"));
        table
            .stage(told_by(changes.batch(), round), &NoSource)
            .await
            .expect("stage");
        commit(&mut table, round as u64 + 2).await.expect("commit");
    }
    let before = history(&folder).await;
    let compaction = table.compaction().expect("small files");
    let done = compaction.run(&AtomicBool::new(false)).await;
    let done = done.expect("compaction").expect("a file");
    folder.optimize().await;
    assert_eq!(table.take_compacted(&done).await.expect("compacted"), None);
    assert_eq!(history(&folder).await, before);
    assert_eq!(living(&table).await, model);
    let mut changes = Changes::default();
    changes.upsert(&mut model, 1, "later", None);
    table
        .stage(told_by(changes.batch(), 10), &NoSource)
        .await
        .expect("stage");
    commit(&mut table, 20).await.expect("commit");
    assert_eq!(living(&table).await, model);
    assert_eq!(living(&folder.reopen().await).await, model);
}

#[test]
fn a_column_that_is_to_be_hidden_is_another_one() {
    use crate::transform::Form;
    let before = shape();
    let origin = |form: Option<Form>| Origin {
        form,
        ..Origin::default()
    };
    let plain = before.continuing(&schema(), &origin(None), false);
    assert_eq!((&plain.columns, plain.mapped), (&before.columns, false));
    let mut form = Form::plain(&schema());
    form.columns[0].action = crate::transform::Action::Mask("***".to_owned());
    let hidden = before.continuing(&schema(), &origin(Some(form)), false);
    let physical = |shape: &Shape, name: &str| {
        let column = shape.columns.iter().find(|column| column.name == name);
        column.expect("a column").physical.clone()
    };
    assert_ne!(physical(&hidden, "v"), "v");
    assert_eq!(physical(&hidden, "id"), "id");
}
