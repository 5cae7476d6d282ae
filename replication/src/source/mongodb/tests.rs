//! Documents through every door: JSON and back, columns and back, updates, and
//! bytes that are no documents.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use bson::spec::BinarySubtype;
use bson::{Bson, DateTime, Decimal128, Document, Regex, Timestamp, doc};

use super::columns::{ColumnBuilder, read_back};
use super::delta::{Description, Node, Updates};
use super::infer::Sample;
use super::raw::{self, Value, tag};
use super::rows::{Fields, Rows};
use super::stream::{Bodies, Scope, token_time};
use super::table::{MixedKeys, SourceTable};
use super::transform::{Transform, Transformer};
use super::{json, number};
use crate::batch::{Patch, RowChanges};
use crate::config::{Config, Documents};
use crate::position::{ClusterTime, ResumePoint};
use crate::schema::{MongoKind as Kind, TableId};
use crate::source::SourceTable as _;
use crate::transform::{HASH_DIGITS, HashKey, Rules};

fn bytes(document: &Document) -> Vec<u8> {
    let mut bytes = Vec::new();
    document.to_writer(&mut bytes).expect("a document");
    bytes
}

/// Appends a whole element.
fn push(out: &mut Vec<u8>, name: &[u8], value: Value<'_>) {
    raw::name(out, value.tag, name);
    out.extend_from_slice(value.bytes);
}

fn parsed(bytes: &[u8]) -> Document {
    Document::from_reader(bytes).expect("a document")
}

fn whole(bytes: &[u8]) -> Value<'_> {
    Value {
        tag: tag::DOCUMENT,
        bytes,
    }
}

/// A value of every type.
fn every_type() -> Document {
    doc! {
        "double": 1.5, "zero": -0.0, "infinity": f64::INFINITY, "large": 1e300,
        "string": "quo\"te \\ \n\t\u{1} żółć 😀", "empty": "",
        "document": {"a": {"b": {}}, "$odd": 1, "": 2}, "array": [1, "two", Bson::Null, [3.5], {}],
        "generic": bson::Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 1, 255] },
        "uuid": bson::Binary { subtype: BinarySubtype::Uuid, bytes: (0..16).collect() },
        "user": bson::Binary { subtype: BinarySubtype::UserDefined(0x80), bytes: Vec::new() },
        "old": bson::Binary { subtype: BinarySubtype::BinaryOld, bytes: vec![1, 2, 3] },
        "undefined": Bson::Undefined, "id": bson::oid::ObjectId::from_bytes([7; 12]),
        "yes": true, "no": false, "date": DateTime::from_millis(-1), "far": DateTime::MAX, "null": Bson::Null,
        "regex": Regex { pattern: "^a/\"b".try_into().expect("a pattern"), options: "im".try_into().expect("options") },
        "code": Bson::JavaScriptCode("f()".into()), "symbol": Bson::Symbol("s".into()),
        "scope": Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope { code: "g()".into(), scope: doc! {"x": 1} }),
        "int": i32::MIN, "timestamp": Timestamp { time: u32::MAX, increment: 7 }, "long": i64::MIN,
        "decimal": "1.10".parse::<Decimal128>().expect("a decimal"),
        "huge": "-9.99E+6144".parse::<Decimal128>().expect("a decimal"),
        "least": Bson::MinKey, "most": Bson::MaxKey,
    }
}

fn table(documents: Documents, sample: &[Document]) -> SourceTable {
    let mut seen = Sample::default();
    for document in sample {
        seen.add(&bytes(document)).expect("a document");
    }
    let table = SourceTable::new(TableId::new("d", "c"), [1; 16], 0, MixedKeys::default()).expect("a table");
    table.inferred(documents, &seen).expect("a table")
}

fn kinds(table: &SourceTable) -> Vec<(String, Kind)> {
    let names = table.schema.columns.iter().map(|column| column.name.clone());
    names.zip(table.fields.kinds.iter().cloned()).collect()
}

fn rows(table: &SourceTable, documents: &[Document]) -> RecordBatch {
    let mut rows = Rows::new(table.fields.clone(), table.schema().arrow());
    for document in documents {
        rows.append(&bytes(document)).expect("a row");
    }
    rows.finish().expect("a batch")
}

/// The document that a row is, its fields in the order of their names.
fn document(fields: &Fields, batch: &RecordBatch, row: usize, names: &[(String, Kind)]) -> String {
    let mut out = Vec::new();
    let begun = raw::begin(&mut out);
    for (column, (name, kind)) in names.iter().enumerate() {
        let array = batch.column(column);
        if column == fields.rest {
            if !array.is_null(row) {
                let mut rest = Vec::new();
                json::read(array.as_string::<i32>().value(row).as_bytes(), &mut rest).expect("JSON");
                for element in raw::document(&rest).expect("a document") {
                    let (name, value) = element.expect("an element");
                    push(&mut out, name, value);
                }
            }
            continue;
        }
        let place = out.len();
        raw::name(&mut out, tag::NULL, name.as_bytes());
        match read_back(kind, array.as_ref(), row, &mut out).expect("a value") {
            Some(tag) => out[place] = tag,
            None => out.truncate(place),
        }
    }
    raw::end(&mut out, begun);
    let mut text = Vec::new();
    json::write_sorted(whole(&out), &mut text).expect("JSON");
    // Columns of numbers keep the number and not its width.
    String::from_utf8(text)
        .expect("text")
        .replace("numberInt", "numberLong")
}

fn expected(document: &Document) -> String {
    let mut text = Vec::new();
    json::write_sorted(whole(&bytes(document)), &mut text).expect("JSON");
    String::from_utf8(text)
        .expect("text")
        .replace("numberInt", "numberLong")
}

