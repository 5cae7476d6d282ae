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
    let place = if found.standby { ", at the primary" } else { "" };
    println!(
        "\nfor a user of its own, with no more rights than it needs{place}:\n\n{}",
        statements(&found, &args.url)
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

/// The URL without its secrets, and the variable to have them in, if there are any.
fn without_password(url: &str) -> (String, Option<&'static str>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let authority = rest.find(['/', '?']).unwrap_or(rest.len());
    let (place, tail) = rest.split_at(authority);
    let (user, host) = place.rsplit_once('@').unwrap_or(("", place));
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let is_secret = |pair: &&str| {
        let key = pair.split('=').next().unwrap_or_default().to_lowercase();
        // As of TLS keys and cloud credentials.
        ["password", "token", "secret", "authmechanismproperties"]
            .iter()
            .any(|part| key.contains(part))
    };
    let (secret, plain): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_secret);
    let mut clean = format!("{scheme}://{name}");
    if !name.is_empty() {
        clean.push('@');
    }
    clean += host;
    clean += path;
    if !plain.concat().is_empty() {
        clean += &format!("?{}", plain.join("&"));
    }
    let variable = match scheme {
        _ if password.is_empty() && secret.is_empty() => return (clean, None),
        "postgres" | "postgresql" if secret.is_empty() => "PGPASSWORD",
        "mysql" | "mariadb" if secret.is_empty() => "MYSQL_PWD",
        _ => "TRIBUTARY_SOURCE_URL to the whole URL",
    };
    (clean, Some(variable))
}

/// A glob for one table. A character that would mean something is any one.
fn pattern(id: &TableId) -> String {
    let text = id.to_string().replace('*', "?");
    match text.strip_prefix('!') {
        Some(rest) => format!("?{rest}"),
        None => text,
    }
}

fn configuration(found: &Survey, url: &str, password: Option<&str>, lake: &str) -> String {
    let mut text =
        "# Of tributary init. All keys are in the README, under Configuration; `tributary config` prints them.\n\n[source]\n"
            .to_owned();
    if let Some(variable) = password {
        text += &format!("# The password is not here: set {variable}.\n");
    }
    text += &format!("url = {}\n", toml_text(url));
    if found.standby {
        text += "# It is a standby, and may be one.\nstandby = true\n";
    }
    // A user that may read all of a MongoDB database may read what comes.
    let (about, listed) = match found.kind {
        SourceKind::MongoDb => ("! in front excludes", Vec::new()),
        _ => (
            "! in front excludes. Without any: all tables, and those to come, which the user has to be able to read",
            found
                .tables
                .iter()
                .map(|table| entry(None, &pattern(&table.id)))
                .collect(),
        ),
    };
    text += &format!("# Globs over schema.table; {about}.\n");
    let refused = found.refused.iter();
    let excluded = refused.map(|refusal| entry(Some(&refusal.reason), &format!("!{}", pattern(&refusal.table))));
    let listed: Vec<String> = listed.into_iter().chain(excluded).collect();
    match listed.is_empty() {
        true => text += "# tables = [\"shop.*\"]\n",
        false => text += &format!("tables = [\n{}]\n", listed.concat()),
    }
    text += "\n[lake]\n# A folder, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix.\n";
    text += &format!("url = {}\n", toml_text(lake));
    text += "\n[apply]\n# A change is in the lake at most this long after it was read.\nmax_latency = \"5s\"\n\
             # Sizes everything that is held in memory.\nmemory = \"256MiB\"\n\
             \n[http]\n# Page and metrics; \"off\" is nowhere.\nlisten = \"127.0.0.1:9464\"\n";
    text
}

/// A line of a list, with what is to be said of it.
fn entry(comment: Option<&str>, pattern: &str) -> String {
    let comment = comment.map(|text| format!("    # {}\n", text.replace(char::is_control, " ")));
    format!("{}    {},\n", comment.unwrap_or_default(), toml_text(pattern))
}

