//! A lake in a bucket: what holds on disk holds there, through every fault of the store.
//!
//! `deltalake` reads the bucket itself; the oracle and the audit of the log read a copy of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::lake::{commits, is_mapped, replacements};
use crate::support::position::Position;
use crate::support::s3::{KEY, Proxy};
use crate::support::server::Server;
use crate::support::sidecar::Sidecar;
use crate::support::writer::Writer;
use crate::support::{Case, assert_error, finish, signal, succeed, text, wait_for};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v int, big text);
     ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
     INSERT INTO t SELECT i, 0, repeat(md5(i::text), 100) FROM generate_series(1, 2000) i";

/// Every kind of change, and values that stay unchanged.
const CHANGES: [&str; 4] = [
    "UPDATE t SET v = {i} WHERE id = {k}; UPDATE t SET v = v + 1 WHERE id % 97 = {k} % 97",
    "INSERT INTO t VALUES (10000 + {i}, {i}, repeat('x', 3000))",
    "DELETE FROM t WHERE id = 10000 + {i} - 20; DELETE FROM t WHERE id = {k} + 1",
    "INSERT INTO t VALUES ({k} + 1, -{i}, 'again') ON CONFLICT (id) DO UPDATE SET big = 'new'",
];

fn case(name: &str) -> Case<'static> {
    let case = Case::in_bucket(Server::shared(15), name);
    case.sql(TABLE);
    case
}

fn behind_proxy(name: &str) -> (Case<'static>, Proxy) {
    let seed = std::process::id();
    println!("seed {seed}");
    let (case, proxy) = Case::behind_proxy(Server::shared(15), name, seed);
    case.sql(TABLE);
    (case, proxy)
}

/// Where the source's log is confirmed to have been taken over.
fn confirmed(case: &Case) -> Position {
    Position::parse(&case.sql(&format!(
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{}'",
        case.slot
    )))
}

/// The source may forget nothing that is not in the bucket.
fn assert_confirmed_is_durable(case: &Case) {
    // In this order: what is confirmed then was durable before.
    let confirmed = confirmed(case);
    let status = case.status_past_proxy();
    assert!(!status.tables.is_empty(), "{}", status.text);
    for table in &status.tables {
        let known = table.watermark.covers(&confirmed) || status.confirmed.covers(&confirmed);
        assert!(known, "{confirmed:?} is confirmed: {}", status.text);
    }
}

/// The sidecar is current, nothing is lost or doubled, and it ends well.
fn assert_whole(case: &Case, mut sidecar: Sidecar) {
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    assert_confirmed_is_durable(case);
    case.compare(&[]);
    case.verify();
}