#[test]
fn json_is_canonical_and_comes_back_as_the_same_bytes() {
    let document = every_type();
    let bytes = bytes(&document);
    let mut text = Vec::new();
    json::write(whole(&bytes), &mut text).expect("JSON");
    let mut back = Vec::new();
    assert_eq!(json::read(&text, &mut back), Ok(tag::DOCUMENT));
    assert_eq!(back, bytes, "{}", String::from_utf8_lossy(&text));
    // As another library writes it.
    let theirs = Bson::Document(document).into_canonical_extjson();
    let ours: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    for (name, value) in theirs.as_object().expect("an object") {
        // Numbers may be written in several ways.
        if !["large", "huge"].contains(&name.as_str()) {
            assert_eq!(ours.get(name), Some(value), "{name}");
        }
    }
}

#[test]
fn documents_that_only_look_like_extended_json_stay_documents() {
    for document in [
        doc! {"a": {"$oid": "no digits"}},
        doc! {"a": {"$date": 5}},
        doc! {"a": {"$numberLong": "5", "b": 1}},
        doc! {"a": {"$ref": "c", "$id": 1}},
        doc! {"a": {"$numberInt": "+5"}},
        doc! {"a": {"$numberDouble": "5"}},
        doc! {"a": {"$oid": "+1+1+1+1+1+1+1+1+1+1+1+1"}},
        doc! {"a": {"$regularExpression": {"pattern": "a\0b", "options": "i"}}},
        (0..60).fold(doc! {}, |inner, _| doc! {"$code": "", "$scope": {"a": inner}, "z": 1}),
    ] {
        let bytes = bytes(&document);
        let (mut text, mut back) = (Vec::new(), Vec::new());
        json::write(whole(&bytes), &mut text).expect("JSON");
        json::read(&text, &mut back).expect("a document");
        assert_eq!(parsed(&back), document);
    }
}

