//! Compactions, clean-ups, and other writers' commits, between our own.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;

impl Folder {
    /// Another program's view of the table.
    pub(super) async fn other(&self) -> DeltaTable {
        let opened = Opened::read(self.log(), PIPELINE)
            .await
            .expect("open")
            .expect("a table");
        DeltaTable::for_maintenance(opened).expect("columns")
    }

    /// What another program commits.
    pub(super) async fn commit(&self, actions: Vec<Value>) {
        let version = self.other().await.version + 1;
        let committed = self.log().commit(version, "OTHER", actions).await.expect("commit");
        assert_eq!(committed, Commit::Committed);
    }

    /// Another program writes rows; which it may give no statistics.
    pub(super) async fn append(&self, ids: &[i64], stats: bool) {
        let mut changes = Changes::default();
        for id in ids {
            changes.push(Op::Upsert, *id, Some("other"), Some("other"));
        }
        let (table, rows) = (self.other().await, changes.batch().rows);
        let mut writer = table.file_format().writer();
        let keys = table.encoder().keys(&rows).expect("keys");
        writer.write(&rows, &keys).await.expect("write");
        let mut adds = Vec::new();
        for (file, _) in writer.finish().await.expect("finish") {
            let mut add = DataFile::written(file).add_action(None, true);
            if !stats {
                add["add"].as_object_mut().expect("an add").remove("stats");
            }
            adds.push(add);
        }
        self.commit(adds).await;
    }

    /// Another program deletes some rows of one file. Returns their keys.
    pub(super) async fn delete_some(&self, seed: u64) -> Vec<i64> {
        let mut table = self.other().await;
        let Some(number) = (0..table.files.len()).find(|n| table.files[*n].live_rows() > 1) else {
            return Vec::new();
        };
        let file = &table.files[number];
        let live: Vec<u32> = (0..file.rows).filter(|row| !file.deleted.contains(*row)).collect();
        let dead: Vec<u32> = live
            .into_iter()
            .filter(|row| (u64::from(*row) + seed).is_multiple_of(3))
            .collect();
        let columns = table.columns_schema(&[1]).expect("columns");
        let ids = data_file::read_rows(&table.log, &file.stored(), &columns, &dead)
            .await
            .expect("rows");
        let ids = ids.column(0).as_primitive::<Int64Type>().values().to_vec();
        table.files[number].deleted.extend(dead);
        table.files[number].dirty = true;
        let vectors = table.write_vectors().await.expect("vectors");
        self.commit(table.file_actions(&vectors, true)).await;
        ids
    }

    /// Another program removes a file. Returns the keys of its rows.
    pub(super) async fn remove_file(&self) -> Vec<i64> {
        let table = self.other().await;
        let Some(file) = table.files.iter().find(|file| file.live_rows() > 0) else {
            return Vec::new();
        };
        let rows: Vec<u32> = (0..file.rows).filter(|row| !file.deleted.contains(*row)).collect();
        let columns = table.columns_schema(&[1]).expect("columns");
        let ids = data_file::read_rows(&table.log, &file.stored(), &columns, &rows)
            .await
            .expect("rows");
        self.commit(vec![file.remove_action(true)]).await;
        ids.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    /// Another program updates rows: they die where they were.
    async fn update(&self, ids: &[i64]) {
        let mut table = self.other().await;
        table.build_index().await.expect("index");
        let mut changes = Changes::default();
        for id in ids {
            changes.push(Op::Upsert, *id, Some("other"), Some("other"));
        }
        table.stage(changes.batch(), &NoSource).await.expect("stage");
        let vectors = table.write_vectors().await.expect("vectors");
        self.commit(table.file_actions(&vectors, true)).await;
    }

    /// As [`Folder::optimize`], which must have something to do.
    async fn optimize_all(&self) {
        let before = self.other().await.version;
        self.optimize().await;
        assert!(self.other().await.version > before, "nothing was compacted");
    }

    /// Another program compacts small files, if there are many.
    pub(super) async fn optimize(&self) {
        let mut table = self.other().await;
        if let Some(compaction) = table.compaction() {
            let done = run(compaction).await;
            table.take_compacted(&done).await.expect("compacted");
        }
    }

    /// Everything in the table's folder but its log.
    fn content(&self) -> BTreeSet<String> {
        let listed = std::fs::read_dir(self.0.join("public/t")).expect("a folder");
        let names = listed.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "_delta_log").collect()
    }

