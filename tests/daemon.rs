//! Health, metrics, the page and its actions, as a load balancer, Prometheus and a person find them.

use serde_json::Value;

use crate::support::http::{TOKEN, WITH_TOKEN, address, ask, get, metric, post};
use crate::support::lake::replacements;
use crate::support::server::{POSTGRES, Server};
use crate::support::{Case, wait_for};

#[test]
fn pages_and_metrics_tell_what_there_is_and_no_secret() {
    let mut case = Case::new(Server::shared(POSTGRES), "daemon");
    case.http = WITH_TOKEN;
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'a' FROM generate_series(1, 1000) i;
         CREATE TABLE \"<b>\"\"x\\\" (id int PRIMARY KEY); INSERT INTO \"<b>\"\"x\\\" VALUES (1)",
    );
    let mut sidecar = case.start();
    let address = address(&sidecar);
    assert_eq!(get(&address, "/health").status, 200);
    case.wait_until_current(&mut sidecar);
    case.sql("UPDATE t SET v = 'b' WHERE id <= 10; DELETE FROM t WHERE id = 11");
    case.wait_until_current(&mut sidecar);
    assert_eq!(get(&address, "/ready").status, 200);

    let committed = |op: &str| format!("tributary_table_rows_committed_total{{table=\"public.t\",op=\"{op}\"}}");
    wait_for("the counters", || {
        (metric(&address, &committed("delete")) == Some(1.0)).then_some(())
    });
    assert_eq!(metric(&address, &committed("upsert")), Some(10.0));
    assert_eq!(metric(&address, &committed("snapshot")), Some(1000.0));
    assert_eq!(
        metric(&address, "tributary_table_rows{table=\"public.t\"}"),
        Some(999.0)
    );
    assert_eq!(
        metric(&address, "tributary_table_rows{table=\"public.<b>\\\"x\\\\\"}"),
        Some(1.0)
    );
    assert_eq!(metric(&address, "tributary_streaming"), Some(1.0));
    let state = "tributary_table_state{table=\"public.t\",state=\"streaming\"}";
    assert_eq!(metric(&address, state), Some(1.0));
    let commits = metric(
        &address,
        "tributary_table_commit_duration_seconds_count{table=\"public.t\"}",
    );
    assert!(commits.unwrap() >= 2.0);
    let all = "tributary_table_commit_duration_seconds_bucket{table=\"public.t\",le=\"+Inf\"}";
    assert_eq!(metric(&address, all), commits);
    wait_for("a look at the slot", || {
        metric(&address, "tributary_source_retained_bytes")
    });

    let status = get(&address, "/status").json();
    let tables = status["tables"].as_array().unwrap();
    let table = tables.iter().find(|table| table["table"] == "public.t").unwrap();
    assert_eq!(
        (&table["rows"], &table["state"]),
        (&Value::from(999), &Value::from("streaming")),
        "{status}"
    );

    let page = get(&address, "/");
    assert_eq!(page.status, 200);
    assert!(
        page.head.contains("content-security-policy: default-src 'none'"),
        "{}",
        page.head
    );
    assert!(
        page.body.contains("public.t") && page.body.contains("&lt;b&gt;&quot;x\\"),
        "{}",
        page.body
    );
    assert!(!page.body.contains("<b>\"x"), "{}", page.body);

    assert_eq!(get(&address, "/no/such").status, 404);
    assert_eq!(post(&address, "/metrics", TOKEN, "").status, 405);
    assert_eq!(get(&address, "/reload").status, 405);
    let password = case
        .url
        .split_once("://")
        .unwrap()
        .1
        .split_once('@')
        .unwrap()
        .0
        .split_once(':')
        .map(|(_, password)| password.to_owned());
    for path in ["/", "/status", "/metrics", "/health", "/ready", "/no/such", "/reload"] {
        let answer = get(&address, path);
        let all = answer.head + &answer.body;
        assert!(!all.contains(TOKEN), "{path}: {all}");
        if let Some(password) = &password {
            assert!(!all.contains(password), "{path}: {all}");
        }
    }
    assert!(!sidecar.whole_log().contains(TOKEN));
    sidecar.stop();
}

#[test]
fn without_its_source_the_program_lives_and_is_not_ready() {
    let server = Server::start(15, &[]);
    let mut case = Case::new(&server, "daemon_not_ready");
    case.http = "listen = \"127.0.0.1:0\"";
    case.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let address = address(&sidecar);
    server.stop("fast");
    wait_for("the error", || (get(&address, "/ready").status == 503).then_some(()));
    assert_eq!(get(&address, "/health").status, 200);
    wait_for("an interruption", || {
        let status = get(&address, "/status").json();
        (status["errors"]["transient"].as_u64()? > 0 && status["last_error"]["error"].is_string()).then_some(())
    });
    assert!(get(&address, "/").body.contains("last interruption"));
    server.start_again();
    wait_for("the stream", || (get(&address, "/ready").status == 200).then_some(()));
    case.sql("INSERT INTO t VALUES (2)");
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
}

#[test]
fn actions_are_for_who_has_the_token() {
    let mut case = Case::new(Server::shared(POSTGRES), "daemon_actions");
    case.http = "listen = \"127.0.0.1:0\"";
    case.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let closed = post(&address(&sidecar), "/reload", TOKEN, "");
    assert_eq!(
        (closed.status, closed.json()["error"].as_str()),
        (403, Some("actions are off"))
    );
    sidecar.stop();

    std::fs::remove_file(case.folder.join("sidecar.log")).unwrap();
    case.http = WITH_TOKEN;
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let address = address(&sidecar);
    assert_eq!(post(&address, "/reload", "planted-token-of-the-tesu", "").status, 401);
    assert_eq!(ask(&address, "POST /reload", "", "").status, 401);
    assert_eq!(post(&address, "/reload", TOKEN, "").status, 202);
    sidecar.wait_for_log("configuration read again");
    for (body, expected) in [
        ("", 400),
        ("{\"tables\": []}", 400),
        ("{\"tables\": [\"public.none\"]}", 400),
    ] {
        let answer = post(&address, "/snapshot", TOKEN, body);
        assert_eq!(answer.status, expected, "{body}: {}", answer.body);
        assert!(answer.json()["hint"].is_string(), "{body}: {}", answer.body);
    }
    assert_eq!(post(&address, "/snapshot", TOKEN, &" ".repeat(17 << 10)).status, 413);
    let before = replacements(&case.table("t")).len();
    let asked = post(&address, "/snapshot", TOKEN, "{\"tables\": [\"public.*\"]}");
    assert_eq!(
        (asked.status, asked.json()["tables"][0].as_str()),
        (202, Some("public.t"))
    );
    wait_for("the new content", || {
        (replacements(&case.table("t")).len() > before).then_some(())
    });
    sidecar.stop();
}

#[test]
fn an_address_that_is_taken_is_told_and_replication_goes_on() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut case = Case::new(Server::shared(POSTGRES), "daemon_taken");
    case.http = Box::leak(format!("listen = \"{address}\"").into_boxed_str());
    case.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    sidecar.wait_for_log("cannot listen");
    sidecar.stop();
}
