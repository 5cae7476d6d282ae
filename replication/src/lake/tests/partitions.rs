//! A table in partitions: every row is in a file of its partition, whatever
//! comes, and what the log says of it is what the row says.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::lake::partition::OPEN_BYTES;
use crate::partition::PartitionBy;

fn entries(by: &[&str]) -> Vec<PartitionBy> {
    by.iter().map(|text| text.parse().expect("an entry")).collect()
}

pub fn by(shape: Shape, by: &[&str]) -> Shape {
    shape.partitioned(&entries(by), &schema()).expect("partitions")
}

fn shape(columns: &[&str]) -> Shape {
    by(Shape::new(&schema(), &Origin::default()), columns)
}

/// Every file has rows of its partition alone, and lies in the folder of that.
pub async fn check(folder: &Folder, table: &DeltaTable) {
    let partitioning = table.shape.partitioning(&table.schema);
    for file in table.files.iter().filter(|file| file.live_rows() > 0) {
        let columns = table.columns_schema(&[0, 1, 2]).expect("columns");
        data_file::scan(&table.log, &file.stored(), &columns, |batch| {
            for (values, _) in partitioning.split(&batch).expect("split") {
                assert_eq!(values, file.partition, "{}", file.path);
            }
            Ok(())
        })
        .await
        .expect("scan");
        let inside = folder.0.join("public/t").join(folder_of(&partitioning, file));
        let name = file.path.rsplit('/').next().expect("a name");
        assert!(
            inside.join(name).is_file(),
            "{} is not in {}",
            file.path,
            inside.display()
        );
    }
}

fn folder_of(partitioning: &Partitioning, file: &DataFile) -> String {
    crate::partition::folder(partitioning.names(), &file.partition)
}

/// Data files and vectors below a folder.
fn content(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true if path.ends_with("_delta_log") => {}
            true => found.extend(content(&path)),
            false => drop(found.insert(path)),
        }
    }
    found
}

