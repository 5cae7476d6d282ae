//! Values as servers wrote them into their logs and results: `fixtures/binlog`.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;

use super::super::binlog::tests::{FILES, mutated, read, visit_rows};
use super::super::binlog::{Datum, Op};
use super::*;

/// A table of one column beside its key, and the column's values in the order of their rows.
struct Column {
    table: String,
    column_type: String,
    charset: Option<String>,
    printed: Vec<Option<String>>,
    protocol: Vec<Option<Vec<u8>>>,
}

/// Files with a table per type, and the server they are of.
const TYPES: &[(&str, Flavor)] = &[
    ("mysql-types", Flavor::MySql),
    ("mariadb-types", Flavor::MariaDb),
    ("mariadb-11-types", Flavor::MariaDb),
];

fn columns(name: &str) -> Vec<Column> {
    let list: Vec<HashMap<String, Value>> = serde_json::from_slice(&read(&format!("{name}.json"))).expect("a list");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |value: &Value| -> Vec<_> { value.as_array().into_iter().flatten().map(text).collect() };
    list.iter()
        .map(|column| Column {
            table: text(&column["table"]).expect("a name"),
            column_type: text(&column["type"]).expect("a type"),
            charset: text(&column["charset"]),
            printed: texts(&column["printed"]),
            protocol: texts(&column["protocol"])
                .into_iter()
                .map(|value| value.map(|hex| unhex(&hex)))
                .collect(),
        })
        .collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hexadecimal");
    digits.map(byte).collect()
}

/// Charsets that no table from a server is needed for, beside those of types without one.
fn codec(column: &Column, flavor: Flavor, zero_dates: ZeroDates) -> Option<Codec> {
    let charsets = Charsets::default();
    if !column.charset.as_deref().is_none_or(|charset| charsets.has(charset)) {
        return None;
    }
    let options = TypeOptions { zero_dates };
    let charset = column.charset.as_deref();
    Some(Codec::resolve(&column.column_type, charset, flavor, &options, &charsets).expect("a supported type"))
}

/// The layout and the values that a file's inserts into a table have in its second column.
fn logged(name: &str, table: &str) -> (Layout, Vec<Option<Vec<u8>>>) {
    let (mut layout, mut values) = (None, Vec::new());
    let file = read(&format!("{name}.bin"));
    visit_rows(&file, |map, op, row| {
        if map.name == table && op == Op::Insert {
            layout = Some(map.columns[1].layout);
            values.push(match row.after[1] {
                Datum::Value(value) => Some(value.to_vec()),
                _ => None,
            });
        }
    });
    (layout.expect("a table of the file"), values)
}

fn build<'a>(
    codec: &Codec,
    values: impl IntoIterator<Item = Option<&'a [u8]>>,
    append: impl Fn(&mut ColumnBuilder, &[u8]) -> Result<(), DecodeError>,
) -> (ArrayRef, Vec<bool>) {
    let (mut builder, mut refused) = (codec.builder(), Vec::new());
    for value in values {
        let outcome = value.map(|value| append(&mut builder, value));
        refused.push(matches!(outcome, Some(Err(_))));
        if !matches!(outcome, Some(Ok(()))) {
            builder.append_null();
        }
    }
    (builder.finish(), refused)
}