#[test]
fn a_lake_in_a_bucket_is_as_one_on_disk() {
    let mut case = case("bucket");
    case.tables = vec!["public.*".to_owned(), "Odd*.*".to_owned()];
    let odd = r#""Odd /schema"."a b/ü~%20?.#*""#;
    case.sql(&format!(
        r#"CREATE SCHEMA "Odd /schema"; CREATE TABLE {odd} (id int PRIMARY KEY, "ü/" text);
           INSERT INTO {odd} SELECT i, 'v' FROM generate_series(1, 100) i;
           CREATE TABLE "Odd /schema".".." (id int PRIMARY KEY); INSERT INTO "Odd /schema".".." VALUES (1)"#
    ));
    case.check_passes_before_and_after_the_first_run();
    case.compare(&[]);

    let mut sidecar = case.start();
    let writer = Writer::start(&case, 1000, &CHANGES);
    case.sql(&format!(
        "UPDATE {odd} SET \"ü/\" = 'w' WHERE id < 50; DELETE FROM {odd} WHERE id > 90"
    ));
    case.wait_until_current(&mut sidecar);
    sidecar.kill();
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    writer.stop();
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);

    // Columns, with column mapping in the end.
    case.sql("ALTER TABLE t ADD n numeric(10, 2) DEFAULT 7; UPDATE t SET n = 8 WHERE id < 100");
    case.wait_until_settled(&mut sidecar);
    case.sql("ALTER TABLE t RENAME v TO w; UPDATE t SET w = -1 WHERE id % 10 = 0; ALTER TABLE t DROP n");
    case.sql("INSERT INTO t (id, w) VALUES (-5, 1)");
    case.wait_until_settled(&mut sidecar);
    assert!(is_mapped(&case.table("t")));
    case.wait_until_equal(&mut sidecar);

    // A new copy beside the running program, asked for through the bucket, in one switch.
    succeed(&mut case.snapshot(&["public.t"]));
    case.sql("UPDATE t SET w = 77 WHERE id % 3 = 0; TRUNCATE \"Odd /schema\".\"..\"; INSERT INTO \"Odd /schema\".\"..\" VALUES (2)");
    assert!(!replacements(&case.table("t")).is_empty());
    let status = case.table_status("t").unwrap();
    assert_eq!(status.state, "streaming");
    // A cut names folders as they are called in the bucket.
    let tables = wait_for("a cut with odd names", || {
        let cuts = finish(case.command("cuts").arg("--json"));
        let cuts: Value = serde_json::from_slice(&cuts.stdout).unwrap_or_default();
        let tables = cuts["cuts"][0]["tables"].as_array()?.clone();
        let paths: Vec<String> = tables.iter().map(|t| t["path"].as_str().unwrap().to_owned()).collect();
        paths.iter().any(|path| path.contains('!')).then_some(paths)
    });
    let root = case.table("t").ancestors().nth(2).unwrap().to_owned();
    for path in tables {
        assert!(root.join(&path).join("_delta_log").exists(), "{path}");
    }
    assert_whole(&case, sidecar);
    let left = std::fs::read_dir(case.lake.join("_tributary")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !left.iter().any(|name| name.to_str().unwrap().starts_with("probe")),
        "{left:?}"
    );
}

#[test]
fn a_checkpoint_is_written_to_a_bucket_and_read_back() {
    let mut case = case("bucket_checkpoint");
    case.a_checkpoint_is_read_back();
}

#[test]
fn errors_of_every_tenth_request_do_no_harm() {
    let (case, proxy) = behind_proxy("bucket_errors");
    let failures = |share: f64| {
        json!([
            {"match": ".", "do": "answer", "status": 500, "body": "<Error><Code>InternalError</Code></Error>", "share": share},
            {"match": ".", "do": "answer", "status": 503, "body": "<Error><Code>SlowDown</Code></Error>", "share": share},
            {"match": ".", "do": "refuse", "share": share},
        ])
    };
    proxy.set(failures(0.04));
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let writer = Writer::start(&case, 1000, &CHANGES);
    wait_for("hundreds of requests", || {
        sidecar.assert_running();
        (proxy.applied().iter().sum::<u64>() >= 60).then_some(())
    });
    assert_confirmed_is_durable(&case);
    writer.stop();
    case.wait_until_current(&mut sidecar);
    assert!(!sidecar.whole_log().contains("interrupted"), "{}", sidecar.log());
    assert_whole(&case, sidecar);
}

#[test]
fn a_commit_whose_answer_is_lost_is_settled_by_reading_it_back() {
    let (mut case, proxy) = behind_proxy("bucket_lost_commits");
    case.bucket_mut().options = "timeout = \"2s\"";
    let entry = r"^PUT \S+/\d{20}\.json";
    // The store's client repeats a put whose connection broke, and is refused by its own entry; it gives up one that
    // is not answered.
    let lost = json!([
        {"match": entry, "do": "swallow", "share": 0.1},
        {"match": entry, "do": "cut", "share": 0.2},
        {"match": entry, "do": "refuse", "share": 0.1},
    ]);
    proxy.set(lost);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let writer = Writer::start(&case, 1000, &CHANGES);
    wait_for("commits that are lost", || {
        sidecar.assert_running();
        proxy.applied().iter().all(|n| *n >= 5).then_some(())
    });
    assert_confirmed_is_durable(&case);
    writer.stop();
    case.wait_until_current(&mut sidecar);
    let log = sidecar.whole_log();
    assert!(!log.contains("interrupted") && !log.contains("another"), "{log}");
    assert_whole(&case, sidecar);
}