#[test]
fn names_that_are_no_utf_8_have_one_order() {
    let mut bytes = Vec::new();
    let begun = raw::begin(&mut bytes);
    for name in [&b"\xff]"[..], b"\xfea"] {
        raw::name(&mut bytes, tag::NULL, name);
    }
    raw::end(&mut bytes, begun);
    let (mut text, mut back, mut sorted, mut again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    json::write(whole(&bytes), &mut text).expect("JSON");
    json::read(&text, &mut back).expect("a document");
    json::write_sorted(whole(&bytes), &mut sorted).expect("JSON");
    json::write_sorted(whole(&back), &mut again).expect("JSON");
    assert_eq!(sorted, again);
}

#[test]
fn columns_are_inferred_from_what_is_regular() {
    let samples: Vec<Document> = (0..20)
        .map(|i| {
            doc! {
                "_id": i, "long": i64::from(i), "number": if i == 0 { Bson::Int32(i) } else { Bson::Double(0.5) },
                "mixed": if i == 3 { Bson::Int32(1) } else { "a".into() }, "tags": ["a", "b"], "none": Bson::Null,
                "address": {"city": "x", "zip": {"code": i}}, "items": [{"sku": "a"}, {"sku": "b", "count": 1}],
                "map": {format!("key{i}"): 1}, "odd name": 1, "a.b": 1, "Long": 1, "_extra": 5, "empty": [],
                "price": "1.50".parse::<Decimal128>().expect("a decimal"),
            }
        })
        .collect();
    let table = table(Documents::Evolve, &samples);
    let names = |fields: &[(&str, Kind)]| {
        fields
            .iter()
            .map(|(n, k)| ((*n).to_owned(), k.clone()))
            .collect::<Vec<_>>()
    };
    let zip = Kind::Struct(names(&[("code", Kind::Long)]));
    let item = Kind::Struct(names(&[("sku", Kind::String), ("count", Kind::Long)]));
    let expected = names(&[
        ("_id", Kind::Long),
        ("long", Kind::Long),
        ("number", Kind::Double),
        ("mixed", Kind::Json),
        ("tags", Kind::Array(Box::new(Kind::String))),
        ("address", Kind::Struct(names(&[("city", Kind::String), ("zip", zip)]))),
        ("items", Kind::Array(Box::new(item))),
        ("map", Kind::Json),
        ("empty", Kind::Json),
        ("price", Kind::Decimal(10)),
        ("_extra", Kind::Extra),
    ]);
    assert_eq!(kinds(&table), expected);
    let batch = rows(&table, &samples);
    // The first one's number becomes a double.
    for (row, sample) in samples.iter().enumerate().skip(1) {
        let decimals = |text: String| text.replace("1.5000000000", "1.50");
        let found = document(&table.fields, &batch, row, &expected);
        assert_eq!(decimals(found), self::expected(sample));
    }
}

/// A document whose field `a` is there twice, which the server allows.
fn twice(first: i32, second: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let begun = raw::begin(&mut out);
    for document in [doc! {"_id": 1, "a": first}, doc! {"a": second}] {
        let bytes = bytes(&document);
        for element in raw::document(&bytes).expect("a document") {
            let (name, value) = element.expect("an element");
            push(&mut out, name, value);
        }
    }
    raw::end(&mut out, begun);
    out
}

#[test]
fn a_name_that_is_there_twice_keeps_its_order() {
    let table = table(Documents::Fixed, &[doc! {"_id": 1, "a": 1, "b": 1}]);
    let mut rows = Rows::new(table.fields.clone(), table.schema().arrow());
    rows.append(&twice(5, "second")).expect("a row");
    let base = rows.finish().expect("a batch");
    let update = bytes(&doc! {"updatedFields": {"a": 7, "b": 2}});
    let changes = [RowChanges {
        patches: vec![&update],
        later: false,
    }];
    let patched = Updates(table.fields.clone()).apply(&base, &changes).expect("rows");
    let found = document(&table.fields, &patched.rows, 0, &kinds(&table));
    assert_eq!(
        found,
        r#"{"_id":{"$numberLong":"1"},"a":{"$numberLong":"7"},"a":"second","b":{"$numberLong":"2"}}"#
    );
}

#[test]
fn documents_of_many_names_are_json() {
    let wide: Document = (0..45).map(|i| (format!("k{i}"), Bson::Int32(i))).collect();
    let samples: Vec<Document> = (0..20)
        .map(|i| doc! {"_id": i, "m": wide.clone(), "s": {"_id": i, "x": 1}})
        .collect();
    let table = table(Documents::Fixed, &samples);
    let found = kinds(&table);
    assert_eq!(found[1], ("m".to_owned(), Kind::Json));
    let inner = vec![("_id".to_owned(), Kind::Long), ("x".to_owned(), Kind::Long)];
    assert_eq!(found[2], ("s".to_owned(), Kind::Struct(inner)));
}

#[test]
fn numbers_of_one_value_are_one_key() {
    let decimal = |text: &str| Bson::Decimal128(text.parse().expect("a decimal"));
    for (a, b, one) in [
        (Bson::Int32(7), Bson::Double(7.0), true),
        (Bson::Int64(7), decimal("7.00"), true),
        (decimal("7E+2"), Bson::Int32(700), true),
        (decimal("7.5"), Bson::Int32(7), false),
        (Bson::Int32(7), "7".into(), false),
        (Bson::Double(0.5), Bson::Double(0.5), true),
    ] {
        let (a, b) = (bytes(&doc! {"v": a}), bytes(&doc! {"v": b}));
        let value = |bytes| raw::field(bytes, "v").expect("a document").expect("a value");
        assert_eq!(Rows::is_one_key(value(&a), value(&b)), one);
    }
}

#[test]
fn keys_of_several_kinds_are_json() {
    let key = |samples: &[Document]| table(Documents::Fixed, samples).fields.key().clone();
    let id = bson::oid::ObjectId::from_bytes([7; 12]);
    for (samples, kind) in [
        (vec![], Kind::ObjectId),
        (vec![doc! {"_id": id}], Kind::ObjectId),
        (vec![doc! {"_id": 1}, doc! {"_id": 1_i64 << 40}], Kind::Long),
        (vec![doc! {"_id": "a"}], Kind::String),
        (vec![doc! {"_id": 1}, doc! {"_id": "a"}], Kind::Json),
        (vec![doc! {"_id": 1}, doc! {"_id": Bson::Null}], Kind::Json),
        (vec![doc! {"_id": 1.5}], Kind::Json),
        (vec![doc! {"_id": {"a": 1}}], Kind::Json),
    ] {
        assert_eq!(key(&samples), kind, "{samples:?}");
    }
}

#[test]
fn a_value_that_a_column_can_not_hold_exactly_is_left_over() {
    let decimal = |text: &str| Bson::Decimal128(text.parse().expect("a decimal"));
    for (kind, value, fits) in [
        (Kind::Long, Bson::Double(3.0), true),
        (Kind::Long, Bson::Double(-0.0), false),
        (Kind::Long, Bson::Double(3.5), false),
        (Kind::Long, Bson::Double(9_007_199_254_740_994.0), false),
        (Kind::Double, Bson::Int64(1 << 53), true),
        (Kind::Double, Bson::Int64((1 << 53) + 1), false),
        (Kind::Double, Bson::Double(f64::NAN), true),
        (Kind::Decimal(2), decimal("1.50"), true),
        (Kind::Decimal(2), decimal("1.500"), true),
        (Kind::Decimal(2), decimal("1.505"), false),
        (Kind::Decimal(2), decimal("1E+30"), true),
        (Kind::Decimal(2), decimal("1E+36"), false),
        (Kind::Decimal(2), decimal("-0"), false),
        (Kind::Decimal(2), decimal("NaN"), false),
        (Kind::Decimal(2), Bson::Int32(-7), true),
        (Kind::Date, Bson::DateTime(DateTime::from_millis(i64::MAX / 1000)), true),
        (Kind::Date, Bson::DateTime(DateTime::MAX), false),
        (
            Kind::Binary,
            Bson::Binary(bson::Binary {
                subtype: BinarySubtype::Md5,
                bytes: vec![1],
            }),
            false,
        ),
        (Kind::String, Bson::Symbol("s".into()), false),
        (
            Kind::Array(Box::new(Kind::Long)),
            Bson::Array(vec![Bson::Int32(1), Bson::Null]),
            true,
        ),
        (Kind::Array(Box::new(Kind::Long)), Bson::Array(vec!["x".into()]), false),
        (
            Kind::Struct(vec![("a".into(), Kind::Long)]),
            Bson::Document(doc! {"a": 1}),
            true,
        ),
        (
            Kind::Struct(vec![("a".into(), Kind::Long)]),
            Bson::Document(doc! {}),
            true,
        ),
        (
            Kind::Struct(vec![("a".into(), Kind::Long)]),
            Bson::Document(doc! {"a": Bson::Null}),
            false,
        ),
        (
            Kind::Struct(vec![("a".into(), Kind::Long)]),
            Bson::Document(doc! {"b": 1}),
            false,
        ),
    ] {
        let bytes = bytes(&doc! {"v": value.clone()});
        let own = raw::field(&bytes, "v").expect("a document").expect("a value");
        assert_eq!(kind.holds(own), fits, "{kind:?} {value:?}");
        let mut column = ColumnBuilder::new(&kind);
        assert_eq!(column.append(own).expect("a column"), fits);
        assert_eq!(column.len(), usize::from(fits));
        if fits && value != Bson::Double(f64::NAN) {
            let array = column.finish().expect("an array");
            let mut back = Vec::new();
            let tag = read_back(&kind, array.as_ref(), 0, &mut back)
                .expect("a value")
                .expect("no null");
            let again = Value { tag, bytes: &back };
            let mut column = ColumnBuilder::new(&kind);
            assert!(column.append(again).expect("a column"), "{kind:?} {value:?}");
            assert_eq!(&column.finish().expect("an array"), &array);
        }
    }
}

fn updated(before: Document, description: Document, later: bool) -> (Document, bool) {
    let mut node = Node::document(&bytes(&before)).expect("a document");
    let update = bytes(&description);
    let sure = Description::of(&update)
        .expect("a description")
        .apply(&mut node, later)
        .expect("an update");
    let mut out = Vec::new();
    node.write(&mut out, 0).expect("a document");
    (parsed(&out), sure)
}

#[test]
fn updates_are_applied_by_their_paths() {
    let before = || doc! {"a": {"b": [1, {"c": 2}, 3], "d": 1}, "e": 5, "1": {"0": "x"}};
    for (description, after) in [
        (
            doc! {"updatedFields": {"e": 6, "f": {"g": 1}}},
            doc! {"a": {"b": [1, {"c": 2}, 3], "d": 1}, "e": 6, "1": {"0": "x"}, "f": {"g": 1}},
        ),
        (
            doc! {"updatedFields": {"a.b.1.c": 7, "a.b.3": 4, "1.0": "y"}},
            doc! {"a": {"b": [1, {"c": 7}, 3, 4], "d": 1}, "e": 5, "1": {"0": "y"}},
        ),
        (
            doc! {"removedFields": ["a.d", "e", "a.b.1.c", "none"]},
            doc! {"a": {"b": [1, {}, 3]}, "1": {"0": "x"}},
        ),
        (
            doc! {"truncatedArrays": [{"field": "a.b", "newSize": 1}]},
            doc! {"a": {"b": [1], "d": 1}, "e": 5, "1": {"0": "x"}},
        ),
        (
            doc! {"truncatedArrays": [{"field": "a.b", "newSize": 2}], "updatedFields": {"a.b.0": 9}},
            doc! {"a": {"b": [9, {"c": 2}], "d": 1}, "e": 5, "1": {"0": "x"}},
        ),
        // A name with dots, as nothing of the path is there.
        (
            doc! {"updatedFields": {"x.y": 1}},
            doc! {"a": {"b": [1, {"c": 2}, 3], "d": 1}, "e": 5, "1": {"0": "x"}, "x.y": 1},
        ),
        (
            doc! {"updatedFields": {"a.b.x": 1}},
            doc! {"a": {"b": [1, {"c": 2}, 3], "d": 1, "b.x": 1}, "e": 5, "1": {"0": "x"}},
        ),
        // The server's word counts.
        (
            doc! {"updatedFields": {"a.d": 2}, "disambiguatedPaths": {"a.d": ["a.d"]}},
            doc! {"a": {"b": [1, {"c": 2}, 3], "d": 1}, "e": 5, "1": {"0": "x"}, "a.d": 2},
        ),
        (
            doc! {"updatedFields": {"a.b.0": 2}, "disambiguatedPaths": {"a.b.0": ["a", "b", 0]}},
            doc! {"a": {"b": [2, {"c": 2}, 3], "d": 1}, "e": 5, "1": {"0": "x"}},
        ),
    ] {
        assert_eq!(
            updated(before(), description.clone(), false),
            (after, true),
            "{description}"
        );
    }
}

#[test]
fn a_path_that_may_be_several_is_not_guessed() {
    let before = doc! {"a": {"b": 1}, "a.b": 2};
    let update = doc! {"updatedFields": {"a.b": 3}};
    assert!(!updated(before.clone(), update.clone(), false).1);
    // A row from the future may have lost what the path led to.
    for before in [before, doc! {"a": 5}, doc! {}] {
        assert!(!updated(before, update.clone(), true).1);
    }
    let update = doc! {"updatedFields": {"a.0.b": 3}};
    assert_eq!(updated(doc! {"a": []}, update, true), (doc! {"a": []}, true));
}

#[test]
fn updates_change_columns_and_what_is_left_over() {
    for policy in [Documents::Evolve, Documents::Json] {
        let samples: Vec<Document> = (0..12)
            .map(|i| doc! {"_id": i, "n": i, "s": "text", "in": {"x": i, "y": "z"}, "list": [1, 2], "Odd one": 1})
            .collect();
        let table = table(policy, &samples);
        let base = rows(&table, &samples);
        let descriptions = [
            doc! {"updatedFields": {"n": 100, "in.x": 5}},
            doc! {"updatedFields": {"n": "no number", "list.2": 3}, "removedFields": ["s"]},
            doc! {"updatedFields": {"in.y": "w", "Odd one": Bson::Null, "more": [1]}},
            doc! {"updatedFields": {"in": Bson::Null, "s": 5}, "truncatedArrays": [{"field": "list", "newSize": 0}]},
        ];
        let patches: Vec<Vec<u8>> = descriptions.iter().map(bytes).collect();
        let mut changes: Vec<RowChanges<'_>> = Vec::new();
        let mut after = samples.clone();
        for (row, document) in after.iter_mut().enumerate() {
            // None, one, or all of them one after the other.
            let own: Vec<usize> = match row {
                0 => vec![],
                11 => vec![0, 1, 2, 3],
                row => vec![row % 4],
            };
            for number in &own {
                *document = updated(document.clone(), descriptions[*number].clone(), false).0;
            }
            changes.push(RowChanges {
                patches: own.iter().map(|number| patches[*number].as_slice()).collect(),
                later: false,
            });
        }
        let patched = Updates(table.fields.clone()).apply(&base, &changes).expect("rows");
        assert!(patched.unsure.is_empty());
        assert_eq!(
            SourceTable::normal(&table.fields, &patched.rows).expect("rows"),
            SourceTable::normal(&table.fields, &rows(&table, &after)).expect("rows"),
        );
    }
}

#[test]
fn what_leaves_a_column_of_documents_is_read_at_the_source() {
    let samples: Vec<Document> = (0..12).map(|i| doc! {"_id": i, "in": {"x": i}, "n": i}).collect();
    let table = table(Documents::Evolve, &samples);
    let base = rows(&table, &samples);
    let unsure = |update: Document| {
        let update = bytes(&update);
        let mut changes: Vec<RowChanges<'_>> = Vec::new();
        for row in 0..12 {
            let patches = if row == 5 { vec![update.as_slice()] } else { vec![] };
            changes.push(RowChanges { patches, later: false });
        }
        Updates(table.fields.clone())
            .apply(&base, &changes)
            .expect("rows")
            .unsure
    };
    assert_eq!(unsure(doc! {"updatedFields": {"in.new": 1}}), [5]);
    assert_eq!(unsure(doc! {"updatedFields": {"in.x": 1}}), [0; 0]);
    assert_eq!(unsure(doc! {"updatedFields": {"in": {"new": 1}, "n": "x"}}), [0; 0]);
}

#[test]
fn what_got_a_column_later_is_the_same_in_its_normal_form() {
    let old = table(Documents::Fixed, &[doc! {"_id": 1}]);
    let documents = [
        doc! {"_id": 1, "a": 1, "b": "x", "c": Bson::Null},
        doc! {"_id": 2, "a": "no number", "b": {"z": 1, "y": 2}},
        doc! {"_id": 3},
    ];
    let new = old
        .with_fields(&[("a".into(), Kind::Long), ("b".into(), Kind::Json)])
        .expect("a table");
    assert_eq!(new.attribute_max, 4);
    let mut before = rows(&old, &documents);
    // As a file of the old columns is read.
    let mut columns = before.columns().to_vec();
    for (place, column) in new.schema.columns.iter().enumerate().skip(1).take(2) {
        columns.insert(place, arrow::array::new_null_array(&column.ty.arrow(), 3));
    }
    before = RecordBatch::try_new(new.schema().arrow(), columns).expect("rows");
    let normal = |rows: &RecordBatch| SourceTable::normal(&new.fields, rows).expect("rows");
    assert_eq!(normal(&before), normal(&rows(&new, &documents)));
    assert_eq!(normal(&before).column(3).null_count(), 1);
}

#[test]
fn a_stream_asks_for_what_is_selected() {
    let from: ResumePoint = "9.1-82AB".parse().expect("a point");
    let filter = |patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let command = Scope::new(None, String::new(), &patterns).command(&from, Bodies::Sent);
        let stages = command.get_array("pipeline").expect("a pipeline");
        let stage = stages
            .get(1)
            .and_then(|stage| stage.as_document()?.get_document("$match").ok());
        stage.map(|stage| {
            let conditions = stage.get_array("$or").expect("conditions");
            conditions[..conditions.len() - 2].to_vec()
        })
    };
    for patterns in [&[][..], &["!a.b"], &["*"], &["a*.b"], &["a.b", "*.c"]] {
        assert_eq!(filter(patterns), None, "{patterns:?}");
    }
    let both = |ns: Document, to: Document| Some(vec![Bson::Document(ns), Bson::Document(to)]);
    assert_eq!(filter(&["a.*", "!a.b"]), both(doc! {"ns.db": "a"}, doc! {"to.db": "a"}));
    assert_eq!(
        filter(&["a.b.c"]),
        both(
            doc! {"ns": {"db": "a", "coll": "b.c"}},
            doc! {"to": {"db": "a", "coll": "b.c"}}
        )
    );
    let names = doc! {"$in": [{"db": "a", "coll": "b"}, {"db": "a", "coll": "c"}]};
    assert_eq!(
        filter(&["a.c", "a.b", "a.d*"]),
        both(doc! {"ns": names.clone()}, doc! {"to": names})
    );
}

