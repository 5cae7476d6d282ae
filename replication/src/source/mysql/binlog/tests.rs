//! Binlog files that servers wrote, decoded whole: `fixtures/binlog`.

use std::fmt::Write;

use super::*;

pub const FILES: &[&str] = &[
    "mysql-types",
    "mysql-full",
    "mysql-minimal",
    "mysql-noblob",
    "mysql-partial-json",
    "mysql-compressed",
    "mysql-frames",
    "mysql-plain",
    "mariadb-types",
    "mariadb-11-types",
    "mariadb-minimal",
    "mariadb-compressed",
    "mariadb-frames",
    "mariadb-old-times",
    "mariadb-plain",
    "mariadb-stopped",
];

pub fn read(name: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/binlog/");
    std::fs::read(format!("{path}{name}")).expect("a fixture")
}

/// The events of a file, which must be there to its last byte.
pub fn split(file: &[u8]) -> Vec<&[u8]> {
    let mut rest = file.strip_prefix(&MAGIC).expect("a binlog file");
    let mut events = Vec::new();
    while !rest.is_empty() {
        let size = Header::read(rest).expect("a header").event_size as usize;
        let (event, after) = rest.split_at_checked(size).expect("a whole event");
        events.push(event);
        rest = after;
    }
    events
}

/// Calls `visit` with each event of a file, those in payloads after the payload.
pub fn walk(name: &str, mut visit: impl FnMut(&mut Decoder, &Event<'_>, bool)) {
    let file = read(&format!("{name}.bin"));
    let mut decoder = Decoder::new(Checksum::Off);
    for bytes in split(&file) {
        let event = decoder.decode(bytes).expect("an event");
        visit(&mut decoder, &event, false);
        if let Body::Payload(payload) = &event.body {
            let mut reader = payload.reader().expect("a payload");
            while let Some(bytes) = reader.next_event().expect("an event of a payload") {
                let event = decoder.decode_inner(bytes).expect("an event of a payload");
                visit(&mut decoder, &event, true);
            }
        }
    }
}

/// Calls `visit` with each row of a file that can be read, whatever else can't.
pub fn visit_rows(file: &[u8], mut visit: impl FnMut(&TableMap, Op, Row<'_, '_>)) {
    let mut decoder = Decoder::new(Checksum::Off);
    let mut rows = |decoder: &mut Decoder, event: &Event<'_>| -> Result<()> {
        if let Body::Rows(rows) = &event.body {
            let map = decoder.table(rows.table_id)?;
            let data = rows.data()?;
            let mut reader = rows.reader(&map, &data)?;
            while let Some(row) = reader.next_row()? {
                visit(&map, rows.op, row);
            }
        }
        Ok(())
    };
    for bytes in split(file) {
        let Ok(event) = decoder.decode(bytes) else { continue };
        let _ = rows(&mut decoder, &event);
        if let Body::Query(query) = &event.body {
            let _ = (query.statement().is_ok(), query.sql().is_ok());
        }
        if let Body::Payload(payload) = &event.body
            && let Ok(mut reader) = payload.reader()
        {
            while let Ok(Some(bytes)) = reader.next_event() {
                if let Ok(event) = decoder.decode_inner(bytes) {
                    let _ = rows(&mut decoder, &event);
                }
            }
        }
    }
}

/// A file with some bytes of its events changed, and its checksums right.
pub fn mutated(file: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let events = split(file);
    let mut whole = MAGIC.to_vec();
    let mut checksum = false;
    for event in events {
        let header = Header::read(event).expect("a header");
        let mut event = event.to_vec();
        if header.event_type == event_type::FORMAT_DESCRIPTION {
            checksum = format_checksum(&event).expect("a format") == Some(Checksum::Crc32);
            whole.extend(event);
            continue;
        }
        if random(4) == 0 && event.len() > HEADER_LEN {
            for _ in 0..=random(3) {
                let place = HEADER_LEN + random(event.len() - HEADER_LEN);
                event[place] = match random(3) {
                    0 => 0xff,
                    1 => event[place] ^ 1 << random(8),
                    _ => random(256) as u8,
                };
            }
        }
        if checksum {
            let body = event.len() - CHECKSUM_LEN;
            let sum = crc32fast::hash(&event[..body]).to_le_bytes();
            event[body..].copy_from_slice(&sum);
        }
        whole.extend(event);
    }
    whole
}

/// All rows of a file's tables, as text: table, operation, images.
fn rows_of(name: &str, table: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(name, |decoder, event, _| {
        let Body::Rows(rows) = &event.body else { return };
        let map = decoder.table(rows.table_id).expect("a table");
        if map.name != table {
            return;
        }
        let data = rows.data().expect("rows");
        let mut reader = rows.reader(&map, &data).expect("rows");
        while let Some(row) = reader.next_row().expect("a row") {
            let mut text = format!("{:?}", rows.op);
            for image in [row.before, row.after] {
                if !image.is_empty() {
                    text.push_str(" |");
                }
                for datum in image {
                    text.push(' ');
                    text.push_str(&datum_text(datum));
                }
            }
            found.push(text);
        }
    });
    found
}

