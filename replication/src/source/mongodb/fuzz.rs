//! MongoDB's decoders for fuzzers: see [`crate::fuzz`].

use std::sync::{Arc, OnceLock};

use bson::{Bson, Document, doc};

use super::columns::{ColumnBuilder, read_back};
use super::cursor::{token, token_text};
use super::delta::{Description, Node, Updates};
use super::infer::{self, Sample};
use super::raw::{self, Value, tag};
use super::rows::Rows;
use super::stream::{Event, table_id, token_time};
use super::table::{MixedKeys, SourceTable};
use super::transform::{Transform, Transformer};
use super::{json, number};
use crate::batch::{Patch, RowChanges};
use crate::config::{Config, Documents};
use crate::fuzz::Target;
use crate::schema::TableId;
use crate::source::SourceTable as _;
use crate::transform::{HashKey, Rules};

pub const TARGETS: &[Target] = &[
    Target {
        name: "bson",
        run: document,
        seeds: || documents().iter().map(bytes).collect(),
    },
    Target {
        name: "extended_json",
        run: extended_json,
        seeds: texts,
    },
    Target {
        name: "change_event",
        run: change_event,
        seeds: events,
    },
];

fn bytes(document: &Document) -> Vec<u8> {
    let mut bytes = Vec::new();
    document.to_writer(&mut bytes).expect("a document");
    bytes
}

fn whole(bytes: &[u8]) -> Value<'_> {
    Value {
        tag: tag::DOCUMENT,
        bytes,
    }
}

fn documents() -> Vec<Document> {
    let decimal = |text: &str| Bson::Decimal128(text.parse().expect("a decimal"));
    vec![
        doc! {"_id": 1, "n": 1_i64, "d": 1.5, "s": "text", "t": true, "in": {"x": 1, "y": "z"}, "l": [1, 2, Bson::Null]},
        doc! {"_id": bson::oid::ObjectId::from_bytes([7; 12]), "n": Bson::Null, "when": bson::DateTime::from_millis(-1)},
        doc! {"_id": "key", "price": decimal("1.10"), "large": decimal("-9.99E+6144"), "$odd": 1, "a.b": 2, "": 3},
        doc! {"_id": bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![5; 16] },
        "bin": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0, 255] },
        "old": bson::Binary { subtype: bson::spec::BinarySubtype::BinaryOld, bytes: vec![1, 2] }},
        doc! {"_id": {"a": 1}, "u": Bson::Undefined, "code": Bson::JavaScriptCode("f()".into()), "sym": Bson::Symbol("s".into()),
        "scope": Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope { code: "g()".into(), scope: doc! {"x": 1} }),
        "time": bson::Timestamp { time: 7, increment: 8 }, "min": Bson::MinKey, "max": Bson::MaxKey,
        "re": bson::Regex { pattern: "^a".try_into().expect("a pattern"), options: "i".try_into().expect("options") }},
        doc! {"_id": 2, "inf": f64::INFINITY, "nan": f64::NAN, "tiny": f64::MIN_POSITIVE, "zero": -0.0, "deep": [[[[{"a": [1]}]]]]},
    ]
}

/// A table of each kind, made of [`documents`].
fn tables() -> &'static [SourceTable] {
    static ALL: OnceLock<Vec<SourceTable>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut sample = Sample::default();
        for document in documents() {
            sample.add(&bytes(&document)).expect("a document");
        }
        [Documents::Evolve, Documents::Json]
            .map(|how| {
                let table = SourceTable::new(TableId::new("d", "c"), [1; 16], 0, MixedKeys::default());
                table.and_then(|table| table.inferred(how, &sample)).expect("a table")
            })
            .to_vec()
    })
}

