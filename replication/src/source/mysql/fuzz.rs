//! The decoders of MySQL and MariaDB for fuzzers: see [`crate::fuzz`].

use std::sync::OnceLock;

use serde::de::IgnoredAny;

pub use super::wire::fuzz::endpoint;

use super::binlog::{Body, Checksum, Datum, Decoder, Event, Header, Layout, MAGIC, TableMap};
use super::ddl::{self, Effect, KnownColumn, Session, Table, Verdict};
use super::types::{Charsets, Codec, Flavor, TypeOptions, ZeroDates, apply_json_diffs, json_text};
use super::wire::fuzz as wire;
use crate::fuzz::Target;

pub const TARGETS: &[Target] = &[
    Target {
        name: "mysql_packets",
        run: wire::packet,
        seeds: wire::packets,
    },
    Target {
        name: "mysql_binlog",
        run: binlog,
        seeds: logs,
    },
    Target {
        name: "mysql_types",
        run: types,
        seeds: values,
    },
    Target {
        name: "mysql_json",
        run: json,
        seeds: documents,
    },
    Target {
        name: "mysql_ddl",
        run: statement,
        seeds: statements,
    },
];

/// Events, each after its length in two bytes. The length in its header is made
/// right, for nearly every change would end there; checksums are off.
fn binlog(bytes: &[u8]) {
    each_event(bytes, &mut |decoder, event| {
        let _ = look(decoder, event);
    });
}

fn each_event(mut bytes: &[u8], visit: &mut dyn FnMut(&mut Decoder, &Event<'_>)) {
    let mut decoder = Decoder::new(Checksum::Off);
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (event, rest) = rest.split_at(length);
        bytes = rest;
        let mut event = event.to_vec();
        if let Some(size) = event.get_mut(9..13) {
            size.copy_from_slice(&(length as u32).to_le_bytes());
        }
        let Ok(event) = decoder.decode(&event) else { continue };
        visit(&mut decoder, &event);
        let Body::Payload(payload) = &event.body else { continue };
        let Ok(mut reader) = payload.reader() else { continue };
        while let Ok(Some(inner)) = reader.next_event() {
            if let Ok(event) = decoder.decode_inner(inner) {
                visit(&mut decoder, &event);
            }
        }
    }
}

/// Looks at all that an event tells.
fn look(decoder: &mut Decoder, event: &Event<'_>) -> Result<(), super::binlog::BinlogError> {
    let _ = (event.header.is_artificial(), decoder.server_version());
    match &event.body {
        Body::Query(query) => {
            let _ = (query.statement(), query.sql()?);
        }
        Body::MariaDbGtidList(list) => drop(list.iter().count()),
        Body::MariaDbGtid(gtid) => {
            let _ = (gtid.is_ddl(), gtid.is_standalone(), gtid.is_transactional());
        }
        Body::TableMap(map) => {
            assert!(decoder.table_name(map.table_id).is_ok());
            let _ = decoder.table(map.table_id)?.has_names();
        }
        Body::Rows(_) => {
            each_value(decoder, event, &mut |_, _, datum| match datum {
                Datum::Value(bytes) => drop(json_text(bytes, &mut String::new())),
                Datum::JsonDiff(diff) => drop(apply_json_diffs(DOCUMENT, diff)),
                Datum::Null | Datum::Absent => {}
            })?;
        }
        _ => {}
    }
    Ok(())
}