    fn log_entries(&self) -> usize {
        let listed = std::fs::read_dir(self.0.join("public/t/_delta_log")).expect("a folder");
        let path = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").path();
        listed
            .map(path)
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .count()
    }

    /// Makes files seem as old as they would be after `hours`.
    pub(super) fn age(&self, hours: u64) {
        fn age(folder: &Path, by: Duration) {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    age(&path, by);
                } else {
                    let file = std::fs::File::options().write(true).open(&path).expect("a file");
                    let modified = file.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::now());
                    file.set_modified(modified - by).expect("older");
                }
            }
        }
        age(&self.0, Duration::from_secs(hours * 3600));
    }
}

async fn run(compaction: Compaction) -> Compacted {
    compaction
        .run(&AtomicBool::new(false))
        .await
        .expect("compaction")
        .expect("a file")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_between_our_commits_no_row_is_lost_or_doubled() {
    let (mut compactions, mut others) = (0, 0);
    for seed in 1..=5 {
        let mut random = numbers(seed);
        let folder = Folder::new();
        let mut shape = Shape::new(&schema(), &Origin::default());
        if seed > 3 {
            shape = partitions::by(shape, &["bucket(2, id)"]);
        }
        let mut table = folder.create_as(shape).await;
        table.commit("START", streaming).await.expect("start");
        table.build_index().await.expect("index");
        let mut model = Model::new();
        let mut compaction = None;

        for round in 0..90_u64 {
            // Others' commits before ours.
            if random(6) == 0 {
                others += 1;
                match random(6) {
                    0 => folder.optimize().await,
                    1 | 2 => folder
                        .delete_some(round)
                        .await
                        .iter()
                        .for_each(|id| drop(model.remove(id))),
                    3 if random(2) == 0 => folder.remove_file().await.iter().for_each(|id| drop(model.remove(id))),
                    _ => {
                        let ids: Vec<i64> = (0..random(20)).map(|i| (random(100) + i * 100) as i64).collect();
                        folder.append(&ids, random(2) == 0).await;
                        for id in ids {
                            model.entry(id).or_insert(("other".to_owned(), "other".to_owned()));
                        }
                    }
                }
                if random(3) == 0 {
                    compaction = None;
                    table = folder.reopen().await;
                }
                // What others did is known from our next commit on.
                commit(&mut table, round + 1).await.expect("commit");
                assert_eq!(rows(&table).await, model, "others in round {round}, seed {seed}");
            }
            let mut changes = Changes::default();
            for step in 0..random(60) {
                let id = random(100) as i64;
                let (v, big) = (format!("v{round}.{step}"), format!("b{round}.{step}"));
                let known = model.contains_key(&id);
                match random(100) {
                    0 if round % 20 == 0 => changes.truncate(&mut model),
                    1..=20 if known => changes.delete(&mut model, id),
                    21..=60 if known => changes.upsert(&mut model, id, &v, None),
                    _ => changes.upsert(&mut model, id, &v, Some(&big)),
                }
            }
            table.stage(changes.batch(), &NoSource).await.expect("stage");
            // Others' commits that ours finds in its way; of rows, keys that it has.
            if random(12) == 0 {
                others += 1;
                for _ in 0..random(3) {
                    let ids: Vec<i64> = model.keys().copied().filter(|_| random(10) == 0).collect();
                    folder.append(&ids, true).await;
                    folder.optimize().await;
                }
                folder.optimize().await;
            }
            commit(&mut table, round + 2).await.expect("commit");
            assert_eq!(rows(&table).await, model, "round {round}, seed {seed}");
            partitions::check(&folder, &table).await;
            match compaction.take() {
                None => {
                    if let Some(due) = table.compaction() {
                        compaction = Some(run(due).await);
                    }
                }
                // Some commits have come in between.
                Some(done) if random(3) == 0 => {
                    if random(4) == 0 {
                        folder.optimize().await;
                    }
                    table.take_compacted(&done).await.expect("compacted");
                    compactions += 1;
                    assert_eq!(rows(&table).await, model, "compacted in round {round}, seed {seed}");
                }
                waiting => compaction = waiting,
            }
            if round % 19 == 0 {
                compaction = None;
                table = folder.reopen().await;
                assert_eq!(rows(&table).await, model, "reopened in round {round}, seed {seed}");
            }
            if round % 40 == 39 {
                table.log.checkpoint(table.version).await.expect("checkpoint");
            }
        }
    }
    assert!(
        compactions > 3 && others > 20,
        "{compactions} compactions, {others} others"
    );
}

/// A table of 20 rows in files that are worth compacting.
async fn many_files(folder: &Folder, model: &mut Model) -> DeltaTable {
    let mut table = folder.create().await;
    table.commit("START", streaming).await.expect("start");
    table.build_index().await.expect("index");
    for first in 0..10 {
        let mut changes = Changes::default();
        for id in [first, first + 10] {
            changes.upsert(model, id, "v", Some("b"));
        }
        apply(&mut table, changes, 2).await;
    }
    table
}

fn of_others() -> (String, String) {
    ("other".to_owned(), "other".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_others_doubled_and_then_compacted_is_ours() {
    for staged in [false, true] {
        let (folder, mut model) = (Folder::new(), Model::new());
        let mut table = many_files(&folder, &mut model).await;
        let mut changes = Changes::default();
        if staged {
            changes.upsert(&mut model, 5, "newer", None);
            changes.delete(&mut model, 6);
        }
        table.stage(changes.batch(), &NoSource).await.expect("stage");
        // All before our next commit: rows of keys that are there, and of a new one,
        // twice.
        folder.append(&[5, 7, 100, 100], true).await;
        folder.append(&[7, 8], true).await;
        folder.optimize_all().await;
        folder.append(&[9], true).await;
        model.insert(100, of_others());
        commit(&mut table, 3).await.expect("commit");
        assert_eq!(rows(&table).await, model, "staged: {staged}");
        let mut changes = Changes::default();
        for id in [5, 7, 8, 9, 100] {
            changes.upsert(&mut model, id, "last", None);
        }
        apply(&mut table, changes, 4).await;
        assert_eq!(rows(&table).await, model, "staged: {staged}");
        assert_eq!(rows(&folder.reopen().await).await, model, "staged: {staged}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_doubled_is_seen_behind_a_compaction() {
    let (folder, mut model) = (Folder::new(), Model::new());
    drop(many_files(&folder, &mut model).await);
    folder.append(&[5, 200], true).await;
    folder.optimize_all().await;
    model.insert(200, of_others());
    let mut table = folder.reopen().await;
    commit(&mut table, 3).await.expect("commit");
    assert_eq!(rows(&table).await, model);
    assert_eq!(rows(&folder.reopen().await).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_others_update_while_we_delete_it_is_gone() {
    let (folder, mut model) = (Folder::new(), Model::new());
    let mut table = many_files(&folder, &mut model).await;
    let mut changes = Changes::default();
    changes.delete(&mut model, 5);
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    folder.update(&[5, 6]).await;
    model.insert(6, of_others());
    commit(&mut table, 3).await.expect("commit");
    assert_eq!(rows(&table).await, model);
    assert_eq!(rows(&folder.reopen().await).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_keeps_what_died_meanwhile_dead() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    table.commit("START", streaming).await.expect("start");
    table.build_index().await.expect("index");
    let mut model = Model::new();
    for round in 0..8 {
        let mut changes = Changes::default();
        for id in round * 10..round * 10 + 10 {
            changes.upsert(&mut model, id, "v", Some("b"));
        }
        // Rows that are dead when the compaction begins.
        changes.push(Op::Delete, round * 10 - 3, None, None);
        model.remove(&(round * 10 - 3));
        apply(&mut table, changes, 2).await;
    }
    assert_eq!(table.files.iter().filter(|file| !file.removed).count(), 8);
    let done = run(table.compaction().expect("eight small files")).await;
    let mut changes = Changes::default();
    for id in [0, 9, 10, 42, 79] {
        changes.delete(&mut model, id);
    }
    for id in [5, 41, 60] {
        changes.upsert(&mut model, id, "newer", None);
    }
    for id in 20..30 {
        if model.contains_key(&id) {
            changes.delete(&mut model, id);
        }
    }
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    let busy = table.take_compacted(&done).await.expect_err("changes are staged");
    assert_eq!(busy.class(), Class::Bug);
    commit(&mut table, 3).await.expect("commit");
    let version = table
        .take_compacted(&done)
        .await
        .expect("compacted")
        .expect("a version");
    assert_eq!(rows(&table).await, model);
    let entry = table.log.read(version).await.expect("read").expect("an entry");
    for action in entry.iter().filter(|action| action["commitInfo"].is_null()) {
        let kind = action.as_object().and_then(|a| a.keys().next()).expect("a kind");
        match kind.as_str() {
            "add" | "remove" => assert_eq!(action[kind]["dataChange"], false),
            "domainMetadata" => {}
            other => assert_eq!(other, "add or remove"),
        }
    }
    let added = entry.iter().find(|action| action["add"].is_object()).expect("an add");
    assert!(added["add"]["deletionVector"].is_object());
    // Every key is found where it is now.
    let mut changes = Changes::default();
    for id in model.keys().copied().collect::<Vec<_>>() {
        changes.upsert(&mut model, id, "again", None);
    }
    apply(&mut table, changes, 4).await;
    assert_eq!(rows(&table).await, model);
    assert_eq!(rows(&folder.reopen().await).await, model);
}

/// A table of eight files, each with a row.
async fn eight_files(folder: &Folder) -> (DeltaTable, Model) {
    let mut table = folder.create().await;
    table.commit("START", streaming).await.expect("start");
    table.build_index().await.expect("index");
    let mut model = Model::new();
    for round in 0..8 {
        let mut changes = Changes::default();
        changes.upsert(&mut model, round, "v", Some("b"));
        apply(&mut table, changes, 2).await;
    }
    (table, model)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_of_rows_that_are_all_gone_adds_nothing() {
    let folder = Folder::new();
    let (mut table, _) = eight_files(&folder).await;
    let done = run(table.compaction().expect("eight small files")).await;
    let mut changes = Changes::default();
    changes.truncate(&mut Model::new());
    apply(&mut table, changes, 3).await;
    table.take_compacted(&done).await.expect("compacted");
    assert_eq!(rows(&folder.reopen().await).await, Model::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_programs_changes_of_the_table_itself_open_it_again() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    table.build_index().await.expect("index");
    let metadata = table.shape.metadata_action("public.t", &schema());
    folder.commit(vec![metadata]).await;
    let changed = commit(&mut table, 2).await.expect_err("the table has changed");
    assert_eq!(changed.class(), Class::Transient);
    commit(&mut folder.reopen().await, 2).await.expect("after reopening");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_others_bring_back_mean_a_new_copy() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    table.build_index().await.expect("index");
    let mut model = Model::new();
    let mut changes = Changes::default();
    for id in 0..5 {
        changes.upsert(&mut model, id, "v", Some("b"));
    }
    apply(&mut table, changes, 2).await;
    let mut changes = Changes::default();
    changes.delete(&mut model, 3);
    apply(&mut table, changes, 3).await;
    let other = folder.other().await;
    let file = other.files.iter().find(|file| file.vector.is_some()).expect("a vector");
    folder
        .commit(vec![file.remove_action(true), file.add_action(None, true)])
        .await;
    let restored = commit(&mut table, 4).await.expect_err("rows came back");
    assert_eq!(restored.code(), Some(UNREADABLE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_up_leaves_what_kept_versions_need() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    table.commit("START", streaming).await.expect("start");
    table.build_index().await.expect("index");
    let mut model = Model::new();
    let mut round = 0;
    let mut work = async |table: &mut DeltaTable, model: &mut Model, rounds: u64| {
        for _ in 0..rounds {
            round += 1;
            let mut changes = Changes::default();
            for id in 0..20 {
                match (id + round as i64) % 4 {
                    0 if model.contains_key(&id) => changes.delete(model, id),
                    1 => changes.upsert(model, id, &format!("v{round}"), Some("b")),
                    _ => {}
                }
            }
            apply(table, changes, round + 1).await;
        }
        table.log.checkpoint(table.version).await.expect("checkpoint");
    };
    let cutoff = |hours: i64| now_ms() - hours * 3600 * 1000;
    // What a killed run left, long ago.
    std::fs::write(folder.0.join("public/t/part-stray.snappy.parquet"), "x").expect("a file");
    work(&mut table, &mut model, 12).await;
    folder.age(100);
    work(&mut table, &mut model, 12).await;
    let kept = folder.other().await;
    let (kept_version, kept_rows) = (kept.version, rows(&kept).await);
    // The last of these was current until ten hours ago.
    folder.age(10);
    work(&mut table, &mut model, 12).await;
    std::fs::write(folder.0.join("public/t/part-on-its-way.snappy.parquet"), "x").expect("a file");
    let before = folder.content();
    let entries = folder.log_entries();
    let spare = table.cleaning().expect("alone").run(cutoff(1000)).await.expect("clean");
    // Checkpoints that others have followed long ago, and nothing else.
    assert_eq!(
        (spare.files, folder.content(), folder.log_entries()),
        (0, before.clone(), entries)
    );
    assert!(spare.log_entries > 0, "{spare:?}");
    let cleaned = table.cleaning().expect("alone").run(cutoff(50)).await.expect("clean");
    let after = folder.content();
    assert_eq!(cleaned.files as usize, before.len() - after.len());
    assert!(cleaned.files > 5 && cleaned.log_entries > 5, "{cleaned:?}");
    assert!(!after.contains("part-stray.snappy.parquet") && after.contains("part-on-its-way.snappy.parquet"));
    // A reader at a version that is kept still finds everything.
    for version in kept_version..=table.version {
        let state = folder
            .log()
            .load_at(PIPELINE, version)
            .await
            .expect("load")
            .expect("a table");
        for file in state.files {
            assert!(after.contains(&file.path), "{} of version {version}", file.path);
            let vector = file.deletion_vector.and_then(|vector| vector.path());
            assert!(vector.is_none_or(|vector| after.contains(&vector)), "version {version}");
        }
    }
    assert!(!kept_rows.is_empty());
    assert_eq!(rows(&folder.reopen().await).await, model);
    // Once all is old, only the newest version stays.
    folder.age(100);
    table.cleaning().expect("alone").run(cutoff(50)).await.expect("clean");
    let cleaning = table.cleaning().expect("alone");
    assert_eq!(folder.content(), cleaning.needed.iter().cloned().collect());
    assert_eq!(folder.log_entries(), 1);
    let mut table = folder.reopen().await;
    assert_eq!(rows(&table).await, model);
    commit(&mut table, 1000).await.expect("commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_forgets_vectors_that_were_replaced() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    table.build_index().await.expect("index");
    let mut model = Model::new();
    let mut changes = Changes::default();
    for id in 0..100 {
        changes.upsert(&mut model, id, "v", Some("b"));
    }
    apply(&mut table, changes, 2).await;
    for id in 0..50 {
        let mut changes = Changes::default();
        changes.delete(&mut model, id);
        apply(&mut table, changes, 3).await;
    }
    table.log.checkpoint(table.version).await.expect("checkpoint");
    let hint = std::fs::read(folder.0.join("public/t/_delta_log/_last_checkpoint")).expect("a hint");
    let hint: Value = serde_json::from_slice(&hint).expect("JSON");
    // protocol, metaData, txn, two domains, and one file.
    assert_eq!((&hint["size"], &hint["numOfAddFiles"]), (&json!(6), &json!(1)));
    assert_eq!(rows(&folder.reopen().await).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_optimize_beside_files_that_are_written_anew_loses_nothing() {
    let folder = Folder::new();
    let shape = Shape::new(&schema(), &Origin::default()).without_vectors();
    let mut table = folder.stream_as(shape).await;
    let mut model = Model::new();
    for id in 0..10 {
        let mut changes = Changes::default();
        changes.upsert(&mut model, 10 * id, "a", Some("a"));
        changes.upsert(&mut model, 10 * id + 1, "a", Some("a"));
        apply(&mut table, changes, 2 + id as u64).await;
    }
    // Key 10 is gone and 11 is written anew; the file of both is another's input.
    let mut changes = Changes::default();
    changes.delete(&mut model, 10);
    changes.upsert(&mut model, 21, "b", None);
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    folder.optimize().await;
    commit(&mut table, 20).await.expect("commit");
    assert_eq!(rows(&table).await, model);
    assert_eq!(rows(&folder.reopen().await).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_from_before_columns_had_ids_is_given_up() {
    let folder = Folder::new();
    let (mut table, model) = eight_files(&folder).await;
    let done = run(table.compaction().expect("eight small files")).await;
    table.evolve(renamed(), &Origin::default()).expect("evolve");
    commit(&mut table, 3).await.expect("commit");
    assert!(table.shape.mapped);
    assert_eq!(table.take_compacted(&done).await.expect("too late"), None);
    let done = run(table.compaction().expect("eight small files")).await;
    assert!(table.take_compacted(&done).await.expect("compacted").is_some());
    assert_eq!(rows(&folder.reopen().await).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_beside_a_change_of_columns_begins_anew() {
    let folder = Folder::new();
    let (mut table, model) = eight_files(&folder).await;
    let mut other = folder.other().await;
    let done = run(other.compaction().expect("eight small files")).await;
    // Files with columns that it does not know.
    table.evolve(renamed(), &Origin::default()).expect("evolve");
    commit(&mut table, 3).await.expect("commit");
    let error = other.take_compacted(&done).await.expect_err("other columns");
    assert_eq!(error.class(), Class::Transient);
    let mut other = folder.other().await;
    assert_eq!(other.take_compacted(&done).await.expect("too late"), None);
    let done = run(other.compaction().expect("eight small files")).await;
    assert!(other.take_compacted(&done).await.expect("compacted").is_some());
    assert_eq!(rows(&folder.reopen().await).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoint_that_the_hint_names_stays() {
    let folder = Folder::new();
    let mut table = folder.create().await;
    table.commit("START", streaming).await.expect("start");
    table.build_index().await.expect("index");
    let mut model = Model::new();
    let log = folder.0.join("public/t/_delta_log");
    for round in 0..12 {
        let mut changes = Changes::default();
        changes.upsert(&mut model, round, "v", Some("b"));
        apply(&mut table, changes, 2).await;
        if [4, 8, 12].contains(&table.version) {
            let hint = std::fs::read(log.join("_last_checkpoint"));
            table.log.checkpoint(table.version).await.expect("checkpoint");
            // As if the program had died before the last hint.
            if table.version == 12 {
                std::fs::write(log.join("_last_checkpoint"), hint.expect("a hint")).expect("write");
            }
        }
    }
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
    for entry in std::fs::read_dir(&log).expect("log") {
        let file = std::fs::File::options()
            .append(true)
            .open(entry.expect("entry").path())
            .expect("open");
        file.set_modified(long_ago).expect("older");
    }
    commit(&mut table, 100).await.expect("a young entry");
    table.log.trim(0).await.expect("trim");
    let is_there = |version: u64| log.join(format!("{version:020}.checkpoint.parquet")).exists();
    assert_eq!([4, 8, 12].map(is_there), [true, true, true]);
    // With its own hint, the one in the middle is spare.
    table.log.checkpoint(table.version).await.expect("checkpoint");
    table.log.trim(0).await.expect("trim");
    assert_eq!([4, 8, 12].map(is_there), [true, false, true]);
}