fn transformer() -> Transformer {
    static TRANSFORM: OnceLock<Arc<Transform>> = OnceLock::new();
    let transform = TRANSFORM.get_or_init(|| {
        let text = "[source]\nurl = \"mongodb://h\"\n[lake]\nurl = \"./l\"\n[transform]\nkey = \"0123456789abcdef\"\n\
            [[table]]\nmatch = \"*\"\nexclude = [\"n\", \"$*\"]\nhash = [\"s\", \"in\"]\nmask = { l = \"***\" }\n";
        let config = Config::parse(text, |_| None).expect("a configuration");
        let id = TableId::new("d", "c");
        let rules = Rules::of(&config, Some(Arc::new(HashKey::new("0123456789abcdef"))), &id);
        Transform::of(&id, rules).expect("rules").expect("a transform")
    });
    Transformer::new(Some(transform.clone()))
}

/// A document through every door: JSON and back, columns and back, transformed.
fn document(bytes: &[u8]) {
    let mut text = Vec::new();
    if json::write(whole(bytes), &mut text).is_ok() {
        let mut back = Vec::new();
        assert_eq!(
            json::read(&text, &mut back).ok(),
            Some(tag::DOCUMENT),
            "{}",
            text.escape_ascii()
        );
        let mut again = Vec::new();
        assert_eq!(json::write(whole(&back), &mut again), Ok(()));
        assert_eq!(text.escape_ascii().to_string(), again.escape_ascii().to_string());
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for (document, out) in [(bytes, &mut first), (&back, &mut second)] {
            assert_eq!(json::write_sorted(whole(document), out), Ok(()));
            assert_eq!(json::write_by_value(whole(document), out), Ok(()));
        }
        assert_eq!(first, second);
    }
    let _ = Sample::default().add(bytes);
    for element in raw::document(bytes).into_iter().flatten().flatten() {
        value(element.1);
    }
    if let Ok(mut node) = Node::document(bytes) {
        let mut out = Vec::new();
        if node.write(&mut out, 0).is_ok() {
            assert_eq!(out.len(), bytes.len());
        }
        let _ = Description::default().apply(&mut node, false);
    }
    for table in tables() {
        let _ = table.new_fields(bytes);
        row(table, bytes);
    }
    let mut transformer = transformer();
    if let Ok(transformed) = transformer.document(bytes) {
        let transformed = transformed.to_vec();
        assert!(raw::document(&transformed).is_ok_and(|mut elements| elements.all(|element| element.is_ok())));
        row(&tables()[0], &transformed);
    }
}

/// A value in a column of its own kind.
fn value(value: Value<'_>) {
    let _ = (
        value.integer(),
        value.string(),
        value.binary(),
        number::write(value, &mut Vec::new()),
    );
    let kind = infer::kind_of(value);
    let mut builder = ColumnBuilder::new(&kind);
    if !matches!(builder.append(value), Ok(true)) {
        return;
    }
    let array = builder.finish().expect("an array");
    assert_eq!(array.len(), 1);
    array.to_data().validate_full().expect("a valid array");
    let mut out = Vec::new();
    if let Some(tag) = read_back(&kind, array.as_ref(), 0, &mut out).expect("a value") {
        let mut other = ColumnBuilder::new(&kind);
        let held = other
            .append(Value { tag, bytes: &out })
            .expect("a value that was read back");
        assert!(held);
        assert_eq!(&other.finish().expect("an array"), &array);
    }
}

/// Appends a document to a table that takes its key.
fn row(table: &SourceTable, bytes: &[u8]) {
    let Ok(Some(id)) = raw::field(bytes, "_id") else { return };
    let mut rows = Rows::new(table.fields.clone(), table.schema().arrow());
    if !rows.takes_key(id) {
        return;
    }
    // What is no document ends the stream, and its rows with it.
    if rows.append(bytes).is_err() {
        return;
    }
    let batch = rows.finish().expect("a batch");
    assert_eq!(batch.num_rows(), 1);
    SourceTable::normal(&table.fields, &batch).expect("rows in the normal form");
}