#[test]
fn a_token_tells_its_time() {
    let token = "826B081724000003F72B042C0100296E5A1004";
    assert_eq!(token_time(token), Some(ClusterTime(0x6B08_1724_0000_03F7)));
    for token in ["", "82", "82ZZ0817240000", "00"] {
        assert_eq!(token_time(token), None);
    }
    for text in [token.to_owned(), format!("{token}~82800f")] {
        let token = bytes(&super::cursor::token(&text));
        assert_eq!(super::cursor::token_text(whole(&token)), Ok(Some(text)));
    }
}

#[test]
fn bytes_that_are_no_document_end_in_an_error() {
    let table = table(Documents::Evolve, &[every_type()]);
    let document = {
        let mut document = doc! {"_id": bson::oid::ObjectId::from_bytes([7; 12])};
        document.extend(every_type());
        bytes(&document)
    };
    let update = bytes(&doc! {
        "updatedFields": {"array.1": 1, "document.a.b": {"c": 1}}, "removedFields": ["string"],
        "truncatedArrays": [{"field": "array", "newSize": 1}], "disambiguatedPaths": {"array.1": ["array", 1]},
    });
    let mut text = Vec::new();
    json::write(whole(&document), &mut text).expect("JSON");
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let transform = transform("include = \"*\"\nexclude = \"s*\"\nmask = \"a*\"\nhash = [\"d*\", \"no\", \"n*\"]");
    let mut transformer = Transformer::new(transform);
    for _ in 0..20_000 {
        let mut broken = |whole: &[u8]| {
            let mut bytes = whole.to_vec();
            for _ in 0..=random(3) {
                let place = random(bytes.len());
                match random(3) {
                    0 => bytes[place] = random(256) as u8,
                    1 => bytes.truncate(place.max(1)),
                    _ => bytes[place] ^= 1 << random(8),
                }
            }
            bytes
        };
        let (document, update, text) = (broken(&document), broken(&update), broken(&text));
        let mut rows = Rows::new(table.fields.clone(), table.schema().arrow());
        let _ = rows.append(&document);
        let _ = table.new_fields(&document);
        let _ = Sample::default().add(&document);
        let _ = transformer.document(&document);
        let _ = transformer.update(&update);
        let mut out = Vec::new();
        let _ = json::write_sorted(whole(&document), &mut out);
        let _ = json::read(&text, &mut out);
        if let (Ok(mut node), Ok(description)) = (Node::document(&document), Description::of(&update)) {
            let _ = description.apply(&mut node, false);
            out.clear();
            let _ = node.write(&mut out, 0);
        }
    }
    let _ = Arc::new(table);
}