fn datum_text(datum: &Datum<'_>) -> String {
    let bytes_text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => text.to_owned(),
        _ => bytes
            .iter()
            .fold("x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    };
    match datum {
        Datum::Value(value) => bytes_text(value),
        Datum::Null => "NULL".to_owned(),
        Datum::Absent => "-".to_owned(),
        Datum::JsonDiff(diff) => format!("diff:{}", bytes_text(diff)),
    }
}

/// An event in a line.
fn line(decoder: &mut Decoder, event: &Event<'_>) -> String {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match &event.body {
        Body::FormatDescription(format) => format!("FORMAT {} {:?}", format.server_version, format.checksum),
        Body::Rotate { position, file } => format!("ROTATE {file} {position}"),
        Body::Stop => "STOP".to_owned(),
        Body::Gtid(gtid) if gtid.anonymous => format!("GTID anonymous, {} bytes", gtid.transaction_length.unwrap_or(0)),
        Body::Gtid(gtid) => {
            let uuid: String = gtid.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
            let length = gtid.transaction_length.unwrap_or(0);
            format!("GTID {uuid}:{}:{}, {length} bytes", gtid.tag, gtid.gno)
        }
        Body::MariaDbGtid(gtid) => {
            let mut text = format!("GTID {}-{}-{}", gtid.domain_id, gtid.server_id, gtid.sequence);
            for (is, name) in [
                (gtid.is_standalone(), "standalone"),
                (gtid.is_transactional(), "transactional"),
                (gtid.is_ddl(), "ddl"),
                (gtid.is_xa_prepared(), "prepared"),
                (gtid.is_xa_completed(), "completed"),
            ] {
                if is {
                    text.push(' ');
                    text.push_str(name);
                }
            }
            if let Some(alter) = gtid.alter {
                write!(text, " {alter:?}").expect("text");
            }
            text
        }
        Body::MariaDbGtidList(list) => {
            let entries = list
                .iter()
                .map(|e| format!(" {}-{}-{}", e.domain_id, e.server_id, e.sequence));
            format!("GTID_LIST{}", entries.collect::<String>())
        }
        Body::Xid(_) => "XID".to_owned(),
        Body::XaPrepare {
            one_phase,
            format_id,
            gtrid,
            bqual,
        } => {
            let phase = if *one_phase { "ONE PHASE " } else { "" };
            format!("XA PREPARE {phase}{format_id} {gtrid:02x?} {bqual:02x?}")
        }
        Body::Query(query) => {
            let (statement, sql) = (query.statement().expect("a statement"), query.sql().expect("a text"));
            let client = query.charset.map_or(0, |charset| charset.client);
            let sql = lossy(&sql).split_whitespace().collect::<Vec<_>>().join(" ");
            let sql = sql.chars().take(120).collect::<String>();
            format!(
                "QUERY {statement:?} in {:?}, charset {client}: {sql}",
                lossy(query.schema)
            )
        }
        Body::TableMap(map) => {
            let table = decoder.table(map.table_id);
            let columns = table.map_or(0, |table| table.columns.len());
            format!("TABLE_MAP {}.{} of {columns} columns", map.schema, map.name)
        }
        Body::Rows(rows) if rows.is_dummy() => "ROWS of no table".to_owned(),
        Body::Rows(rows) => {
            let map = decoder.table(rows.table_id).expect("a table");
            let data = rows.data().expect("rows");
            let mut reader = rows.reader(&map, &data).expect("rows");
            let mut count = 0;
            loop {
                match reader.next_row() {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => break,
                    // Times in a form that nothing in the log tells.
                    Err(error) => return format!("{:?} in {}: {error}", rows.op, map.name),
                }
            }
            let end = if rows.statement_end { ", the last" } else { "" };
            format!("{:?} {count} in {}{end}", rows.op, map.name)
        }
        Body::Payload(payload) => format!("PAYLOAD of {} bytes", payload.uncompressed_size.unwrap_or(0)),
        Body::Heartbeat { file, position } => format!("HEARTBEAT {file} {position}"),
        Body::Other => event_name(event.header.event_type).to_owned(),
    }
}

fn trace(name: &str) -> String {
    let mut text = String::new();
    walk(name, |decoder, event, inner| {
        let indent = if inner { "  " } else { "" };
        writeln!(text, "{indent}{}", line(decoder, event)).expect("text");
    });
    text
}

#[test]
fn files_of_servers_are_read_to_their_end() {
    for name in FILES {
        let expected = String::from_utf8(read(&format!("{name}.events"))).expect("text");
        assert_eq!(trace(name), expected, "{name}");
    }
}