#[test]
fn row_images_and_results_give_the_same_array() {
    for (name, flavor) in TYPES {
        for column in columns(name) {
            let (layout, values) = logged(name, &column.table);
            for zero_dates in [ZeroDates::Null, ZeroDates::Clamp, ZeroDates::Error] {
                let Some(codec) = codec(&column, *flavor, zero_dates) else {
                    continue;
                };
                let context = format!("{name}: {} {:?} under {zero_dates:?}", column.table, column.column_type);
                assert!(codec.fits(layout, None), "{context}: {layout:?}");
                let images = build(&codec, values.iter().map(Option::as_deref), |builder, value| {
                    builder.append_binlog(layout, value)
                });
                let results = build(
                    &codec,
                    column.protocol.iter().map(Option::as_deref),
                    |builder, value| builder.append_protocol(value),
                );
                assert_eq!(images, results, "{context}");
                assert_eq!(images.0.len(), column.protocol.len(), "{context}");
                assert_eq!(images.0.data_type(), &codec.lake_type().arrow(), "{context}");
                let zero_date = |text: &String| {
                    text.starts_with("0000-")
                        || text.contains("-00")
                        || text.contains("02-31")
                        || text.contains("2023-02-29")
                };
                let moment = matches!(
                    codec.lake_type(),
                    LakeType::Date | LakeType::Timestamp | LakeType::TimestampNtz
                );
                for (row, printed) in column.printed.iter().enumerate() {
                    let zero = moment && printed.as_ref().is_some_and(zero_date);
                    let is_null = printed.is_none() || (zero && zero_dates != ZeroDates::Clamp);
                    assert_eq!(images.0.is_null(row), is_null, "{context}: {printed:?}");
                    assert_eq!(
                        images.1[row],
                        zero && zero_dates == ZeroDates::Error,
                        "{context}: {printed:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn values_are_what_the_server_prints() {
    let mut compared = 0;
    for (name, flavor) in TYPES {
        for column in columns(name) {
            let Some(codec) = codec(&column, *flavor, ZeroDates::Null) else {
                continue;
            };
            let (layout, values) = logged(name, &column.table);
            let (array, _) = build(&codec, values.iter().map(Option::as_deref), |builder, value| {
                builder.append_binlog(layout, value)
            });
            let formatter = ArrayFormatter::try_new(&array, &FormatOptions::new()).expect("a formatter");
            for (row, printed) in column
                .printed
                .iter()
                .enumerate()
                .filter(|(row, _)| !array.is_null(*row))
            {
                let (own, printed) = (formatter.value(row).to_string(), printed.as_deref().unwrap_or_default());
                let (own, printed) = match codec.lake_type() {
                    LakeType::String if column.column_type.contains("zerofill") => (own, unpadded(printed)),
                    LakeType::String => (own, printed.to_owned()),
                    LakeType::Short | LakeType::Integer | LakeType::Long | LakeType::Decimal { .. } => {
                        (unpadded(&own), unpadded(printed))
                    }
                    LakeType::Date => (own, printed.to_owned()),
                    LakeType::Timestamp | LakeType::TimestampNtz => {
                        let whole = own.trim_end_matches('Z').replace('T', " ");
                        (trimmed(&whole), trimmed(printed))
                    }
                    LakeType::Binary if codec.node.kind != Kind::Geometry => (own.to_uppercase(), printed.to_owned()),
                    LakeType::Float | LakeType::Double => {
                        let same = |text: &str| text.parse::<f64>().expect("a number").to_bits();
                        let printed = match codec.lake_type() {
                            LakeType::Float => f64::from(own.parse::<f32>().expect("a number")).to_string(),
                            _ => own,
                        };
                        let shown = column.printed[row].as_deref().unwrap_or_default();
                        (same(&printed).to_string(), same(shown).to_string())
                    }
                    _ => continue,
                };
                assert_eq!(own, printed, "{name}: {} {:?}", column.table, column.column_type);
                compared += 1;
            }
        }
    }
    assert!(compared > 700, "{compared}");
}

/// Without the zeros of ZEROFILL and YEAR.
fn unpadded(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    let rest = digits.trim_start_matches('0');
    let zero = if rest.is_empty() || rest.starts_with('.') {
        "0"
    } else {
        ""
    };
    format!("{sign}{zero}{rest}")
}

/// Without zeros after the second.
fn trimmed(moment: &str) -> String {
    match moment.contains('.') {
        true => moment.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => moment.to_owned(),
    }
}

/// Bytes that no server writes are errors, whatever they are taken for, and
/// what they claim to be long is not reserved.
#[test]
fn any_bytes_are_a_value_or_an_error() {
    let mut codecs: HashMap<String, Vec<Codec>> = HashMap::new();
    for (name, flavor) in TYPES {
        for column in columns(name) {
            let codec = codec(&column, *flavor, ZeroDates::Clamp);
            codecs.entry(column.table).or_default().extend(codec);
        }
    }
    let mut values = 0_u64;
    for name in FILES {
        let file = read(&format!("{name}.bin"));
        for seed in 0..300 {
            visit_rows(&mutated(&file, seed), |map, _, row| {
                for image in [row.before, row.after] {
                    for (column, datum) in map.columns.iter().zip(image) {
                        values += 1;
                        match datum {
                            Datum::Value(bytes) => {
                                for codec in codecs.get(&map.name).into_iter().flatten() {
                                    let mut builder = codec.builder();
                                    let logged = builder.append_binlog(column.layout, bytes);
                                    let result = builder.append_protocol(bytes);
                                    let taken = [logged.is_ok(), result.is_ok()].iter().filter(|ok| **ok).count();
                                    assert_eq!(builder.finish().len(), taken);
                                }
                                let _ = json_text(bytes, &mut String::new());
                            }
                            Datum::JsonDiff(diff) => {
                                let document = r#"{"a": {"b": [1, 2, 3]}, "c": "text"}"#;
                                let _ = apply_json_diffs(document, diff);
                            }
                            Datum::Null | Datum::Absent => {}
                        }
                    }
                }
            });
        }
    }
    assert!(values > 100_000, "{values}");
}