async fn check_any_sequence(shape: Shape) {
    let folder = Folder::new();
    let mut table = check_sequence(&folder, shape, 4).await;
    check(&folder, &table).await;
    let before = rows(&table).await;
    let parts = |table: &DeltaTable| {
        let files = table.files.iter().filter(|file| file.live_rows() > 0);
        files
            .map(|file| (file.path.clone(), file.partition.clone()))
            .collect::<BTreeSet<_>>()
    };
    let known = parts(&table);
    assert!(known.iter().map(|(_, values)| values).collect::<BTreeSet<_>>().len() > 4);
    // A checkpoint, and nothing before it.
    let version = table.version;
    table.log.checkpoint(version).await.expect("checkpoint");
    for version in 0..=version {
        let entry = folder.0.join(format!("public/t/_delta_log/{version:020}.json"));
        std::fs::remove_file(entry).expect("clean up");
    }
    let reopened = folder.reopen().await;
    assert_eq!((rows(&reopened).await, parts(&reopened)), (before.clone(), known));
    // What is old goes, and nothing else does.
    let named = table.files.iter().filter(|file| file.live_rows() > 0);
    let needed: BTreeSet<PathBuf> = named
        .flat_map(|file| {
            let vector = file.vector.as_ref().and_then(Descriptor::path);
            std::iter::once(file.path.clone()).chain(vector)
        })
        .map(|path| PathBuf::from(format!("/{}", table.log.file(&path))))
        .collect();
    assert!(content(&folder.0).len() > needed.len(), "nothing to remove");
    let cleaned = table
        .cleaning()
        .expect("a table")
        .run(now_ms() + 1000)
        .await
        .expect("cleaned");
    assert!(cleaned.files > 0);
    assert_eq!(content(&folder.0), needed);
    table = folder.reopen().await;
    assert_eq!(rows(&table).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_sequence_of_batches_stays_in_its_partitions() {
    check_any_sequence(shape(&["value(v)", "bucket(3, id)"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_sequence_of_batches_stays_in_its_partitions_without_vectors() {
    check_any_sequence(shape(&["value(v)", "bucket(3, id)"]).without_vectors()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_makes_one_file_of_each_partition() {
    let folder = Folder::new();
    let mut table = folder.create_as(shape(&["value(v)"])).await;
    let mut model = Model::new();
    for round in 0..8 {
        let mut changes = Changes::default();
        for id in 0..6 {
            let v = ["a", "b", "c"][id as usize % 3];
            changes.upsert(&mut model, round * 100 + id, v, Some("big"));
        }
        apply(&mut table, changes, round as u64 + 2).await;
    }
    let live = |table: &DeltaTable| table.files.iter().filter(|file| file.live_rows() > 0).count();
    assert_eq!(live(&table), 24);
    let mut compacted = 0;
    while let Some(compaction) = table.compaction() {
        let done = compaction
            .run(&AtomicBool::new(false))
            .await
            .expect("run")
            .expect("a file");
        assert_eq!(done.sizes().0, 8);
        table.take_compacted(&done).await.expect("compacted");
        compacted += 1;
    }
    assert_eq!((compacted, live(&table)), (3, 3));
    check(&folder, &table).await;
    assert_eq!(rows(&folder.reopen().await).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_values_stay_inside_the_table() {
    let folder = Folder::new();
    let mut table = folder.create_as(shape(&["value(v)"])).await;
    let mut model = Model::new();
    let long = "x".repeat(1000);
    let hostile = [
        "..",
        "../../../x",
        "/etc/passwd",
        "%2E%2E%2Fx",
        "a b=c&d",
        "ü😀",
        "",
        "\u{1}\n",
        ".",
        "__HIVE_DEFAULT_PARTITION__",
        &long,
    ];
    let mut changes = Changes::default();
    for (id, v) in (0..).zip(hostile) {
        changes.upsert(&mut model, id, v, Some("big"));
    }
    changes.push(Op::Upsert, 100, None, Some("big"));
    apply(&mut table, changes, 2).await;
    let outside: Vec<PathBuf> = content(&folder.0)
        .into_iter()
        .filter(|path| {
            let parent = path.parent().and_then(Path::parent);
            parent != Some(&folder.0.join("public/t"))
        })
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
    let mut found = rows(&folder.reopen().await).await;
    // NULL reads as an empty text here.
    assert!(found.remove(&100).is_some());
    assert_eq!(found, model);
    // Two texts have no partition of their own, and NULL has none.
    let nulls = table.files.iter().find(|file| file.partition["v_value"].is_none());
    assert_eq!(nulls.map(DataFile::live_rows), Some(3));
    // A row that moves dies in its old partition.
    let mut changes = Changes::default();
    changes.upsert(&mut model, 0, "elsewhere", None);
    apply(&mut table, changes, 3).await;
    let mut found = rows(&folder.reopen().await).await;
    found.remove(&100);
    assert_eq!(found, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_split_within_bounds() {
    let folder = Folder::new();
    let mut table = folder.create_as(shape(&["bucket(300, id)"])).await;
    let mut writer = table.file_format().writer();
    let big = "x".repeat(4 << 10);
    let mut all = 0;
    for round in 0..30 {
        let mut changes = Changes::default();
        for id in round * 1000..(round + 1) * 1000 {
            changes.push(Op::Upsert, id, Some("v"), Some(&big));
        }
        let rows = changes.batch().rows;
        let keys = table.encoder().keys(&rows).expect("keys");
        all += rows.num_rows() as u64;
        writer.write(&rows, &keys).await.expect("write");
        assert!(writer.bytes() <= OPEN_BYTES, "{}", writer.bytes());
    }
    let files = writer.finish().await.expect("finish");
    // Memory was full more than once, and never emptied for a few rows.
    assert!((301..3000).contains(&files.len()), "{} files", files.len());
    let keys: u64 = files.iter().map(|(_, keys)| keys.len() as u64).sum();
    assert_eq!(keys, all);
    let chunk = Chunk {
        files,
        saw: Box::new(|_| true),
        all_saw: Box::new(|_| true),
    };
    assert_eq!(table.stage_chunk(chunk).await.expect("stage"), all);
    commit(&mut table, 2).await.expect("commit");
    check(&folder, &table).await;
    let found = rows(&table).await;
    assert_eq!(found.len() as u64, all);
    // Each key is where the index has it.
    let mut changes = Changes::default();
    let mut model: Model = found;
    for id in (0..30_000).step_by(7) {
        changes.upsert(&mut model, id, "w", None);
    }
    apply(&mut table, changes, 3).await;
    assert_eq!(rows(&table).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_keeps_the_partitions() {
    let folder = Folder::new();
    let mut table = folder.create_as(shape(&["value(v)"])).await;
    let mut model = Model::new();
    let mut changes = Changes::default();
    changes.upsert(&mut model, 1, "a", Some("b"));
    apply(&mut table, changes, 2).await;
    let lake = Lake::open(&folder.0.display().to_string(), &StoreOptions::default()).expect("lake");
    let main = Opened::read(folder.log(), PIPELINE)
        .await
        .expect("open")
        .expect("table");
    let record = TableRecord::new(PIPELINE.into(), "public.t".into(), 7, 1, position(3));
    let shape = main.shape.replacing(&schema(), &Origin::default());
    let shape = shape
        .partitioned_as(&main.shape, &entries(&["value(v)"]), &schema())
        .expect("shape");
    let log = lake.copy("public/t", "c").expect("log");
    let mut copy = DeltaTable::create(log, schema(), shape, record)
        .await
        .expect("create")
        .replacing(main);
    let mut new = Model::new();
    let mut changes = Changes::default();
    for (id, v) in [(1, "a"), (2, "b"), (3, "b")] {
        changes.upsert(&mut new, id, v, Some("new"));
    }
    apply(&mut copy, changes, 4).await;
    assert_eq!(copy.replace().await.expect("replace"), Some(2));
    let entry = folder.log().read(2).await.expect("read").expect("an entry");
    let values = |kind: &str| -> BTreeSet<String> {
        let of = entry.iter().map(|action| &action[kind]["partitionValues"]);
        of.filter(|values| values.is_object()).map(Value::to_string).collect()
    };
    assert_eq!(values("remove"), BTreeSet::from([r#"{"v_value":"a"}"#.to_owned()]));
    assert_eq!(values("add").len(), 2);
    let metadata = entry
        .iter()
        .find_map(|action| action.get("metaData"))
        .expect("metadata");
    assert_eq!(metadata["partitionColumns"], json!(["v_value"]));
    let reopened = folder.reopen().await;
    check(&folder, &reopened).await;
    assert_eq!(rows(&reopened).await, new);
}

fn with_names(names: [&str; 3]) -> TableSchema {
    let mut schema = schema().as_ref().clone();
    for (column, name) in schema.columns.iter_mut().zip(names) {
        name.clone_into(&mut column.name);
    }
    schema
}

#[test]
fn a_renamed_column_keeps_its_partitions() {
    let mut shape = shape(&["value(v)", "bucket(4, ID)"]);
    let names = |shape: &Shape| shape.partitions.iter().map(|own| own.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&shape), ["v_value", "id_bucket"]);
    let renamed = with_names(["w", "id", "big"]);
    shape.evolve(&renamed, &Origin::default()).expect("evolve");
    assert!(shape.mapped);
    assert_eq!(names(&shape), ["v_value", "id_bucket"]);
    assert_eq!(shape.partitioning(&renamed).0[0].1, Some(0));
    let metadata = shape.metadata_action("t", &renamed);
    assert_eq!(
        metadata["metaData"]["partitionColumns"],
        json!(["v_value", "id_bucket"])
    );
    let text = metadata["metaData"]["schemaString"].as_str().expect("schema");
    let fields = &serde_json::from_str::<Value>(text).expect("json")["fields"];
    let of = |number: usize, key: &str| fields[number]["metadata"][format!("delta.columnMapping.{key}")].clone();
    assert_eq!((of(3, "physicalName"), of(3, "id")), (json!("v_value"), json!(4)));
    assert_eq!(
        (&fields[4]["name"], &fields[4]["type"]),
        (&json!("id_bucket"), &json!("integer"))
    );

    // Either name is right from now on.
    let fit = |by: &[&str], schema: &TableSchema| shape.partitions_fit(&entries(by), "t", Some(schema));
    for names in [["value(v)", "bucket(4, id)"], ["value(W)", "bucket(4, id)"]] {
        fit(&names, &renamed).expect("the same");
    }
    for other in [
        &["bucket(4, id)", "value(v)"][..],
        &["value(v)"],
        &["value(v)", "bucket(5, id)"],
        &["value(big)", "bucket(4, id)"],
        &[],
    ] {
        let error = fit(other, &renamed).expect_err("another one");
        assert!(
            error.to_string().contains("[\"value(v)\", \"bucket(4, id)\"]"),
            "{error}"
        );
        assert!(error.hint().is_some_and(|hint| hint.contains("set it back")));
    }
    // A source that does not know its columns yet has not lost one.
    assert!(
        shape
            .partitions_fit(&entries(&["value(x)", "bucket(4, id)"]), "t", None)
            .is_err()
    );
    // A copy takes the column by its name of now, of then, or of the configuration.
    for (columns, by) in [
        (["w", "id", "big"], "value(v)"),
        (["v", "id", "big"], "value(v)"),
        (["x", "id", "big"], "value(x)"),
    ] {
        let schema = with_names(columns);
        let by = entries(&[by, "bucket(4, id)"]);
        shape.partitions_fit(&by, "t", Some(&schema)).expect("the same");
        let copy = shape.replacing(&schema, &Origin::default());
        let copy = copy.partitioned_as(&shape, &by, &schema).expect("a copy");
        assert_eq!(names(&copy), ["v_value", "id_bucket"]);
        assert!(copy.partitions[0].field > shape.field_max);
    }
    let unknown = shape.replacing(&with_names(["x", "id", "big"]), &Origin::default());
    let error = unknown
        .partitioned_as(
            &shape,
            &entries(&["value(v)", "bucket(4, id)"]),
            &with_names(["x", "id", "big"]),
        )
        .expect_err("gone");
    assert!(error.to_string().contains("no column \"v\""), "{error}");
}

#[test]
fn what_cannot_be_partitioned_by_is_told_by_name() {
    let refused = |by: &[&str], schema: &TableSchema, what: &str, hint: &str| {
        let error = Shape::new(schema, &Origin::default())
            .partitioned(&entries(by), schema)
            .expect_err("refused");
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.hint().is_some_and(|h| h.contains(hint)), "{:?}", error.hint());
    };
    let schema = schema();
    refused(
        &["date(vv)"],
        &schema,
        "date(vv), but there is no column \"vv\"",
        "did you mean \"v\"?",
    );
    refused(
        &["date(id)"],
        &schema,
        "\"id\" has the type long",
        "a date or a timestamp",
    );
    refused(
        &["hour(v)"],
        &schema,
        "\"v\" has the type string",
        "hour() takes a timestamp",
    );
    refused(&["value(v)", "value(V)"], &schema, "v_value twice", "once");
    refused(
        &["value(v)"],
        &with_names(["v", "id", "V_Value"]),
        "one of that name: \"V_Value\"",
        "exclude",
    );
    refused(
        &["value(a b)"],
        &with_names(["a b", "id", "big"]),
        "other characters",
        "another column",
    );
    // Later, too.
    let shape = shape(&["value(v)"]);
    let clash = with_names(["v", "id", "V_VALUE"]);
    assert!(shape.check_partitions(&clash).is_err());
    let mut gone = schema.as_ref().clone();
    gone.columns.remove(0);
    let error = shape.check_partitions(&gone).expect_err("gone");
    assert!(error.to_string().contains("value(v)"), "{error}");
    let mut clashed = shape.clone();
    assert!(clashed.evolve(&clash, &Origin::default()).is_err());
}

#[test]
fn shapes_of_other_tables_are_as_before() {
    let plain = Shape::new(&schema(), &Origin::default());
    let text = serde_json::to_string(&plain).expect("json");
    assert!(!text.contains("partition"), "{text}");
    let shape = shape(&["value(v)", "bucket(7, id)"]);
    let text = serde_json::to_string(&shape).expect("json");
    assert_eq!(serde_json::from_str::<Shape>(&text).expect("a shape"), shape);
}