#[test]
fn a_data_file_whose_answer_is_lost_is_there_once() {
    let (mut case, proxy) = behind_proxy("bucket_lost_files");
    case.bucket_mut().options = "timeout = \"2s\"";
    // Does not compress: several parts.
    case.sql(
        "CREATE EXTENSION pgcrypto; CREATE TABLE large (id int PRIMARY KEY, v bytea);
         INSERT INTO large SELECT i, gen_random_bytes(1000) FROM generate_series(1, 30000) i",
    );
    let lost = json!([
        {"match": r"^POST \S+\.parquet\?uploadId", "do": "cut", "times": 1},
        {"match": r"^POST \S+\.parquet\?uploadId", "do": "swallow", "times": 1},
        {"match": r"^PUT \S+\.parquet\?\S*partNumber", "do": "swallow", "times": 1},
        {"match": r"^PUT \S+\.parquet\?\S*partNumber", "do": "answer", "status": 500, "times": 2},
        {"match": r"^PUT \S+\.parquet$", "do": "cut", "times": 2},
        {"match": r"^PUT \S+deletion_vector\S+\.bin$", "do": "swallow", "times": 2},
    ]);
    proxy.set(lost);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    wait_for("two large files", || {
        sidecar.assert_running();
        case.sql(
            "UPDATE large SET v = gen_random_bytes(1000) WHERE id < 12000; UPDATE t SET v = v + 1 WHERE id % 9 = 0",
        );
        case.wait_until_current(&mut sidecar);
        (proxy.applied() == [1, 1, 1, 2, 2, 2]).then_some(())
    });
    assert!(!sidecar.whole_log().contains("interrupted"), "{}", sidecar.log());
    assert_whole(&case, sidecar);
}

#[test]
fn parts_of_a_file_that_is_given_up_are_removed() {
    let (case, proxy) = behind_proxy("bucket_parts");
    case.sql(
        "CREATE EXTENSION pgcrypto; CREATE TABLE large (id int PRIMARY KEY, v bytea);
         INSERT INTO large SELECT i, gen_random_bytes(1000) FROM generate_series(1, 20000) i",
    );
    // Such an answer is not repeated.
    proxy.set(json!([
        {"match": r"^PUT \S+\.parquet\?\S*partNumber=2", "do": "answer", "status": 400, "times": 1},
        {"match": r"^DELETE \S+\.parquet\?uploadId", "do": "pass"},
    ]));
    let mut sidecar = case.start();
    wait_for("the parts to be removed", || {
        sidecar.assert_running();
        (proxy.applied()[0] == 1 && proxy.applied()[1] >= 1).then_some(())
    });
    sidecar.wait_for_log("interrupted");
    assert_whole(&case, sidecar);
}

#[test]
fn a_slow_store_is_only_slow() {
    let (case, proxy) = behind_proxy("bucket_slow");
    proxy.set(json!([{"match": ".", "do": "slow", "delay": 0.15, "bytes_per_s": 500_000}]));
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let writer = Writer::paced(&case, 1000, 20, &CHANGES);
    let before = case.table_status("t").unwrap().version;
    wait_for("more commits", || {
        sidecar.assert_running();
        (case.status_past_proxy().tables[0].version >= before.map(|version| version + 20)).then_some(())
    });
    writer.stop();
    assert_confirmed_is_durable(&case);
    case.wait_until_current(&mut sidecar);
    assert!(!sidecar.whole_log().contains("interrupted"), "{}", sidecar.log());
    proxy.set(json!([]));
    assert_whole(&case, sidecar);
}

/// Resident memory of a process, in MiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
}

