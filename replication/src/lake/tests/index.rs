//! The table with an index that is kept: what may happen to the folder between
//! two runs, and in one.

use std::fs;
use std::path::Path;

use super::*;

/// Where the index is, and how it is damaged.
struct Cache {
    dir: PathBuf,
    seed: u64,
    lazy: bool,
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Cache {
    fn new(seed: u64) -> Self {
        let dir = std::env::temp_dir().join(format!("tributary-cache-{}", uuid::Uuid::new_v4()));
        Self {
            dir,
            seed,
            lazy: seed.is_multiple_of(2),
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    /// Every other cache has no memory: then blocks are read only when they are
    /// needed.
    fn home(&self) -> Arc<IndexHome> {
        let memory = if self.lazy { 0 } else { 8 << 20 };
        IndexHome::open(Some(&self.dir), memory).expect("home")
    }

    /// All files of the folders, in order.
    fn files(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.dir.join("keys")).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = folders
            .filter(|folder| folder.path().is_dir())
            .flat_map(|folder| fs::read_dir(folder.path()).expect("folder").flatten())
            .map(|file| file.path())
            .collect();
        files.sort();
        files
    }

    /// The folder's files with what is in them.
    fn copy(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let files = self.files().into_iter();
        files
            .map(|path| (path.clone(), fs::read(path).expect("read")))
            .collect()
    }

    fn damage(&mut self, old: &[(PathBuf, Vec<u8>)]) -> &'static str {
        let files = self.files();
        let pick = self.random(files.len().max(1) as u64) as usize;
        let Some(path) = files.get(pick) else { return "nothing" };
        let bytes = fs::read(path).expect("read");
        match self.random(8) {
            0 => {
                let length = self.random(bytes.len() as u64) as usize;
                fs::write(path, &bytes[..length]).expect("truncate");
                "truncated"
            }
            1 | 2 => {
                let mut bytes = bytes;
                let at = self.random(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.random(8);
                fs::write(path, bytes).expect("flip");
                "flipped"
            }
            3 => {
                fs::remove_file(path).expect("remove");
                "removed"
            }
            // All of an older copy, as a restored disk has it.
            4 => {
                files.iter().for_each(|path| fs::remove_file(path).expect("remove"));
                old.iter()
                    .for_each(|(path, bytes)| fs::write(path, bytes).expect("restore"));
                "an older copy"
            }
            // Some of it, among what there is.
            5 => {
                for (path, bytes) in old {
                    if self.random(2) == 0 {
                        fs::write(path, bytes).expect("restore");
                    }
                }
                "parts of an older copy"
            }
            6 => {
                fs::remove_dir_all(self.dir.join("keys")).expect("remove");
                "all removed"
            }
            _ => "nothing",
        }
    }
}

async fn open(folder: &Folder, home: &Arc<IndexHome>) -> (DeltaTable, u64) {
    let opened = Opened::read(folder.log(), PIPELINE).await.expect("open");
    let mut table = DeltaTable::new(schema(), opened.expect("a table"));
    let read = table.open_index(home).await.expect("index");
    (table, read)
}

/// Every row is found under its key, and no other.
fn check_index(table: &DeltaTable, model: &Model) -> Result<()> {
    let ids: Vec<i64> = (-5..200).collect();
    let mut changes = Changes::default();
    ids.iter().for_each(|id| changes.push(Op::Delete, *id, None, None));
    let keys = table.encoder.keys(&changes.batch().rows).expect("keys");
    for (id, found) in ids.iter().zip(table.find_all(&keys)?) {
        assert_eq!(found.is_some(), model.contains_key(id), "key {id}");
    }
    Ok(())
}

fn change(cache: &mut Cache, model: &mut Model, round: u64) -> ChangeBatch {
    let mut changes = Changes::default();
    for step in 0..cache.random(40) {
        let id = cache.random(150) as i64;
        let (v, big) = (format!("v{round}.{step}"), format!("b{round}.{step}"));
        let known = model.contains_key(&id);
        match cache.random(100) {
            0 if round.is_multiple_of(25) => changes.truncate(model),
            1..=20 if known => changes.delete(model, id),
            21..=50 if known => changes.upsert(model, id, &v, None),
            _ => changes.upsert(model, id, &v, Some(&big)),
        }
    }
    changes.batch()
}

/// Kills, restarts and damage at random, against a map.
async fn survive(seed: u64) {
    let folder = Folder::new();
    let mut cache = Cache::new(seed);
    let mut model = Model::new();
    let mut table = folder.create().await;
    table.open_index(&cache.home()).await.expect("index");
    table.commit("START", streaming).await.expect("start");
    let mut old = Vec::new();
    let mut found_late = 0;
    for round in 0..150 {
        let before = model.clone();
        let mut batch = change(&mut cache, &mut model, round);
        if let Err(error) = table.stage(batch, &NoSource).await {
            // Found in a block that opening does not read; the next start knows.
            assert_eq!(error.code(), Some(DAMAGED), "{error}");
            found_late += 1;
            drop(table);
            (table, _) = open(&folder, &cache.home()).await;
            assert_eq!(rows(&table).await, before);
            model = before;
            batch = change(&mut cache, &mut model, round);
            table.stage(batch, &NoSource).await.expect("stage");
        }
        commit(&mut table, round + 2).await.expect("commit");
        assert_eq!(rows(&table).await, model, "seed {seed}, round {round}");
        if cache.random(3) == 0 {
            table.end_index();
        }
        if cache.random(6) == 0 {
            // What is staged goes with the process.
            let mut lost = model.clone();
            let batch = change(&mut cache, &mut lost, round);
            if cache.random(2) == 0 && table.stage(batch, &NoSource).await.is_ok() {
                table.end_index();
            }
            drop(table);
            let what = cache.damage(&old);
            let home = cache.home();
            (table, _) = open(&folder, &home).await;
            assert_eq!(rows(&table).await, model, "seed {seed}, round {round}: {what}");
            if cache.random(2) == 0
                && let Err(error) = check_index(&table, &model)
            {
                assert_eq!(error.code(), Some(DAMAGED), "{error}");
                found_late += 1;
                drop(table);
                (table, _) = open(&folder, &cache.home()).await;
                check_index(&table, &model).expect("it was built anew");
            }
        }
        if cache.random(12) == 0 {
            old = cache.copy();
        }
    }
    drop(table);
    fs::remove_dir_all(&cache.dir).expect("remove");
    let (table, _) = open(&folder, &cache.home()).await;
    check_index(&table, &model).expect("it was built anew");
    println!("seed {seed}: damage found late {found_late} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_the_folder_the_table_is_right() {
    for seed in [1, 3, 6, 8] {
        survive(seed).await;
    }
}

/// Gives some keys a row of `v`.
async fn put(table: &mut DeltaTable, model: &mut Model, ids: std::ops::Range<i64>, v: &str, lsn: u64) {
    let mut changes = Changes::default();
    ids.for_each(|id| changes.upsert(model, id, v, Some(v)));
    apply(table, changes, lsn).await;
}

/// A new table with an index and a hundred rows.
async fn filled(folder: &Folder, home: &Arc<IndexHome>, v: &str) -> (DeltaTable, Model) {
    let mut table = folder.create().await;
    table.open_index(home).await.expect("index");
    let mut model = Model::new();
    put(&mut table, &mut model, 0..100, v, 2).await;
    (table, model)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_reads_only_what_came_after_the_manifest() {
    let folder = Folder::new();
    let cache = Cache::new(1);
    let (mut model, mut version) = (Model::new(), 1);
    let mut table = folder.create().await;
    table.open_index(&cache.home()).await.expect("index");
    let mut add = async |table: &mut DeltaTable, ids: std::ops::Range<i64>| {
        version += 1;
        put(table, &mut model, ids, "v", version).await;
        model.clone()
    };
    add(&mut table, 0..1000).await;
    add(&mut table, 500..600).await;
    table.end_index();
    drop(table);
    let (mut table, read) = open(&folder, &cache.home()).await;
    assert_eq!(read, 0);
    // A kill: nothing of this is saved.
    add(&mut table, 990..1020).await;
    drop(table);
    let (mut table, read) = open(&folder, &cache.home()).await;
    assert_eq!(read, 30);
    // It was frozen, but is not committed.
    let mut changes = Changes::default();
    (0..10).for_each(|id| changes.push(Op::Upsert, id, Some("lost"), Some("lost")));
    table.stage(changes.batch(), &NoSource).await.expect("stage");
    table.end_index();
    drop(table);
    let (mut table, read) = open(&folder, &cache.home()).await;
    assert_eq!(read, 30);
    let model = add(&mut table, 0..1).await;
    assert_eq!(rows(&table).await, model);
    table.end_index();
    drop(table);
    // Another key, another pipeline, an older table: nothing fits.
    let home = cache.home();
    let kept = home.folder(folder.log().log_url()).await.expect("folder");
    let (manifest, identity) = {
        let bytes = fs::read(kept.manifest()).expect("manifest");
        let manifest = key_index::Manifest::decode(&bytes).expect("decode");
        (bytes, manifest.identity)
    };
    let runs: Vec<(PathBuf, Vec<u8>)> = cache.copy();
    for change in 0..4 {
        let mut other = identity.clone();
        let mut version = 100;
        match change {
            0 => other.key.push('x'),
            1 => other.pipeline.push('x'),
            2 => other.generation += 1,
            _ => version = 1,
        }
        let (index, manifest) = KeyIndex::open(&home, kept.clone(), &other, version);
        assert!(manifest.is_none() && index.names().is_empty());
        drop(index);
        assert!(cache.files().is_empty());
        runs.iter()
            .for_each(|(path, bytes)| fs::write(path, bytes).expect("restore"));
    }
    assert_eq!(fs::read(kept.manifest()).expect("manifest"), manifest);
    assert!(KeyIndex::open(&home, kept, &identity, 100).1.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_have_two_indexes() {
    let folder = Folder::new();
    let cache = Cache::new(1);
    let (mut table, model) = filled(&folder, &cache.home(), "v").await;
    table.end_index();
    let files = cache.files();
    // `verify` reads beside it, and a second sidecar waits in vain.
    let reader = IndexHome::beside(Some(&cache.dir), 1 << 20);
    for home in [reader, cache.home()] {
        let (other, read) = open(&folder, &home).await;
        assert_eq!(read, 100);
        check_index(&other, &model).expect("found");
        assert!(files.iter().all(|file| cache.files().contains(file)));
    }
    assert_eq!(cache.files(), files);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_came_back_are_read_again() {
    let folder = Folder::new();
    let cache = Cache::new(1);
    let (mut table, mut model) = filled(&folder, &cache.home(), "v").await;
    let restored = model.clone();
    let before = (table.files[0].add_action(None, true), table.version());
    let mut changes = Changes::default();
    (0..50).for_each(|id| changes.delete(&mut model, id));
    apply(&mut table, changes, 3).await;
    table.end_index();
    // Another program restores the version before.
    let actions = vec![table.files[0].remove_action(true), before.0];
    let version = table.version() + 1;
    assert_eq!(
        table.log.commit(version, "RESTORE", actions).await.expect("commit"),
        Commit::Committed
    );
    drop(table);
    let (table, read) = open(&folder, &cache.home()).await;
    assert_eq!(read, 100);
    check_index(&table, &restored).expect("found");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_files_that_are_gone_are_given_again() {
    let folder = Folder::new();
    let cache = Cache::new(1);
    let mut table = folder.create().await;
    table.open_index(&cache.home()).await.expect("index");
    let mut model = Model::new();
    for round in 0..700 {
        let mut changes = Changes::default();
        for id in 0..3 {
            changes.upsert(&mut model, id, &format!("v{round}"), Some("b"));
        }
        apply(&mut table, changes, round + 2).await;
    }
    assert!(table.files.len() < 400, "{} numbers", table.files.len());
    assert_eq!(rows(&table).await, model);
    check_index(&table, &model).expect("found");
    table.end_index();
    drop(table);
    let (table, _) = open(&folder, &cache.home()).await;
    check_index(&table, &model).expect("found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_of_a_copy_becomes_the_tables() {
    let folder = Folder::new();
    let cache = Cache::new(1);
    let home = cache.home();
    let (mut table, _) = filled(&folder, &home, "old").await;
    table.end_index();
    let main = table.retire(PIPELINE).await.expect("retire");
    let lake = Lake::open(&folder.0.display().to_string(), &Default::default()).expect("lake");
    let record = TableRecord::new(PIPELINE.into(), "public.t".into(), 7, 1, position(3));
    let shape = main.shape.replacing(&schema(), &Origin::default());
    let log = lake.copy(&table_path(&TableId::new("public", "t")), "c").expect("log");
    let mut copy = DeltaTable::create(log, schema(), shape, record).await.expect("create");
    copy.open_index(&home).await.expect("index");
    let mut copy = copy.replacing(main);
    let mut new = Model::new();
    put(&mut copy, &mut new, 50..160, "new", 4).await;
    copy.end_index();
    let folders = |cache: &Cache| {
        let entries = fs::read_dir(cache.dir.join("keys")).expect("keys").flatten();
        entries.filter(|entry| entry.path().is_dir()).count()
    };
    assert_eq!(folders(&cache), 2);
    copy.replace().await.expect("replace").expect("a copy");
    assert_eq!(folders(&cache), 1);
    put(&mut copy, &mut new, 155..170, "newer", 6).await;
    check_index(&copy, &new).expect("found");
    copy.end_index();
    drop(copy);
    let (table, read) = open(&folder, &home).await;
    assert_eq!(read, 0);
    check_index(&table, &new).expect("found");
    assert_eq!(rows(&table).await, new);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_goes_while_it_is_used_is_made_again() {
    let folder = Folder::new();
    let cache = Cache::new(1);
    let (mut table, model) = filled(&folder, &cache.home(), "v").await;
    table.end_index();
    fs::remove_dir_all(&cache.dir).expect("remove");
    check_index(&table, &model).expect("the files are open still");
    let mut entries = (0..100_000).map(|key| (key, Location::new(9, 0)));
    let error = entries.try_for_each(|(key, location)| table.index.insert(key, location));
    let error = error.expect_err("no folder for a run");
    assert_eq!(error.class(), Class::Transient);
    assert!(error.hint().is_some_and(|hint| hint.contains("cache.dir")));
    // What could not be written is not lost as long as the table lives.
    let location = table.index.get(7).expect("get");
    assert_eq!(location, Some(Location::new(9, 0)));
    table.end_index();
    drop(table);
    let (table, read) = open(&folder, &cache.home()).await;
    assert_eq!(read, 100);
    check_index(&table, &model).expect("found");
}

#[test]
fn a_folder_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let cache = Cache::new(1);
    let _home = cache.home();
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(&cache.dir.join("keys")), 0o700);
}