fn each_value(
    decoder: &mut Decoder,
    event: &Event<'_>,
    visit: &mut dyn FnMut(&TableMap, usize, &Datum<'_>),
) -> Result<(), super::binlog::BinlogError> {
    let Body::Rows(rows) = &event.body else { return Ok(()) };
    if rows.is_dummy() {
        return Ok(());
    }
    let map = decoder.table(rows.table_id)?;
    let data = rows.data()?;
    let mut reader = rows.reader(&map, &data)?;
    while let Some(row) = reader.next_row()? {
        for image in [row.before, row.after] {
            assert!(image.len() <= map.columns.len());
            for (column, datum) in image.iter().enumerate() {
                visit(&map, column, datum);
            }
        }
    }
    Ok(())
}

const DOCUMENT: &str = r#"{"a": {"b": [1, 2, 3]}, "c": "text"}"#;

/// The events of files that servers wrote, some kilobytes of them at a time.
fn logs() -> Vec<Vec<u8>> {
    const CHECKSUM_BYTES: usize = 4;
    const SEED_BYTES: usize = 4 << 10;
    let mut seeds = Vec::new();
    for file in fixtures("bin") {
        let mut rest = file.strip_prefix(&MAGIC).unwrap_or_default();
        let mut seed = Vec::new();
        while let Ok(header) = Header::read(rest) {
            let Some((event, after)) = rest.split_at_checked(header.event_size as usize) else {
                break;
            };
            rest = after;
            // Every file but the first ones has checksums; four bytes less are a seed all the same.
            let event = &event[..event.len() - CHECKSUM_BYTES];
            // A transaction begins: its table maps come with its rows.
            if matches!(header.event_type, 33 | 34 | 42 | 162) && seed.len() > SEED_BYTES {
                seeds.push(std::mem::take(&mut seed));
            }
            if let Ok(length) = u16::try_from(event.len()) {
                seed.extend_from_slice(&length.to_le_bytes());
                seed.extend_from_slice(event);
            }
        }
        seeds.push(seed);
    }
    seeds
}

/// Files of `fixtures/binlog`, in the order of their names.
fn fixtures(extension: &str) -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/binlog");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|own| own == extension));
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

/// As `information_schema` spells types, with charsets.
const TYPES: &[(&str, &str)] = &[
    ("tinyint", ""),
    ("smallint unsigned", ""),
    ("mediumint", ""),
    ("mediumint unsigned zerofill", ""),
    ("int", ""),
    ("int unsigned", ""),
    ("bigint", ""),
    ("bigint unsigned", ""),
    ("year", ""),
    ("float", ""),
    ("double", ""),
    ("decimal(10,2)", ""),
    ("decimal(65,30)", ""),
    ("decimal(38,38)", ""),
    ("bit(9)", ""),
    ("bit(64)", ""),
    ("date", ""),
    ("datetime", ""),
    ("datetime(6)", ""),
    ("timestamp(3)", ""),
    ("time(6)", ""),
    ("char(5)", "utf8mb4"),
    ("varchar(20)", "utf16"),
    ("text", "utf32"),
    ("longtext", "ascii"),
    ("mediumtext", "ujis"),
    ("binary(4)", ""),
    ("varbinary(10)", ""),
    ("blob", ""),
    ("enum('x','y''z','ż')", "utf8mb4"),
    ("set('p','q','r')", "utf8mb4"),
    ("json", "utf8mb4"),
    ("geometry", ""),
    ("vector(3)", ""),
    ("uuid", ""),
    ("inet6", ""),
    ("inet4", ""),
];

/// ASCII, and a code each of two and of three bytes, as the server tells them.
fn charsets() -> Charsets {
    let more = [("8EB1", "EFBDB1"), ("A4A2", "E38182"), ("8FB0A1", "E4B882")];
    let ascii = (0..128).map(|byte| vec![Some(format!("{byte:02X}")); 2]);
    let more = more.map(|(code, text)| vec![Some(code.to_owned()), Some(text.to_owned())]);
    let mut charsets = Charsets::default();
    charsets
        .load("ujis", &ascii.chain(more).collect::<Vec<_>>())
        .expect("codes");
    charsets
}

fn codecs() -> &'static [Codec] {
    static ALL: OnceLock<Vec<Codec>> = OnceLock::new();
    ALL.get_or_init(|| {
        let charsets = charsets();
        let mut all = Vec::new();
        for (ty, charset) in TYPES {
            let charset = (!charset.is_empty()).then_some(*charset);
            for (flavor, zero_dates) in [
                (Flavor::MySql, ZeroDates::Null),
                (Flavor::MariaDb, ZeroDates::Clamp),
                (Flavor::MySql, ZeroDates::Error),
            ] {
                let options = TypeOptions { zero_dates };
                all.push(Codec::resolve(ty, charset, flavor, &options, &charsets).expect("a known type"));
            }
        }
        all
    })
}