#[test]
fn a_long_outage_is_waited_out_in_bounded_memory() {
    let (case, proxy) = behind_proxy("bucket_outage");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let writer = Writer::start(&case, 1000, &CHANGES);
    case.wait_until_current(&mut sidecar);
    proxy.set(json!([{"match": ".", "do": "refuse"}]));
    let start = Instant::now();
    // What was on its way has arrived or failed.
    wait_for("the outage to be noticed", || (proxy.applied()[0] > 3).then_some(()));
    let durable = case.status_past_proxy();
    // More than the program may hold.
    case.sql(
        "CREATE EXTENSION pgcrypto;
         INSERT INTO t SELECT 100000 + i, i, encode(gen_random_bytes(1024), 'hex') FROM generate_series(1, 60000) i",
    );
    let mut most = 0;
    wait_for("the interruption", || {
        sidecar.assert_running();
        most = most.max(resident(sidecar.id()));
        sidecar.whole_log().contains("the store can't be reached").then_some(())
    });
    assert!(
        sidecar.whole_log().contains("replication interrupted; trying again"),
        "{}",
        sidecar.log()
    );
    assert!(
        start.elapsed() > Duration::from_secs(20),
        "given up after {:?}",
        start.elapsed()
    );
    let now = case.status_past_proxy();
    assert_eq!(now.tables[0].version, durable.tables[0].version, "{}", now.text);
    assert_confirmed_is_durable(&case);
    proxy.set(json!([]));
    most = most.max(resident(sidecar.id()));
    println!("out for {:?}, {most} MiB", start.elapsed());
    assert!(most < 350, "{most} MiB");
    writer.stop();
    assert_whole(&case, sidecar);
}

#[test]
fn a_log_that_cannot_be_read_now_is_read_later() {
    let (case, proxy) = behind_proxy("bucket_unreadable");
    case.catch_up();
    case.sql("UPDATE t SET v = 1 WHERE id < 10");
    proxy.set(json!([{"match": r"^GET \S+/\d{20}\.json", "do": "answer", "status": 500}]));
    let sidecar = case.start();
    sidecar.wait_for_log("interrupted; trying again");
    assert!(sidecar.whole_log().contains("the store fails"), "{}", sidecar.log());
    proxy.set(json!([]));
    assert_whole(&case, sidecar);
}