/// A TOML string: JSON's escapes are TOML's.
fn toml_text(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// What makes a user with the least rights. `url` is that of the source.
fn statements(found: &Survey, url: &str) -> String {
    match found.kind {
        SourceKind::Postgres => postgres_statements(found),
        SourceKind::MySql => mysql_statements(found),
        SourceKind::MongoDb => mongodb_statements(url),
    }
}

fn postgres_statements(found: &Survey) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let name = |id: &TableId| format!("{}.{}", quoted(&id.schema), quoted(&id.name));
    let tables: BTreeSet<&TableId> = found.tables.iter().map(|table| &table.id).collect();
    // Partitions are read one by one.
    let read: BTreeSet<&TableId> = found
        .tables
        .iter()
        .flat_map(|table| &table.parts)
        .chain(tables.clone())
        .collect();
    let schemas: BTreeSet<&str> = read.iter().map(|id| id.schema.as_str()).collect();
    let list = |texts: Vec<String>| texts.join(",\n    ");
    let mut lines = vec!["CREATE ROLE tributary LOGIN REPLICATION PASSWORD '…';".to_owned()];
    if !read.is_empty() {
        let schemas = schemas.iter().map(|schema| quoted(schema)).collect();
        lines.push(format!("GRANT USAGE ON SCHEMA\n    {}\n  TO tributary;", list(schemas)));
        let read = read.iter().map(|id| name(id)).collect();
        lines.push(format!("GRANT SELECT ON\n    {}\n  TO tributary;", list(read)));
        // Without ONLY, children without a key would refuse updates.
        let published = tables.iter().map(|id| format!("ONLY {}", name(id))).collect();
        lines.push(format!(
            "-- As the tables' owner, who adds later ones:\nCREATE PUBLICATION tributary FOR TABLE\n    {}\n  WITH (publish_via_partition_root = true);",
            list(published)
        ));
    }
    lines.push("-- The replication slot is created by the first run.".to_owned());
    lines.join("\n")
}

fn mysql_statements(found: &Survey) -> String {
    let quoted = |text: &str| format!("`{}`", text.replace('`', "``"));
    let mut lines = vec![
        "CREATE USER 'tributary'@'%' IDENTIFIED BY '…';".to_owned(),
        "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'tributary'@'%';".to_owned(),
    ];
    for table in &found.tables {
        let (schema, name) = (quoted(&table.id.schema), quoted(&table.id.name));
        lines.push(format!("GRANT SELECT ON {schema}.{name} TO 'tributary'@'%';"));
    }
    lines.push("-- In MySQL with gtid_mode = OFF also: GRANT PROCESS ON *.* TO 'tributary'@'%';".to_owned());
    lines.join("\n")
}

fn mongodb_statements(url: &str) -> String {
    // The stream is of the database that the URL names, or of all.
    let (_, rest) = url.split_once("://").unwrap_or_default();
    let (_, path) = rest.split_once('/').unwrap_or_default();
    let database = path
        .split('?')
        .next()
        .filter(|name| !name.is_empty() && *name != "admin");
    let role = match database {
        Some(name) => format!("{{role: \"read\", db: {}}}", toml_text(name)),
        None => "{role: \"readAnyDatabase\", db: \"admin\"}".to_owned(),
    };
    format!(
        "db.getSiblingDB(\"admin\").createUser({{user: \"tributary\", pwd: passwordPrompt(), roles: [{role}]}})\n\
         // Its URL has to have authSource=admin."
    )
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
            (
                "mongodb://a/d?tls=true&tlsCertificateKeyFilePassword=p",
                "mongodb://a/d?tls=true",
                Some("TRIBUTARY_SOURCE_URL to the whole URL"),
            ),
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
            table: TableId::new("a\"b", "c\\d\n\u{7f}é*"),
            reason: "a reason\nof two lines".to_owned(),
            hint: String::new(),
        };
        let found = Survey {
            kind: SourceKind::Postgres,
            address: "h:1".to_owned(),
            standby: false,
            tables: Vec::new(),
            refused: vec![refusal],
            notes: Vec::new(),
        };
        let text = configuration(&found, "postgres://u@h/d", Some("PGPASSWORD"), "./la\"ke");
        let config = Config::parse(&text, |_| None).expect("a configuration");
        assert_eq!(config.source.tables, ["!a\"b.c\\d\n\u{7f}é?"]);
        assert_eq!(config.lake.url, "./la\"ke");
    }
}
