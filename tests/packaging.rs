//! What is in `docker/` fits the program: configurations are read, and keys, variables, metrics and the values of their
//! labels are those that there are.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;

use replication::config::Config;

use crate::support::repository;

/// Where each metric is named.
const EXPORTER: &str = include_str!("../src/daemon/prometheus.rs");
/// What a histogram's series have after its name.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];
const CONFIGURATIONS: usize = 5;

/// All files of `docker/`: path and text.
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![repository().join("docker")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.display().to_string(), text));
            }
        }
    }
    found
}

/// The words of a text that begin like this, and go on.
fn words<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.len() > start.len() && word.starts_with(start))
        .collect()
}

/// The environment variables that the program looks at.
fn variables() -> BTreeSet<String> {
    let asked = RefCell::new(BTreeSet::from(["TRIBUTARY_CONFIG".to_owned()]));
    let least = "[source]\nurl = \"postgres://localhost/db\"\n[lake]\nurl = \"./lake\"\n";
    Config::parse(least, |name| {
        asked.borrow_mut().insert(name.to_owned());
        None
    })
    .unwrap();
    asked.into_inner()
}

#[test]
fn configurations_are_read() {
    let mut configurations = Vec::new();
    for (path, text) in files() {
        if path.ends_with(".toml") {
            configurations.push((path, text));
        } else if let Some((_, rest)) = text.split_once("\n  tributary.toml: |\n") {
            // A block of YAML ends before the first line that is less far in.
            let block = rest
                .lines()
                .take_while(|line| line.is_empty() || line.starts_with("    "));
            let text = block.map(str::trim_start).collect::<Vec<_>>().join("\n");
            configurations.push((path, text));
        }
    }
    assert_eq!(configurations.len(), CONFIGURATIONS, "{configurations:?}");
    for (path, text) in configurations {
        // Where a manifest has the URL in a secret.
        let url = |name: &str| {
            let absent = name == "TRIBUTARY_SOURCE_URL" && !text.contains("[source]");
            absent.then(|| "mongodb://user:password@host:27017/shop".to_owned())
        };
        let config = Config::parse(&text, url).unwrap_or_else(|error| panic!("{path}: {error}"));
        // The root of all these containers can't be written to.
        assert!(config.cache.dir.is_some(), "{path} has no cache.dir");
        let listens = config.http.listen.is_some_and(|address| address.port() == 9464);
        assert!(listens, "{path} is not at the port that probes and Prometheus ask");
    }
}

#[test]
fn keys_and_variables_are_those_of_the_program() {
    let known = variables();
    let mut keys = 0;
    for (path, text) in files() {
        for name in words(&text, "TRIBUTARY_") {
            assert!(known.contains(name), "{path} has {name}");
        }
        if !path.ends_with(".md") {
            continue;
        }
        for code in text.split('`').skip(1).step_by(2) {
            let key = code.split(|c: char| c.is_whitespace() || c == '=').next();
            let Some((section, key)) = key.and_then(|key| key.split_once('.')) else {
                continue;
            };
            let section = format!("TRIBUTARY_{}_", section.to_uppercase());
            if known.iter().any(|name| name.starts_with(&section)) {
                let name = section + &key.to_uppercase();
                assert!(known.contains(&name), "{path} has a key {name}");
                keys += 1;
            }
        }
    }
    assert!(keys > 20, "{keys} keys are in the guides");
}

#[test]
fn metrics_are_those_of_the_exporter() {
    let exported: BTreeSet<&str> = words(EXPORTER, "tributary_").into_iter().collect();
    let mut shown = BTreeSet::new();
    for (path, text) in files() {
        for name in words(&text, "tributary_") {
            let whole = PARTS.into_iter().find_map(|part| name.strip_suffix(part));
            let whole = whole.filter(|whole| exported.contains(whole)).unwrap_or(name);
            assert!(exported.contains(whole), "{path} has {name}");
            if path.ends_with("dashboard.json") {
                shown.insert(whole.to_owned());
            }
        }
        for label in ["state=", "class="] {
            for rest in text.split(label).skip(1) {
                // Behind the operator's rest and a quote, which JSON escapes; values of a pattern have bars between.
                let rest = rest.trim_start_matches(['~', '\\', '"']);
                let values = rest.split(['\\', '"']).next().unwrap_or_default();
                for value in values.split('|') {
                    let there = EXPORTER.contains(&format!("\"{value}\""));
                    assert!(there, "{path} has {label}{value:?}");
                }
            }
        }
    }
    let missing: Vec<_> = exported.iter().filter(|name| !shown.contains(**name)).collect();
    assert!(missing.is_empty(), "the dashboard does not show {missing:?}");
}