#[test]
fn a_run_that_is_to_end_does_not_wait_for_a_store_that_is_out() {
    let (case, proxy) = behind_proxy("bucket_out");
    case.catch_up();
    proxy.set(json!([{"match": ".", "do": "refuse"}]));
    case.sql("UPDATE t SET v = 1 WHERE id < 10");
    assert_error(&case.run_once(), &["s3://lake/", "can't be reached", "nothing is lost"]);
    proxy.set(json!([]));
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn sigterm_ends_the_program_while_the_store_is_out() {
    let (case, proxy) = behind_proxy("bucket_sigterm");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    proxy.set(json!([{"match": ".", "do": "refuse"}]));
    case.sql("UPDATE t SET v = 1 WHERE id < 10");
    wait_for("a commit to fail", || (proxy.applied()[0] > 1).then_some(()));
    signal(sidecar.id(), "TERM");
    let start = Instant::now();
    sidecar.wait_for_end();
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "ended after {:?}",
        start.elapsed()
    );
    proxy.set(json!([]));
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn a_sidecar_that_was_replaced_stops_and_its_late_commit_does_no_harm() {
    let (mut case, proxy) = behind_proxy("bucket_two");
    let mut old = case.start();
    case.wait_until_current(&mut old);
    // A commit that is on its way for long.
    proxy.set(json!([{"match": r"^PUT \S+/public/t/_delta_log/\d{20}\.json", "do": "slow", "delay": 15}]));
    case.sql("UPDATE t SET v = 5 WHERE id < 500; DELETE FROM t WHERE id > 1900");
    wait_for("the commit", || (proxy.applied()[0] == 1).then_some(()));
    signal(old.id(), "STOP");
    case.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'bucket_two'");
    let bucket = case.bucket_mut();
    bucket.endpoint = bucket.direct.clone();
    let mut new = case.start();
    case.wait_until_current(&mut new);
    case.sql("UPDATE t SET v = 6 WHERE id < 300; INSERT INTO t VALUES (5000, 1, 'x')");
    case.wait_until_current(&mut new);
    signal(old.id(), "CONT");
    wait_for("the old one to end", || old.has_ended().then_some(()));
    let said = old.log();
    assert!(said.contains("another") || said.contains("in use"), "{said}");
    assert!(!old.wait_for_end().success());
    wait_for("the late commit to reach the store", || {
        (proxy.answered()[0] == 1).then_some(())
    });
    case.sql("UPDATE t SET v = 7 WHERE id < 200");
    assert_whole(&case, new);
}

#[test]
fn a_store_that_ignores_conditions_is_refused() {
    let (case, proxy) = behind_proxy("bucket_unconditional");
    proxy.set(json!([{"match": "^PUT ", "do": "accept"}]));
    let said = [
        "ignores conditional puts",
        "overwrite each other's commits",
        "If-None-Match",
    ];
    assert_error(&finish(&mut case.command("check")), &said);
    assert_error(&case.run_once(), &said);
    assert!(proxy.applied()[0] >= 4, "nothing was put");
    assert!(commits(&case.table("t")).is_empty());
    proxy.set(json!([]));
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn mistakes_are_named_with_their_fix_and_no_secret_is_told() {
    let mut case = case("bucket_misuse");
    let good = case.bucket.clone().unwrap();
    let refused = |case: &Case, environment: &[(&str, &str)], parts: &[&str]| {
        for verb in ["check", "run", "status"] {
            let mut command = case.command(verb);
            for (name, _) in KEY {
                command.env_remove(name);
            }
            let output = finish(command.envs(environment.iter().copied()));
            match verb {
                // It tells what it can; a table that can't be read is told as such.
                "status" => {
                    let said = text(&output).to_lowercase();
                    assert!(parts.iter().all(|part| said.contains(&part.to_lowercase())), "{said}");
                }
                _ => assert_error(&output, parts),
            }
            assert!(!text(&output).contains("verysecret"), "{}", text(&output));
            assert!(!text(&output).contains("testsecret"), "{}", text(&output));
        }
    };
    let with = |url: &str, options: &'static str| {
        let mut bucket = good.clone();
        bucket.url = url.to_owned();
        bucket.options = options;
        Some(bucket)
    };
    let wrong = [
        ("AWS_ACCESS_KEY_ID", "testkey"),
        ("AWS_SECRET_ACCESS_KEY", "verysecret"),
    ];
    let unknown = [("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "verysecret")];
    let half = [("AWS_SECRET_ACCESS_KEY", "verysecret")];

    refused(
        &case,
        &wrong,
        &[&good.url, "does not accept the credentials", "AWS_SECRET_ACCESS_KEY"],
    );
    refused(&case, &unknown, &[&good.url, "does not accept the credentials"]);
    refused(&case, &half, &[&good.url, "Missing AccessKeyId", "AWS_ACCESS_KEY_ID"]);
    case.bucket = with(
        "s3://lake/x",
        "aws_secret_access_key = \"verysecret\"\naws_access_key_id = \"testkey\"",
    );
    refused(&case, &[], &["s3://lake/x", "does not accept the credentials"]);
    case.bucket = with("s3://nowhere/x", "");
    refused(&case, &KEY, &["s3://nowhere/x", "no such bucket", "create the bucket"]);
    case.bucket = with("s4://lake/x", "");
    refused(&case, &KEY, &["scheme \"s4\"", "s3://bucket/prefix"]);
    case.bucket = with("s3://key:verysecret@lake/x", "");
    refused(&case, &KEY, &["holds credentials", "environment"]);
    case.bucket = with("s3://lake/x", "aws_regoin = \"verysecret\"");
    refused(&case, &KEY, &["lake.options.aws_regoin", "aws_region"]);
    case.bucket = with("s3://lake/x", "timeout = [\"verysecret\"]");
    refused(&case, &KEY, &["lake.options"]);
    // No instance tells keys here. Nothing else is asked of one that isn't there.
    case.bucket = with("s3://lake/x", "aws_metadata_endpoint = \"http://127.0.0.1:1/\"");
    refused(
        &case,
        &[],
        &["s3://lake/x", "there are no credentials", "AWS_ACCESS_KEY_ID"],
    );
    case.bucket = Some(good);
    let config = std::fs::read_to_string(case.write_config()).unwrap();
    let path = case.folder.join("plain.toml");
    std::fs::write(&path, config.replace("aws_allow_http = true\n", "")).unwrap();
    let output = finish(case.command_with("check", &path).env_remove("AWS_ALLOW_HTTP"));
    assert_error(&output, &["plain HTTP", "aws_allow_http"]);
    case.catch_up();
    case.compare(&[]);
}