fn extended_json(text: &[u8]) {
    let mut bytes = Vec::new();
    let Ok(tag) = json::read(text, &mut bytes) else { return };
    let value = Value { tag, bytes: &bytes };
    let (mut written, mut back, mut again) = (Vec::new(), Vec::new(), Vec::new());
    // As deep as may be read is as deep as may be written.
    assert_eq!(json::write(value, &mut written), Ok(()), "{}", text.escape_ascii());
    assert_eq!(json::read(&written, &mut back), Ok(tag), "{}", written.escape_ascii());
    assert_eq!(json::write(Value { tag, bytes: &back }, &mut again), Ok(()));
    assert_eq!(written.escape_ascii().to_string(), again.escape_ascii().to_string());
}

fn texts() -> Vec<Vec<u8>> {
    let text = |document: &Document| {
        let mut text = Vec::new();
        json::write(whole(&bytes(document)), &mut text).expect("a text");
        text
    };
    documents().iter().map(text).collect()
}

/// An event of a change stream, and its update applied to a row.
fn change_event(bytes: &[u8]) {
    let Ok(event) = Event::of(bytes) else { return };
    if let Ok(text) = event.token() {
        let _ = (token_time(&text), token(&text));
    }
    let _ = event.namespace.map(table_id);
    let _ = event.key.map(|key| raw::field(key.bytes, "_id"));
    if let Some(document) = event.document {
        row(&tables()[0], document.bytes);
    }
    let Some(description) = event.update.map(|update| update.bytes) else {
        return;
    };
    let mut transformer = transformer();
    let transformed = transformer
        .update(description)
        .map(|update| update.description.to_vec());
    for description in [description, &transformed.unwrap_or_default()] {
        let before = &documents()[0];
        for later in [false, true] {
            let mut node = Node::document(&self::bytes(before)).expect("a document");
            let Ok(parts) = Description::of(description) else {
                continue;
            };
            let _ = parts.updated();
            if parts.apply(&mut node, later).is_ok() {
                let mut out = Vec::new();
                if node.write(&mut out, 0).is_ok() {
                    assert!(raw::document(&out).is_ok());
                }
            }
            for table in tables() {
                let mut rows = Rows::new(table.fields.clone(), table.schema().arrow());
                rows.append(&self::bytes(before)).expect("a row");
                let base = rows.finish().expect("a batch");
                let changes = [RowChanges {
                    patches: vec![description, description],
                    later,
                }];
                if let Ok(patched) = Updates(table.fields.clone()).apply(&base, &changes) {
                    assert_eq!(patched.rows.num_rows(), 1);
                }
            }
        }
    }
    let _ = event.token().map(|_| token_text(whole(bytes)));
}

fn events() -> Vec<Vec<u8>> {
    let event = |operation: &str, more: Document| {
        let mut event = doc! {
            "_id": {"_data": "8265A0F2C1000000012B042C0100296E5A1004", "_typeBits": bson::Binary {
                subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1] }},
            "operationType": operation, "clusterTime": bson::Timestamp { time: 1_700_000_000, increment: 1 },
            "ns": {"db": "d", "coll": "c"}, "documentKey": {"_id": 1},
        };
        event.extend(more);
        bytes(&event)
    };
    let update = |description: Document| event("update", doc! {"updateDescription": description});
    vec![
        event(
            "insert",
            doc! {"fullDocument": documents()[0].clone(), "txnNumber": 5_i64},
        ),
        event("rename", doc! {"to": {"db": "d", "coll": "e"}}),
        update(
            doc! {"updatedFields": {"n": 2, "in.x": 7, "l.1": "two", "new": {"a": []}}, "removedFields": ["s", "in.y"]},
        ),
        update(doc! {"updatedFields": {"l.3": 4}, "truncatedArrays": [{"field": "l", "newSize": 2}]}),
        update(doc! {"updatedFields": {"a.b": 1}, "disambiguatedPaths": {"a.b": ["a.b"], "l.0": ["l", 0]}}),
    ]
}
