//! `tributary init`: looks at a database, writes a configuration for it, and
//! says what its administrator has to run.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Result;
use replication::config::{Config, SourceKind};
use replication::error::Error;
use replication::pipeline::{Survey, survey};
use replication::schema::TableId;

use crate::cli::Init;
use crate::report::bytes;

/// Tables that a statement names; of more, it takes whole schemas.
const NAMED_MAX: usize = 20;

pub async fn init(args: Init) -> Result<ExitCode> {
    let path = &args.configured.config;
    if path.exists() && !args.force {
        return Err(Error::operator(format!("{} is there already", path.display()))
            .with_hint("name another file with --config, or overwrite it with --force")
            .into());
    }
    let text = format!(
        "[source]\nurl = {}\n[lake]\nurl = {}\n",
        toml_text(&args.url),
        toml_text(&args.lake)
    );
    let config = Config::parse(&text, |_| None)?;
    let found = survey(&config).await?;
    print_tables(&found);
    if found.tables.is_empty() && found.refused.is_empty() {
        return Err(
            Error::operator(format!("{} has no tables that this user can see", found.address))
                .with_hint("name the right database in the URL, or grant the user SELECT on the tables")
                .into(),
        );
    }
    let (url, password) = without_password(&args.url);
    let text = configuration(&found, &url, password, &args.lake);
    // What is written has to be what can be read.
    Config::parse(&text, |_| None)?;
    write(path, &text, args.force)?;
    println!(
        "\nfor a user of its own, with no more rights than it needs:\n\n{}",
        statements(&found)
    );
    println!("\nwrote {}", path.display());
    if let Some(variable) = password {
        println!("the password is not in it: set {variable}");
    }
    println!(
        "next: tributary check --config {0}, then tributary run --config {0}",
        path.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn write(path: &std::path::Path, text: &str, force: bool) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!force);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AlreadyExists => "overwrite it with --force",
            _ => "name a file in a folder that you can write to with --config",
        };
        Error::operator(format!("cannot write {}", path.display()))
            .with_hint(hint)
            .with_source(error)
            .into()
    })
}

fn print_tables(found: &Survey) {
    let all: u64 = found.tables.iter().map(|table| table.bytes).sum();
    println!(
        "{}: {} tables to replicate, {} at the source",
        found.address,
        found.tables.len(),
        bytes(all)
    );
    for table in &found.tables {
        let columns = table.columns.map_or_else(String::new, |n| format!("{n} columns, "));
        println!(
            "✓ {}: {columns}key {}, {}",
            table.id,
            table.key.join(", "),
            bytes(table.bytes)
        );
    }
    for refusal in &found.refused {
        println!("✗ {}: {}\n  hint: {}", refusal.table, refusal.reason, refusal.hint);
    }
    for note in &found.notes {
        println!("✓ {note}");
    }
}

/// The URL without its password, and the variable to have that in, if there is one.
fn without_password(url: &str) -> (String, Option<&'static str>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let authority = rest.find(['/', '?']).unwrap_or(rest.len());
    let Some(at) = rest[..authority].rfind('@') else {
        return (url.to_owned(), None);
    };
    let Some((user, _)) = rest[..at].split_once(':') else {
        return (url.to_owned(), None);
    };
    let variable = match scheme {
        "postgres" | "postgresql" => "PGPASSWORD",
        "mysql" | "mariadb" => "MYSQL_PWD",
        _ => "TRIBUTARY_SOURCE_URL to the whole URL",
    };
    (format!("{scheme}://{user}{}", &rest[at..]), Some(variable))
}

fn configuration(found: &Survey, url: &str, password: Option<&str>, lake: &str) -> String {
    let mut text = "# Of tributary init. All keys are in the README, under Configuration.\n\n[source]\n".to_owned();
    if let Some(variable) = password {
        text += &format!("# The password is not here: set {variable}.\n");
    }
    text += &format!("url = {}\n", toml_text(url));
    text += "# Globs over schema.table; ! in front excludes. Without any: all tables, and those to come.\n";
    let excluded: Vec<String> = found
        .refused
        .iter()
        .map(|refusal| {
            let reason = refusal.reason.replace(char::is_control, " ");
            format!("    # {reason}\n    {},\n", toml_text(&format!("!{}", refusal.table)))
        })
        .collect();
    match excluded.is_empty() {
        true => text += "# tables = [\"public.*\"]\n",
        false => text += &format!("tables = [\n{}]\n", excluded.concat()),
    }
    text += "\n[lake]\n# A folder, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix.\n";
    text += &format!("url = {}\n", toml_text(lake));
    text += "\n[apply]\n# A change is in the lake at most this long after it was read.\nmax_latency = \"5s\"\n\
             # Sizes everything that is held in memory.\nmemory = \"256MiB\"\n\
             \n[http]\n# Page and metrics; \"off\" is nowhere.\nlisten = \"127.0.0.1:9464\"\n";
    text
}

