//! The key index on the local disk: kept, lost, damaged and out of date, the lake is right, and what is read for it is told.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::server::{POSTGRES, Server};
use crate::support::sidecar::Sidecar;
use crate::support::{Case, finish, text};

const ROWS: u64 = 100_000;

/// Files below a folder, with what is in them.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push((path.clone(), fs::read(path).unwrap())),
        }
    }
    found.sort();
    found
}

/// Rows whose keys the last start read for the index of a table.
fn indexed(sidecar: &Sidecar, table: &str) -> u64 {
    let log = sidecar.whole_log();
    let line = log
        .lines()
        .rfind(|line| line.contains("opened lake table") && line.contains(&format!("table={table} ")))
        .unwrap_or_else(|| panic!("{table} was not opened:\n{log}"));
    let field = line.split(' ').find_map(|field| field.strip_prefix("indexed="));
    field.unwrap_or_else(|| panic!("no count in {line}")).parse().unwrap()
}

/// Changes of both tables that need their keys found.
fn change(case: &Case, round: u32) {
    for table in ["ints", "texts"] {
        case.sql(&format!(
            "UPDATE {table} SET v = 'round {round}' WHERE n % 100 = {round};
             DELETE FROM {table} WHERE n % 1000 = 100 + {round};
             INSERT INTO {table} SELECT k, n, 'again' FROM {table}_before WHERE n % 1000 = 99 + {round}
             ON CONFLICT DO NOTHING"
        ));
    }
}

fn start(case: &Case, round: u32) -> Sidecar {
    change(case, round);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    change(case, round + 1);
    case.wait_until_current(&mut sidecar);
    case.compare(&["ints", "texts"]);
    sidecar
}

#[test]
fn kept_lost_damaged_and_old_indexes_give_the_same_lake() {
    let server = Server::start(POSTGRES, &[]);
    let mut case = Case::new(&server, "key_index");
    case.tables = vec!["public.ints".to_owned(), "public.texts".to_owned()];
    case.sql(&format!(
        "CREATE TABLE ints (k int PRIMARY KEY, n int, v text);
         INSERT INTO ints SELECT i, i, 'first' FROM generate_series(1, {ROWS}) i;
         CREATE TABLE texts (k text PRIMARY KEY, n int, v text);
         INSERT INTO texts SELECT 'key ' || i, i, 'first' FROM generate_series(1, {ROWS}) i;
         CREATE TABLE ints_before AS TABLE ints;
         CREATE TABLE texts_before AS TABLE texts;
         ALTER TABLE ints_before ADD PRIMARY KEY (k);
         ALTER TABLE texts_before ADD PRIMARY KEY (k)"
    ));
    let all = [("public.ints", ROWS), ("public.texts", ROWS)];
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    let keys = case.cache().join("keys");
    let old = files(&keys);
    assert!(
        old.iter().any(|(path, _)| path.ends_with("manifest")),
        "{:?}",
        case.cache()
    );

    // Kept: nothing is read that was there at the stop.
    let sidecar = start(&case, 1);
    for (table, _) in all {
        assert_eq!(indexed(&sidecar, table), 0, "{}", sidecar.log());
    }
    sidecar.kill();

    // After a kill: what was not saved is read again, and no more.
    let sidecar = start(&case, 3);
    for (table, rows) in all {
        assert!(indexed(&sidecar, table) < rows / 10, "{}", sidecar.log());
    }
    sidecar.stop();

    // An older copy put back: only what came since is read.
    fs::remove_dir_all(&keys).unwrap();
    for (path, bytes) in &old {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let sidecar = start(&case, 5);
    for (table, rows) in all {
        let read = indexed(&sidecar, table);
        assert!(read > 0 && read < rows / 10, "{read}: {}", sidecar.log());
    }
    sidecar.stop();

    // Each file damaged in turn: the table that it is of is read as a whole.
    let mut rebuilt = 0;
    for (round, (path, _)) in files(&keys).into_iter().enumerate().take(8) {
        let Ok(mut bytes) = fs::read(&path) else { continue };
        let Some(byte) = bytes.get_mut(path.to_string_lossy().len() * 7) else {
            continue;
        };
        *byte ^= 1;
        fs::write(&path, bytes).unwrap();
        let sidecar = start(&case, 7 + 2 * round as u32);
        rebuilt += all
            .iter()
            .filter(|(table, rows)| indexed(&sidecar, table) > rows / 2)
            .count();
        sidecar.stop();
    }
    assert!(rebuilt >= 2, "{rebuilt} tables were indexed anew");

    // Lost.
    fs::remove_dir_all(case.cache()).unwrap();
    let sidecar = start(&case, 30);
    for (table, rows) in all {
        assert!(indexed(&sidecar, table) > rows / 2, "{}", sidecar.log());
    }
    // What reads beside it leaves it alone, and nothing behind.
    let names = |files: Vec<(PathBuf, Vec<u8>)>| files.into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    let before = names(files(&keys));
    case.verify();
    assert_eq!(names(files(&keys)), before);
    sidecar.stop();
}

#[test]
fn a_copy_that_replaces_a_table_leaves_it_its_index() {
    let server = Server::start(POSTGRES, &[]);
    let case = Case::new(&server, "key_index_copy");
    case.sql(&format!(
        "CREATE TABLE ints (k int PRIMARY KEY, v text); INSERT INTO ints SELECT i, 'first' FROM generate_series(1, {ROWS}) i"
    ));
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let output = finish(&mut case.snapshot(&["public.ints"]));
    assert!(output.status.success(), "{}", text(&output));
    case.sql("UPDATE ints SET v = 'second' WHERE k % 100 = 0");
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    // One folder, and its lock.
    let left = fs::read_dir(case.cache().join("keys")).unwrap().flatten();
    let left: Vec<_> = left.filter(|entry| entry.path().is_dir()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let mut sidecar = case.start();
    case.sql("UPDATE ints SET v = 'third' WHERE k % 100 = 1; DELETE FROM ints WHERE k % 100 = 2");
    case.wait_until_current(&mut sidecar);
    assert_eq!(indexed(&sidecar, "public.ints"), 0, "{}", sidecar.log());
    case.compare(&["ints"]);
    sidecar.stop();
}

#[test]
fn a_folder_that_cannot_be_written_is_told_before_anything_is_done() {
    let server = Server::start(POSTGRES, &[]);
    let case = Case::new(&server, "key_index_folder");
    case.sql("CREATE TABLE t (id int PRIMARY KEY)");
    fs::write(case.cache(), "a file where the folder should be").unwrap();
    let output = case.run_once();
    assert!(!output.status.success());
    crate::support::assert_error(&output, &["cache.dir", "writable"]);
    fs::remove_file(case.cache()).unwrap();
    case.catch_up();
    case.compare(&["t"]);
}