/// The number of a codec, a column's type and metadata in a TABLE_MAP, and a value.
fn types(bytes: &[u8]) {
    let Some(([codec, ty, low, high], value)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let codecs = codecs();
    let codec = &codecs[usize::from(*codec) % codecs.len()];
    let mut builder = codec.builder();
    let mut taken = 0;
    if let Ok(layout) = Layout::new(*ty, u16::from_le_bytes([*low, *high])) {
        let _ = codec.fits(layout, None);
        taken += usize::from(builder.append_binlog(layout, value).is_ok());
    }
    taken += usize::from(builder.append_protocol(value).is_ok());
    if let Ok(text) = std::str::from_utf8(value) {
        taken += usize::from(builder.append_text(text).is_ok());
    }
    builder.append_null();
    let array = builder.finish();
    assert_eq!(array.len(), taken + 1);
    assert_eq!(array.data_type(), &codec.lake_type().arrow());
    array.to_data().validate_full().expect("a valid array");
}

/// The values of the files, each with the codec of its type.
fn values() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for log in logs() {
        each_event(&log, &mut |decoder, event| {
            let _ = each_value(decoder, event, &mut |map, column, datum| {
                let column = &map.columns[column];
                let (Datum::Value(value), layout) = (datum, column.layout) else {
                    return;
                };
                let fits = |codec: &Codec| codec.fits(layout, column.unsigned);
                let Some(codec) = codecs().iter().position(fits) else {
                    return;
                };
                if value.len() < 200 {
                    let [low, high] = layout.metadata().to_le_bytes();
                    seeds.push([&[codec as u8, layout.real_type(), low, high], *value].concat());
                }
            });
        });
    }
    seeds.sort();
    seeds.dedup();
    seeds
}

/// The length of a document in two bytes, the document, and differences.
fn json(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (document, differences) = rest.split_at(length);
    let mut text = String::new();
    if json_text(document, &mut text).is_ok() {
        check_json(&text);
    } else {
        text = DOCUMENT.to_owned();
    }
    if let Ok(changed) = apply_json_diffs(&text, differences) {
        check_json(&changed);
    }
}

fn check_json(text: &str) {
    let parsed = serde_json::from_str::<IgnoredAny>(text);
    assert!(parsed.is_ok(), "{text:?} is no JSON");
}

fn documents() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        b"\x00\x00\x01\x07$.added\x0a\x0f\xf6\x07\x01\x02\x80\x28\x00\x00\x00\x0c\x32".to_vec(),
        b"\x00\x00\x02\x06$.a.b[\x30]".to_vec(),
        b"\x00\x00\x01\x0b$.a.b[last]\x03\x05\x01\x00".to_vec(),
    ];
    for log in logs() {
        each_event(&log, &mut |decoder, event| {
            let _ = each_value(decoder, event, &mut |_, _, datum| match datum {
                Datum::Value(value) if json_text(value, &mut String::new()).is_ok() => {
                    if let Ok(length) = u16::try_from(value.len()) {
                        seeds.push([&length.to_le_bytes()[..], value].concat());
                    }
                }
                Datum::JsonDiff(diff) => seeds.push([&[0, 0], *diff].concat()),
                _ => {}
            });
        });
    }
    seeds.sort();
    seeds.dedup();
    seeds
}