/// A TOML string: JSON's escapes are TOML's.
fn toml_text(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// What makes a user with the least rights.
fn statements(found: &Survey) -> String {
    let ids: Vec<&TableId> = found.tables.iter().map(|table| &table.id).collect();
    let schemas: BTreeSet<&str> = ids.iter().map(|id| id.schema.as_str()).collect();
    let each = |line: &dyn Fn(&str) -> String| schemas.iter().map(|schema| line(schema)).collect::<Vec<_>>();
    match found.kind {
        SourceKind::Postgres => {
            let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            let mut lines = vec!["CREATE ROLE tributary LOGIN REPLICATION PASSWORD '…';".to_owned()];
            lines.extend(each(&|schema| {
                format!("GRANT USAGE ON SCHEMA {} TO tributary;", quoted(schema))
            }));
            let names: Vec<String> = ids
                .iter()
                .map(|id| format!("{}.{}", quoted(&id.schema), quoted(&id.name)))
                .collect();
            if names.len() <= NAMED_MAX {
                let names = names.join(", ");
                lines.push(format!("GRANT SELECT ON {names} TO tributary;"));
                lines.push("-- As the tables' owner. Whoever creates it adds later tables to it:".to_owned());
                lines.push(format!(
                    "CREATE PUBLICATION tributary FOR TABLE {names} WITH (publish_via_partition_root = true);"
                ));
            } else {
                lines.extend(each(&|schema| {
                    format!("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO tributary;", quoted(schema))
                }));
                lines.push("-- As a superuser:".to_owned());
                let listed: Vec<String> = schemas.iter().map(|schema| quoted(schema)).collect();
                lines.push(format!(
                    "CREATE PUBLICATION tributary FOR TABLES IN SCHEMA {} WITH (publish_via_partition_root = true); -- PostgreSQL 15 and newer",
                    listed.join(", ")
                ));
            }
            lines.push("-- The replication slot is created by the first run.".to_owned());
            lines.join("\n")
        }
        SourceKind::MySql => {
            let quoted = |text: &str| format!("`{}`", text.replace('`', "``"));
            let mut lines = vec![
                "CREATE USER 'tributary'@'%' IDENTIFIED BY '…';".to_owned(),
                "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'tributary'@'%';".to_owned(),
            ];
            lines.extend(each(&|schema| {
                format!("GRANT SELECT ON {}.* TO 'tributary'@'%';", quoted(schema))
            }));
            lines.join("\n")
        }
        SourceKind::MongoDb => {
            let role = |schema: &str| format!("{{role: \"read\", db: {}}}", toml_text(schema));
            let roles = match schemas.len() {
                1 => each(&role).concat(),
                // A stream of several databases is one of the cluster.
                _ => "{role: \"readAnyDatabase\", db: \"admin\"}".to_owned(),
            };
            format!(
                "db.getSiblingDB(\"admin\").createUser({{user: \"tributary\", pwd: passwordPrompt(), roles: [{roles}]}})"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_written() {
        for (url, expected, variable) in [
            (
                "postgres://u:p@h:5/d?sslmode=require",
                "postgres://u@h:5/d?sslmode=require",
                Some("PGPASSWORD"),
            ),
            ("postgres://u@h/d", "postgres://u@h/d", None),
            ("postgres://h/d?user=a:b@c", "postgres://h/d?user=a:b@c", None),
            ("mysql://u:p@@h:3306", "mysql://u@h:3306", Some("MYSQL_PWD")),
            (
                "mongodb://u:p@a:1,b:2/?replicaSet=r",
                "mongodb://u@a:1,b:2/?replicaSet=r",
                Some("TRIBUTARY_SOURCE_URL to the whole URL"),
            ),
        ] {
            assert_eq!(without_password(url), (expected.to_owned(), variable), "{url}");
        }
    }

    #[test]
    fn a_configuration_can_be_read_whatever_the_names() {
        let refusal = replication::source::Refusal {
            table: TableId::new("a\"b", "c\\d\n\u{7f}é"),
            reason: "a reason\nof two lines".to_owned(),
            hint: String::new(),
        };
        let found = Survey {
            kind: SourceKind::Postgres,
            address: "h:1".to_owned(),
            tables: Vec::new(),
            refused: vec![refusal],
            notes: Vec::new(),
        };
        let text = configuration(&found, "postgres://u@h/d", Some("PGPASSWORD"), "./la\"ke");
        let config = Config::parse(&text, |_| None).expect("a configuration");
        assert_eq!(config.source.tables, ["!a\"b.c\\d\n\u{7f}é"]);
        assert_eq!(config.lake.url, "./la\"ke");
    }
}
