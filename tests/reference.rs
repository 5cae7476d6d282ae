//! The list of keys: README has it, and the schema for editors takes and refuses what the program does.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use replication::config::Config;
use replication::config::reference::{Default, Form, SECTIONS};

use crate::support::{Folder, python, repository, succeed};

fn printed(format: &str) -> String {
    succeed(Command::new(env!("CARGO_BIN_EXE_tributary")).args(["config", "--format", format]))
}

/// Rows of a Markdown table of keys: key, default, meaning.
fn rows(markdown: &str) -> Vec<Vec<String>> {
    let (_, rest) = markdown.split_once("| key | default | meaning |\n").expect("a table");
    let rows = rest.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        row.trim_matches('|')
            .split(" | ")
            .map(|cell| cell.trim().to_owned())
            .collect()
    })
    .collect()
}

#[test]
fn readme_has_every_key_as_the_program_has_it() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let (there, wanted) = (rows(&readme), rows(&printed("markdown")));
    for row in &wanted {
        assert!(there.contains(row), "README has not: | {} |", row.join(" | "));
    }
    for row in &there {
        assert!(
            wanted.contains(row),
            "`tributary config --format markdown` has not: | {} |",
            row.join(" | ")
        );
    }
    assert_eq!(there, wanted, "in another order");
    let keys: usize = SECTIONS.iter().map(|section| section.keys.len()).sum();
    assert_eq!(there.len(), keys);
}

#[test]
fn links_of_the_list_lead_to_sections_of_readme() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let headings: Vec<&str> = readme
        .lines()
        .filter(|line| line.starts_with("##"))
        .map(|line| line.trim_start_matches(['#', ' ']))
        .collect();
    let table = printed("markdown");
    let links: Vec<&str> = table.split("](#").skip(1).collect();
    assert!(!links.is_empty());
    for (before, link) in table.split("](#").zip(links) {
        let title = before.rsplit('[').next().unwrap();
        assert!(headings.contains(&title), "README has no section {title:?}");
        let anchor = title.to_lowercase().replace(' ', "-");
        assert!(link.starts_with(&format!("{anchor})")), "{title:?} is not at #{link}");
    }
}

#[test]
fn text_has_every_key_with_what_it_has_to_be_and_its_default() {
    let text = printed("text");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    for section in SECTIONS {
        assert!(
            text.contains(&format!("\n{}  {}\n", section.heading(), section.about)),
            "{text}"
        );
        for key in section.keys {
            let name = match section.repeated {
                true => key.name.to_owned(),
                false => format!("{}.{}", section.name, key.name),
            };
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{name}  {}; ", key.form.words())));
            let line = line.unwrap_or_else(|| panic!("no {name} in:\n{text}"));
            match key.default {
                Default::Value(value) => assert!(line.ends_with(&format!("default {value}")), "{line}"),
                Default::Otherwise(_) => assert!(line.contains("default: "), "{line}"),
                Default::Required => assert!(line.ends_with("required"), "{line}"),
            }
        }
    }
}

/// Where each file breaks the schema, by its name.
fn broken(folder: &Folder, files: &[PathBuf]) -> BTreeMap<PathBuf, Vec<String>> {
    let schema = folder.path().join("tributary.schema.json");
    fs::write(&schema, printed("json-schema")).unwrap();
    let found = succeed(python("schema.py").arg(&schema).args(files));
    serde_json::from_str(&found).unwrap()
}

const LEAST: &str = "[source]\nurl = \"postgres://localhost/db\"\n[lake]\nurl = \"./lake\"\n";