/// A byte that chooses the session, then a statement.
fn statement(bytes: &[u8]) {
    let Some((choice, text)) = bytes.split_first() else {
        return;
    };
    let sql = String::from_utf8_lossy(text);
    let bit = |bit: u8| choice >> bit & 1 == 1;
    let modes = [
        ddl::mode::ANSI_QUOTES,
        ddl::mode::NO_BACKSLASH_ESCAPES,
        ddl::mode::ORACLE,
        ddl::mode::STRICT_TRANS_TABLES,
    ];
    let session = Session {
        flavor: if bit(0) {
            ddl::Flavor::MariaDb
        } else {
            ddl::Flavor::MySql
        },
        version: if bit(0) { 101_119 } else { 90_704 },
        sql_mode: (1..).zip(modes).filter(|(at, _)| bit(*at)).map(|(_, mode)| mode).sum(),
        explicit_timestamps: bit(5).then_some(bit(6)),
        fold_names: bit(7),
    };
    let table = table();
    for effect in ddl::parse(&sql, "s", &session) {
        let _ = effect.tables();
        if let Effect::Alter { alter, .. } = effect
            && let Verdict::Same(after) | Verdict::Evolve(after) = table.judge(&alter, &session)
        {
            let attributes = |table: &Table| table.columns.iter().map(|column| column.attribute).max();
            assert!(attributes(&after) <= Some(after.attribute_max));
            assert!(after.attribute_max >= table.attribute_max);
        }
    }
    if let Some(spelled) = ddl::column_type(&sql, &session) {
        assert!(ddl::same_type(&spelled, &spelled, &session));
    }
    let _ = ddl::same_type(&sql, "int", &session);
}

fn table() -> Table {
    let columns = [
        ("id", "int"),
        ("a", "varchar(20)"),
        ("b", "enum('x','y')"),
        ("c", "decimal(10,2)"),
        ("d", "timestamp"),
    ];
    let column = |(at, (name, ty)): (usize, (&str, &str))| KnownColumn {
        name: name.to_owned(),
        column_type: ty.to_owned(),
        charset: ty.starts_with("varchar").then(|| "utf8mb4".to_owned()),
        attribute: at as i32 + 1,
        nullable: at > 0,
        auto_increment: at == 0,
    };
    Table {
        columns: columns.into_iter().enumerate().map(column).collect(),
        key: vec![1],
        key_name: "PRIMARY".to_owned(),
        charset: "utf8mb4".to_owned(),
        attribute_max: 5,
        computed: false,
    }
}

fn statements() -> Vec<Vec<u8>> {
    const STATEMENTS: &[&str] = &[
        "ALTER TABLE t ADD COLUMN (x INT NOT NULL DEFAULT 1, y VARCHAR(10) CHARACTER SET latin1 AFTER a), DROP b, ALGORITHM=INSTANT",
        "ALTER TABLE `s`.`t` CHANGE a A2 varchar(30) COLLATE utf8mb4_bin FIRST, RENAME COLUMN c TO cc, ADD UNIQUE KEY u (a(3) DESC)",
        "ALTER ONLINE IGNORE TABLE IF EXISTS t WAIT 5 MODIFY IF EXISTS d TIMESTAMP(3) NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE NOW()",
        "ALTER TABLE t MODIFY b ENUM('x','y','it''s\\n') NOT NULL, CONVERT TO CHARACTER SET utf8mb3, RENAME TO u.v",
        "/*!50100 CREATE*/ TABLE IF NOT EXISTS t (id SERIAL, j JSON CHECK (json_valid(j)), g INT GENERATED ALWAYS AS (id+1) STORED)",
        "DROP TABLE IF EXISTS a, `b``c`, s.\"d\" /* generated by server */ -- end",
        "RENAME TABLE a TO b, b TO c; TRUNCATE t",
        "SET STATEMENT sql_mode='ANSI_QUOTES' FOR ALTER TABLE \"t\" DROP PRIMARY KEY, ADD PRIMARY KEY (id, a)",
        "CREATE OR REPLACE TABLE t LIKE u",
        "ALTER TABLE t EXCHANGE PARTITION p WITH TABLE u WITHOUT VALIDATION",
        "DROP DATABASE s",
        "decimal(10,2) unsigned zerofill",
        "national char varying(20)",
        "set('a','b\\'c',_utf8'd')",
    ];
    let sessions = [0x20, 0x21, 0x63, 0x8e];
    let mut seeds = Vec::new();
    for text in STATEMENTS {
        seeds.extend(sessions.map(|session| [&[session], text.as_bytes()].concat()));
    }
    seeds
}