const KEY: &str = "a key that nobody can guess";

fn rules(entry: &str) -> Rules {
    let text = format!(
        "[source]\nurl = \"mongodb://localhost\"\n[lake]\nurl = \"./lake\"\n[transform]\nkey = {KEY:?}\n\
         [[table]]\nmatch = \"*\"\n{entry}"
    );
    let config = Config::parse(&text, |_| None).expect("config");
    Rules::of(&config, Some(Arc::new(HashKey::new(KEY))), &TableId::new("d", "c"))
}

fn transform(entry: &str) -> Option<Arc<Transform>> {
    Transform::of(&TableId::new("d", "c"), rules(entry)).expect("rules")
}

fn hash(plain: &[u8]) -> String {
    HashKey::new(KEY).hex(plain, &mut [0; HASH_DIGITS]).to_owned()
}

/// A document as its transformer makes it.
fn transformed(transformer: &mut Transformer, document: &Document) -> Document {
    parsed(transformer.document(&bytes(document)).expect("a document"))
}

#[test]
fn numbers_that_are_equal_have_one_text() {
    let decimal = |text: &str| Bson::Decimal128(text.parse().expect("a decimal"));
    let cases = [
        (
            "5",
            vec![
                Bson::Int32(5),
                Bson::Int64(5),
                Bson::Double(5.0),
                decimal("5"),
                decimal("5.00"),
                decimal("0.5E+1"),
            ],
        ),
        (
            "0",
            vec![
                Bson::Int32(0),
                Bson::Double(0.0),
                Bson::Double(-0.0),
                decimal("-0"),
                decimal("0E+10"),
                decimal("0.00"),
            ],
        ),
        (
            "-0.25",
            vec![Bson::Double(-0.25), decimal("-0.25"), decimal("-2.500E-1")],
        ),
        ("1200", vec![Bson::Int64(1200), Bson::Double(1200.0), decimal("12E+2")]),
        (
            "-9223372036854775808",
            vec![Bson::Int64(i64::MIN), Bson::Double(i64::MIN as f64)],
        ),
        ("9007199254740993", vec![Bson::Int64((1 << 53) + 1)]),
        ("0.1", vec![decimal("0.1"), decimal("0.10")]),
        // What a double is, not what it was meant to be.
        (
            "0.1000000000000000055511151231257827021181583404541015625",
            vec![Bson::Double(0.1)],
        ),
        (
            "1.000000000931322574615478515625",
            vec![
                Bson::Double(1.0 + 2_f64.powi(-30)),
                decimal("1.000000000931322574615478515625"),
            ],
        ),
        (
            "NaN",
            vec![
                Bson::Double(f64::NAN),
                Bson::Double(-f64::NAN),
                decimal("NaN"),
                decimal("-NaN"),
            ],
        ),
        ("Infinity", vec![Bson::Double(f64::INFINITY), decimal("Infinity")]),
        ("-Infinity", vec![Bson::Double(f64::NEG_INFINITY), decimal("-Infinity")]),
    ];
    let text = |value: &Bson| {
        let bytes = bytes(&doc! {"v": value.clone()});
        let mut text = Vec::new();
        number::write(
            raw::field(&bytes, "v").expect("a document").expect("a value"),
            &mut text,
        )
        .expect("a number");
        String::from_utf8(text).expect("text")
    };
    for (expected, values) in cases {
        for value in values {
            assert_eq!(text(&value), expected, "{value:?}");
        }
    }
    // All digits, as another program has them.
    let least = text(&Bson::Double(5e-324));
    assert_eq!((least.len(), &least[..8], &least[1070..]), (1076, "0.000000", "265625"));
    assert_eq!(text(&Bson::Double(1e300)), format!("{:.0}", 1e300));
    assert_eq!(text(&decimal("-1E+6111")), format!("-1{}", "0".repeat(6111)));
    assert_eq!(text(&decimal("1E-6176")), format!("0.{}1", "0".repeat(6175)));
}