#[test]
fn editors_take_what_the_program_takes() {
    let folder = Folder::new("schema-good");
    let mut files: Vec<PathBuf> = fs::read_dir(repository().join("docker"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    assert!(!files.is_empty());
    let mut texts = vec![LEAST.to_owned(), "lake.url = \"./lake\"\n".to_owned()];
    // Every key with its example, and each that has one with its default.
    let mut every = String::new();
    for section in SECTIONS {
        every += &format!("{}\n", section.heading());
        for key in section.keys {
            every += &format!("{} = {}\n", key.name, key.example);
            if let Default::Value(value) = key.default {
                texts.push(match section.name {
                    "source" | "lake" => LEAST.replace(
                        &section.heading(),
                        &format!("{}\n{} = {value}", section.heading(), key.name),
                    ),
                    _ => format!("{LEAST}{}\n{} = {value}\n", section.heading(), key.name),
                });
            }
        }
    }
    let whole = texts.len();
    texts.push(every);
    // Other forms of one value.
    for more in [
        "[apply]\nmax_latency = \"1.5 min\"",
        "[apply]\nmax_latency = \"0.5s\"",
        "[cuts]\ninterval = \"1m\"",
        "[http]\nlisten = \"[::1]:9464\"",
        "[http]\nlisten = \"off\"",
        "[snapshot]\nmax_bytes_per_s = \"1.5 GB\"",
        "[[table]]\nmatch = \"*\"\nmask = [\"a\", \"b\"]\n[[table]]\nmatch = [\"a.*\"]\nmask = \"c\"",
        "[[table]]\nmatch = \"*\"\npartition_by = \"hour( at )\"",
        "[[table]]\nmatch = \"*\"\nexclude = []",
        "[lake.options]\na = 1\nb = true\nc = \"d\"",
    ] {
        texts.push(format!("{LEAST}{more}\n"));
    }
    for (index, text) in texts.iter().enumerate() {
        let path = folder.path().join(format!("{index}.toml"));
        fs::write(&path, text).unwrap();
        files.push(path);
        let url = |name: &str| (name == "TRIBUTARY_SOURCE_URL").then(|| "postgres://localhost/db".to_owned());
        match Config::parse(text, url) {
            // A secret and its file exclude each other, and the first file is not there.
            Err(error) if index == whole => assert!(error.to_string().contains("password_file"), "{error}"),
            parsed => drop(parsed.unwrap_or_else(|error| panic!("{error}:\n{text}"))),
        }
    }
    for (path, errors) in broken(&folder, &files) {
        assert!(
            errors.is_empty(),
            "{}: {errors:?}\n{}",
            path.display(),
            fs::read_to_string(&path).unwrap()
        );
    }
}

#[test]
fn editors_mark_each_mistake() {
    let table = "[[table]]\nmatch = \"*\"\n";
    let mistakes = [
        // (what is wrong, where)
        ("[sorce]\nx = 1".to_owned(), ""),
        ("[apply]\nmax_latencie = \"1s\"".to_owned(), "apply"),
        ("[apply]\nmax_latency = 5".to_owned(), "apply.max_latency"),
        ("[apply]\nmax_latency = \"5\"".to_owned(), "apply.max_latency"),
        ("[apply]\nmax_latency = \"0.0s\"".to_owned(), "apply.max_latency"),
        ("[apply]\nmax_latency = \"1.2.3s\"".to_owned(), "apply.max_latency"),
        ("[apply]\nmemory = \"256M\"".to_owned(), "apply.memory"),
        ("[apply]\nmemory = 268435456".to_owned(), "apply.memory"),
        ("[cuts]\ninterval = \"never\"".to_owned(), "cuts.interval"),
        ("[snapshot]\nparallelism = 0".to_owned(), "snapshot.parallelism"),
        ("[snapshot]\nparallelism = 65".to_owned(), "snapshot.parallelism"),
        ("[maintenance]\nenabled = \"maybe\"".to_owned(), "maintenance.enabled"),
        ("[http]\nlisten = \"9464\"".to_owned(), "http.listen"),
        ("[http]\nlisten = \"localhost:9464\"".to_owned(), "http.listen"),
        ("[http]\ntoken = 12345678901234567".to_owned(), "http.token"),
        ("[cache]\ndir = []".to_owned(), "cache.dir"),
        ("[lake.options]\na = 1.5".to_owned(), "lake.options.a"),
        ("[lake.options]\na = [\"b\"]".to_owned(), "lake.options.a"),
        ("[table]\nmatch = \"*\"".to_owned(), "table"),
        ("[[table]]\nexclude = \"a\"".to_owned(), "table.0"),
        ("[[table]]\nmatch = []".to_owned(), "table.0.match"),
        ("[[table]]\nmatch = 1".to_owned(), "table.0.match"),
        (format!("{table}exlude = \"a\""), "table.0"),
        (format!("{table}hash = [1]"), "table.0.hash"),
        (format!("{table}mask = {{ a = 1 }}"), "table.0.mask"),
        (format!("{table}mode = \"scd2\""), "table.0.mode"),
        (
            format!("{table}change_data_feed = \"maybe\""),
            "table.0.change_data_feed",
        ),
        (format!("{table}partition_by = \"day(x)\""), "table.0.partition_by"),
        (format!("{table}partition_by = [\"bucket(x)\"]"), "table.0.partition_by"),
        (format!("{table}partition_by = \"date()\""), "table.0.partition_by"),
    ];
    let mut texts: Vec<(String, String)> = mistakes
        .into_iter()
        .map(|(mistake, place)| (format!("{LEAST}{mistake}\n"), place.to_owned()))
        .collect();
    for (section, line) in [
        ("source", "tables = \"a\""),
        ("source", "server_id = 4294967296"),
        ("source", "slot = true"),
    ] {
        let key = line.split(' ').next().unwrap();
        let text = LEAST.replace(&format!("[{section}]"), &format!("[{section}]\n{line}"));
        texts.push((text, format!("{section}.{key}")));
    }
    // Every choice.
    for section in SECTIONS
        .iter()
        .filter(|section| matches!(section.name, "source" | "lake"))
    {
        for key in section.keys.iter().filter(|key| matches!(key.form, Form::Choice(_))) {
            let line = format!("{}\n{} = \"nonsense\"", section.heading(), key.name);
            texts.push((
                LEAST.replace(&section.heading(), &line),
                format!("{}.{}", section.name, key.name),
            ));
        }
    }
    let folder = Folder::new("schema-bad");
    let mut places = BTreeMap::new();
    for (index, (text, place)) in texts.iter().enumerate() {
        let path = folder.path().join(format!("{index}.toml"));
        fs::write(&path, text).unwrap();
        let config = Config::parse(text, |_| None);
        assert!(config.is_err(), "the program takes:\n{text}");
        places.insert(path, (text, place));
    }
    let files: Vec<PathBuf> = places.keys().cloned().collect();
    let broken = broken(&folder, &files);
    assert_eq!(broken.len(), texts.len());
    for (path, errors) in broken {
        let (text, place) = places[&path];
        let found: Vec<&str> = errors.iter().map(|error| error.split(": ").next().unwrap()).collect();
        assert_eq!(found, [place.as_str()], "{errors:?}\n{text}");
    }
}