#[test]
fn minimal_images_have_what_changed() {
    let rows = rows_of("mariadb-minimal", "wide");
    let absent = |from: usize, to: usize| " -".repeat(to - from);
    assert_eq!(rows[2], format!("Insert | x0300000000000000 three{}", absent(2, 21)));
    assert_eq!(
        rows[3],
        format!(
            "Update | x0100000000000000 one{} |{} x02000000{}",
            absent(2, 21),
            absent(0, 2),
            absent(3, 21)
        )
    );
    assert_eq!(
        rows.last(),
        Some(&format!("Delete | x0400000000000000 three{}", absent(2, 21)))
    );
    for name in [
        "mysql-minimal",
        "mariadb-minimal",
        "mysql-compressed",
        "mariadb-compressed",
    ] {
        let rows = rows_of(name, "nokey");
        let (inserted, updated) = match name {
            // The insert named no column.
            "mysql-minimal" => ("Insert | - -", "Update | x05000000 NULL | - x01000000"),
            _ => (
                "Insert | x05000000 NULL",
                "Update | x05000000 NULL | x05000000 x01000000",
            ),
        };
        assert_eq!(rows[0], inserted, "{name}");
        assert_eq!(rows[1..3], [updated, "Delete | x05000000 x01000000"], "{name}");
    }
}

#[test]
fn times_of_before_2012_are_told_apart_from_those_of_today() {
    let rows = rows_of("mariadb-old-times", "old");
    let first = "Insert | x01000000 x80c5aa8b68120000 xf079e065 x8b23fc x5dd00f";
    assert_eq!(
        rows,
        [first, "Insert | x02000000 x0000000000000000 x00000000 xa7f57f x000000"]
    );
}

#[test]
fn documents_changed_in_part_are_told_by_their_differences() {
    let rows = rows_of("mysql-partial-json", "docs");
    let differences: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.split(" | x01000000 ").nth(2))
        .collect();
    assert_eq!(
        differences,
        [
            "diff:x0003242e6b03050200 x00000000 diff:x",
            "diff:x0009242e6c6973745b305d050c036f6e650005242e6f2e781402030013000501000f0d00040000f604020182050203242e6b x00000000 diff:x",
            "diff:x0107242e2261206222030c0178 x00000000 diff:x",
            "diff:x x01000000 diff:x",
            "diff:x0107242e61646465640a0ff6070b028000000c32 x01000000 diff:x",
        ]
    );
}

/// Columns: id, v vector, g geometry, j json, a latin1, e enum, b and c utf8mb4, d varbinary, f blob, s set.
#[test]
fn optional_metadata_tells_names_words_and_key() {
    let body = [
        &[1, 0, 1, b'v', 0, 1, b'v', 0][..],
        &[11, 3, 0xf2, 0xff, 0xf5, 0x0f, 0xfe, 0x0f, 0x0f, 0x0f, 0xfc, 0xfe],
        &[16, 4, 4, 4, 5, 0, 0xf7, 1, 0x14, 0, 0x14, 0, 4, 0, 2, 0xf8, 1, 0xfe, 7],
        &[1, 1, 0],
        &[3, 10, 0x3f, 8, 0xfc, 0xff, 0, 0xfc, 0xff, 0, 0x3f, 0x3f],
        &[7, 1, 0, 13, 1, 3],
        &[4, 23, 2, b'i', b'd', 1, b'v', 1, b'g', 1, b'j', 1, b'a', 1, b'e'],
        &[1, b'b', 1, b'c', 1, b'd', 1, b'f', 1, b's'],
        &[10, 1, 8, 5, 3, 1, 1, b'q', 6, 3, 1, 1, b'x', 8, 1, 0, 12, 2, 0xff, 0xe0],
    ]
    .concat();
    let map = TableMap::parse(117, &body).expect("a table map");
    let names: Vec<_> = map.columns.iter().filter_map(|column| column.name.as_deref()).collect();
    assert_eq!(names, ["id", "v", "g", "j", "a", "e", "b", "c", "d", "f", "s"]);
    assert_eq!(map.columns[1].vector_dimensions, Some(3));
    assert_eq!(map.columns[5].members, Some(vec![b"x".to_vec()]));
    assert_eq!(map.columns[10].members, Some(vec![b"q".to_vec()]));
    assert_eq!(map.primary_key, Some(vec![(0, 0)]));
}

/// Columns: y year, v int, b bit, t int unsigned, d decimal unsigned, s timestamp, e enum, w int.
#[test]
fn a_year_is_a_number_without_a_sign() {
    let body = [
        &[1, 0, 1, b'y', 0, 1, b'y', 0, 8, 13, 3, 16, 3, 0xf6, 17, 0xfe, 3][..],
        &[7, 3, 0, 5, 1, 0, 0xf7, 1, 0xfe, 1, 1, 0xb0],
    ]
    .concat();
    let map = TableMap::parse(24, &body).expect("a table map");
    let unsigned: Vec<_> = map.columns.iter().map(|column| column.unsigned).collect();
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(unsigned, [yes, no, None, yes, yes, None, None, no]);
}