#[test]
fn values_are_hashed_by_their_texts() {
    let uuid = bson::Binary {
        subtype: BinarySubtype::Uuid,
        bytes: (0..16).collect(),
    };
    let generic = bson::Binary {
        subtype: BinarySubtype::Generic,
        bytes: vec![0, 255],
    };
    let md5 = bson::Binary {
        subtype: BinarySubtype::Md5,
        bytes: vec![1],
    };
    let nested = doc! {"b": [1_i64, 2.5, "x", Bson::Null, true], "a": {"z": "q\"", "y": "1.50".parse::<Decimal128>().expect("a decimal")}};
    let other = doc! {"a": {"y": 1.5, "z": "q\""}, "b": [1.0, 2.5, "x", Bson::Null, true]};
    let nested_text = &br#"{"a":{"y":1.5,"z":"q\""},"b":[1,2.5,"x",null,true]}"#[..];
    let cases: Vec<(Bson, &[u8])> = vec![
        ("å b".into(), "å b".as_bytes()),
        ("".into(), b""),
        (Bson::Int32(-7), b"-7"),
        (Bson::Double(-7.0), b"-7"),
        (true.into(), b"true"),
        (
            Bson::DateTime(DateTime::from_millis(-1)),
            b"1969-12-31T23:59:59.999000Z",
        ),
        (
            Bson::DateTime(DateTime::from_millis(1_709_208_000_120)),
            b"2024-02-29T12:00:00.120000Z",
        ),
        (
            Bson::ObjectId(bson::oid::ObjectId::from_bytes([0xab; 12])),
            b"abababababababababababab",
        ),
        (Bson::Binary(uuid), b"00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (Bson::Binary(generic), b"\0\xff"),
        (Bson::Binary(md5), br#"{"$binary":{"base64":"AQ==","subType":"05"}}"#),
        (Bson::Document(nested), nested_text),
        (Bson::Document(other), nested_text),
        (Bson::Array(vec![]), b"[]"),
        (Bson::Undefined, br#"{"$undefined":true}"#),
        (Bson::MinKey, br#"{"$minKey":1}"#),
    ];
    let mut transformer = Transformer::new(transform("hash = \"v\""));
    for (value, plain) in cases {
        let found = transformed(&mut transformer, &doc! {"_id": 1, "v": value.clone()});
        assert_eq!(found, doc! {"_id": 1, "v": hash(plain)}, "{value:?}");
    }
    // Past what the years of timestamps reach.
    let far = transformed(&mut transformer, &doc! {"v": DateTime::MAX});
    assert_eq!(far, doc! {"v": hash(b"292278994-08-17T07:12:55.807000Z")});
    let null = doc! {"v": Bson::Null};
    assert_eq!(transformed(&mut transformer, &null), null);
}

const RULES: &str = "exclude = [\"SSN\", \"raw_*\"]\nhash = [\"email\", \"tags\"]\nmask = { name = \"***\" }";

/// What was planted, of several types, with and without a place in a column.
fn people() -> Vec<Document> {
    let row = |i: i32| {
        let mut row = doc! {
            "_id": i, "ssn": "planted", "email": format!("planted-{i}"), "tags": ["planted", i],
            "name": {"first": "planted", "last": "x"}, "plain": {"a": i, "b": "y"}, "raw_1": {"x": "planted"},
        };
        match i % 4 {
            1 => row.extend(doc! {"email": {"planted": [1]}, "name": 5, "tags": Bson::Null, "odd name": 1}),
            2 => row.extend(doc! {"email": 7, "plain": "planted?", "Raw_2": 1, "SSN": ["planted"]}),
            3 => row = doc! {"_id": i, "email.x": "planted", "name.y": "planted", "raw_1.z": "planted", "plain.q": 1},
            _ => {}
        }
        row
    };
    (0..12).map(row).collect()
}

fn transformed_table(documents: Documents, sample: &[Document]) -> (SourceTable, Vec<Document>) {
    let transform = transform(RULES);
    let mut transformer = Transformer::new(transform.clone());
    let made: Vec<Document> = sample
        .iter()
        .map(|document| transformed(&mut transformer, document))
        .collect();
    (table(documents, &made).with_transform(transform), made)
}

#[test]
fn fields_are_left_out_hashed_and_masked_wherever_they_end_up() {
    for policy in [Documents::Evolve, Documents::Fixed, Documents::Json] {
        let (table, made) = transformed_table(policy, &people());
        let batch = rows(&table, &made);
        let shown = format!("{batch:?}");
        assert_eq!(
            shown.matches("planted").count(),
            shown.matches("planted?").count(),
            "{shown}"
        );
        assert!(shown.contains("planted?"), "{shown}");
        if policy == Documents::Json {
            continue;
        }
        let string = |name: &str| (name.to_owned(), Kind::String);
        let columns = kinds(&table);
        for name in ["email", "tags", "name"] {
            assert!(columns.contains(&string(name)), "{columns:?}");
        }
        assert!(
            !columns
                .iter()
                .any(|(name, _)| name.to_lowercase().starts_with("raw") || name == "ssn")
        );
        assert_eq!(
            table.origin().form.as_ref(),
            table.transform.as_ref().map(|transform| transform.form())
        );
    }
    let (_, made) = transformed_table(Documents::Evolve, &people());
    assert_eq!(
        made[1],
        doc! {
            "_id": 1, "email": hash(br#"{"planted":[1]}"#), "tags": Bson::Null, "name": "***", "plain": {"a": 1, "b": "y"},
            "odd name": 1,
        }
    );
    assert_eq!(
        made[3],
        doc! {"_id": 3, "email.x": hash(b"planted"), "name.y": "***", "plain.q": 1}
    );
    // A second field of the name is another value to hide.
    let mut transformer = Transformer::new(transform("exclude = \"a\""));
    assert_eq!(
        parsed(transformer.document(&twice(5, "second")).expect("a document")),
        doc! {"_id": 1}
    );
}

#[test]
fn an_update_tells_the_lake_what_it_may_know() {
    let secret = hash(b"planted");
    // What comes, what is left, and whether the document has to be read.
    let cases = [
        (
            doc! {"updatedFields": {"plain.a": 1, "b": 2}},
            doc! {"updatedFields": {"plain.a": 1, "b": 2}},
            false,
        ),
        (
            doc! {"updatedFields": {"ssn": "planted", "raw_x.1.b": "planted", "b": 1}, "removedFields": ["SSN.a", "c"]},
            doc! {"updatedFields": {"b": 1}, "removedFields": ["c"]},
            false,
        ),
        (
            doc! {"updatedFields": {"email": "planted", "name": ["planted"], "tags": Bson::Null}},
            doc! {"updatedFields": {"email": &secret, "name": "***", "tags": Bson::Null}},
            false,
        ),
        (
            doc! {"removedFields": ["email", "name", "a.b"], "truncatedArrays": [{"field": "list", "newSize": 1}]},
            doc! {"removedFields": ["email", "name", "a.b"], "truncatedArrays": [{"field": "list", "newSize": 1}]},
            false,
        ),
        (
            doc! {"updatedFields": {"email.a": "planted", "b": 1}},
            doc! {"updatedFields": {"b": 1}},
            true,
        ),
        (doc! {"removedFields": ["email.a"]}, doc! {"removedFields": []}, true),
        (
            doc! {"truncatedArrays": [{"field": "tags", "newSize": 1}, {"field": "name", "newSize": 1}, {"field": "ssn", "newSize": 1}]},
            doc! {"truncatedArrays": []},
            true,
        ),
        (
            doc! {"truncatedArrays": [{"field": "name", "newSize": 1}], "updatedFields": {"b": 1}},
            doc! {"truncatedArrays": [], "updatedFields": {"b": 1}},
            false,
        ),
        // Whether it is a name with a dot, an old server does not say.
        (
            doc! {"updatedFields": {"name.a": "planted"}},
            doc! {"updatedFields": {}},
            true,
        ),
        (
            doc! {"updatedFields": {"name.a": "planted", "b": 1}, "disambiguatedPaths": {}},
            doc! {"updatedFields": {"b": 1}, "disambiguatedPaths": {}},
            false,
        ),
        (
            doc! {"updatedFields": {"name.a": "planted", "email.b": "planted"},
            "disambiguatedPaths": {"name.a": ["name.a"], "email.b": ["email.b"], "ssn.planted": ["ssn.planted"]}},
            doc! {"updatedFields": {"name.a": "***", "email.b": &secret},
            "disambiguatedPaths": {"name.a": ["name.a"], "email.b": ["email.b"]}},
            false,
        ),
        (
            doc! {"updatedFields": {"name.0": "planted", "email.0": "planted"},
            "disambiguatedPaths": {"name.0": ["name", "0"], "email.0": ["email", 0]}},
            doc! {"updatedFields": {}, "disambiguatedPaths": {"name.0": ["name", "0"], "email.0": ["email", 0]}},
            true,
        ),
    ];
    let mut transformer = Transformer::new(transform(RULES));
    for (description, expected, unsure) in cases {
        let own = bytes(&description);
        let update = transformer.update(&own).expect("an update");
        assert_eq!(parsed(update.description), expected, "{description}");
        assert_eq!((update.unsure, update.idle), (unsure, false), "{description}");
    }
    for description in [
        doc! {"updatedFields": {"ssn.a.b": "planted", "raw_1": 1}, "removedFields": ["raw_2"]},
        doc! {"truncatedArrays": [{"field": "name", "newSize": 1}], "updatedFields": {"name.0": 1}, "disambiguatedPaths": {}},
    ] {
        let own = bytes(&description);
        let update = transformer.update(&own).expect("an update");
        assert!(update.idle && !update.unsure, "{description}");
    }
}

/// A row that is changed by what is left of an update is the row of the changed document.
#[test]
fn rows_are_changed_as_if_their_documents_were_copied_anew() {
    let descriptions = [
        doc! {"updatedFields": {"email": "planted anew", "plain.a": 5}},
        doc! {"updatedFields": {"email": Bson::Null, "name": {"x": "planted"}, "ssn": 5}},
        doc! {"removedFields": ["email", "ssn", "raw_1.x"], "updatedFields": {"tags": "planted", "plain": 1}},
        doc! {"updatedFields": {"email": 5.0, "raw_9": "planted", "name": Bson::Null, "more": [1]}},
        doc! {"updatedFields": {"name.first": "planted", "email": 1}, "disambiguatedPaths": {}},
        doc! {"updatedFields": {"name.x": "planted", "odd name": 2},
        "disambiguatedPaths": {"name.x": ["name.x"]}},
    ];
    for policy in [Documents::Evolve, Documents::Json] {
        let people = people();
        let (table, made) = transformed_table(policy, &people);
        let base = rows(&table, &made);
        let mut transformer = Transformer::new(table.transform.clone());
        let (mut patches, mut after) = (Vec::new(), Vec::new());
        for (row, document) in people.iter().enumerate() {
            let own: Vec<usize> = match row {
                0 => vec![0, 1, 2, 3],
                row => vec![row % descriptions.len()],
            };
            // Its path leads nowhere in documents that have no such field.
            let own = own
                .into_iter()
                .filter(|number| *number != 4 || document.get_document("name").is_ok());
            let mut document = document.clone();
            let mut updates = Vec::new();
            for number in own {
                let update = bytes(&descriptions[number]);
                let update = transformer.update(&update).expect("an update");
                assert!(!update.unsure && !update.idle);
                updates.push(update.description.to_vec());
                document = updated(document, descriptions[number].clone(), false).0;
            }
            patches.push(updates);
            after.push(transformed(&mut transformer, &document));
        }
        let changes: Vec<RowChanges<'_>> = patches
            .iter()
            .map(|updates| RowChanges {
                patches: updates.iter().map(Vec::as_slice).collect(),
                later: false,
            })
            .collect();
        let patched = Updates(table.fields.clone()).apply(&base, &changes).expect("rows");
        assert!(patched.unsure.is_empty(), "{policy:?} {:?}", patched.unsure);
        assert_eq!(
            SourceTable::normal(&table.fields, &patched.rows).expect("rows"),
            SourceTable::normal(&table.fields, &rows(&table, &after)).expect("rows"),
            "{policy:?}"
        );
    }
}

#[test]
fn rules_of_documents_are_refused_or_mean_a_copy() {
    for (entry, what) in [
        ("exclude = \"_I?\"", "excluded"),
        ("include = \"name\"", "excluded"),
        ("hash = \"*\"", "hashed"),
        ("mask = \"_id\"", "masked"),
    ] {
        let refusal = Transform::of(&TableId::new("d", "c"), rules(entry)).expect_err(entry);
        let reason = format!("its column _id is {what}, but is part of its key");
        assert!(refusal.reason.contains(&reason), "{entry}: {}", refusal.reason);
    }
    assert!(transform("include = [\"*\", \"a\"]\nexclude = []").is_none());
    let form = |entry: &str| transform(entry).map(|transform| transform.form().clone());
    let before = form(RULES);
    let text = serde_json::to_string(&before).expect("JSON");
    assert_eq!(before, serde_json::from_str(&text).expect("a form"));
    for (entry, reason) in [
        (RULES, None),
        (
            "hash = [\"TAGS\", \"email\"]\nexclude = [\"raw_*\", \"ssn\", \"ssn\"]\nmask = { Name = \"***\" }",
            None,
        ),
        ("", Some("changed: exclude, hash, mask")),
        ("include = [\"_*\", \"a\"]", Some("changed: include, exclude")),
        (
            "exclude = [\"ssn\", \"raw_*\"]\nhash = [\"email\", \"tags\"]\nmask = { name = \"?\" }",
            Some("changed: mask"),
        ),
    ] {
        let found = rules(entry).reason_to_copy_documents(before.as_ref());
        assert_eq!(found.is_some(), reason.is_some(), "{entry}: {found:?}");
        assert!(
            found.unwrap_or_default().contains(reason.unwrap_or_default()),
            "{entry}"
        );
    }
    assert!(rules(RULES).reason_to_copy_documents(None).is_some());
    assert_eq!(rules("").reason_to_copy_documents(None), None);
    let other_key = |entry: &str| {
        let text = format!(
            "[source]\nurl = \"mongodb://h\"\n[lake]\nurl = \"./l\"\n[transform]\nkey = \"quite another key\"\n[[table]]\nmatch = \"*\"\n{entry}"
        );
        let config = Config::parse(&text, |_| None).expect("config");
        Rules::of(
            &config,
            Some(Arc::new(HashKey::new("quite another key"))),
            &TableId::new("d", "c"),
        )
    };
    let found = other_key(RULES).reason_to_copy_documents(before.as_ref());
    assert!(found.expect("a reason").contains("another key"));
    assert_eq!(
        other_key("exclude = \"a\"").reason_to_copy_documents(form("exclude = \"A\"").as_ref()),
        None
    );
}
