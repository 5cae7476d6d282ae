//! Bytes and texts are those of a MySQL 9.7 server.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] << 4 | pair[1]).expect("two digits make a byte");
    digits.chunks_exact(2).map(byte).collect()
}

fn print(bytes: &[u8]) -> Result<String, DecodeError> {
    let mut out = String::from("before ");
    let result = json_text(bytes, &mut out);
    let text = out.strip_prefix("before ").expect("what was there stays").to_owned();
    assert!(result.is_ok() || text.is_empty(), "an error leaves nothing");
    result.map(|()| text)
}

/// The text of `hex`; an error for each part of it.
fn check(hex: &str, expect: &str) {
    let document = bytes(hex);
    assert_eq!(print(&document).as_deref(), Ok(expect));
    for length in 1..document.len() {
        assert!(print(&document[..length]).is_err(), "{length} bytes of {expect}");
    }
}

#[test]
fn scalars_print_as_the_server_prints_them() {
    check("", "null");
    check("0400", "null");
    check("0203000d00 040000 040100 040200", "[null, true, false]");
    check(
        "0206003600 050080 071600 071a00 091e00 092600 0a2e00 ffff0000 00000080 ffffffff00000000 0000000000000080 \
         ffffffffffffffff",
        "[-32768, 65535, -2147483648, 4294967295, -9223372036854775808, 18446744073709551615]",
    );
    check(
        "0c0f 61225c2f00080c0a0d091f7f20c3a9",
        "\"a\\\"\\\\/\\u0000\\b\\f\\n\\r\\t\\u001f\u{7f} é\"",
    );
}

#[test]
fn doubles_print_with_the_digits_and_notation_of_the_server() {
    let cases = [
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (0.1, "0.1"),
        (-1.5e-15, "-0.0000000000000015"),
        (1e-16, "1e-16"),
        (1e14, "100000000000000.0"),
        (1e15, "1e15"),
        (123_456_789_012_345.6, "123456789012345.6"),
        (1_234_567_890_123_456.7, "1234567890123456.8"),
        (12_345_678_901_234_567.0, "1.2345678901234568e16"),
        (1e20, "1e20"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e308"),
        // Half way between two numbers of as many digits: the even one.
        (2f64.powi(-25), "0.000000029802322387695312"),
        (1_093_918_169_141_201.0 / 8.0, "136739771142650.12"),
    ];
    for (number, expect) in cases {
        let mut document = vec![json_type::DOUBLE];
        document.extend(f64::to_le_bytes(number));
        assert_eq!(print(&document).as_deref(), Ok(expect));
    }
    assert!(print(&bytes("0b 000000000000f07f")).is_err());
}

#[test]
fn objects_and_arrays_print_their_elements() {
    check("0000000400", "{}");
    check("0200000400", "[]");
    check(
        "0002001e00 12000100 13000100 050100 021400 61 62 02000a00 050100 050200",
        r#"{"a": 1, "b": [1, 2]}"#,
    );
    check("03 01000000 0d000000 07 fcffffff", "[-4]");
    check(
        "01 01000000 14000000 13000000 0100 08 ffffffff 6b",
        r#"{"k": 4294967295}"#,
    );
}

#[test]
fn opaque_values_print_by_their_column_type() {
    check(
        "0204003c00 0f1000 0f1e00 0f2700 0f2f00 f60c1604 7ffffffef204c72dfe0b f6070a01 8000000005 f6060900 7ffffff8 \
         f60b140b 80000000000000000c",
        "[-1234567890.0500, 0.5, -7, 0.00000000012]",
    );
    check("02010010000f0700f6070b028000000000", "[0.00]");
    check(
        "0204003800 0f1000 0f1a00 0f2400 0f2e00 0a08 00000000001e9519 0b08 00000005a1cbffff 0b08 0400008310000000 \
         0c08 c0d40119761f9519",
        r#"["2015-01-15", "-837:59:59.000000", "01:02:03.000004", "2015-01-15 23:24:25.120000"]"#,
    );
    check(
        &format!("02030050000f0d000f11000f14000f0200ff0f01050f3a{}", "61".repeat(58)),
        &format!(
            r#"["base64:type15:AP8=", "base64:type15:BQ==", "base64:type15:{}\nYQ=="]"#,
            "YWFh".repeat(19)
        ),
    );
}

#[test]
fn nesting_ends_at_the_limit() {
    let nested = |levels: u8| {
        let mut document = vec![json_type::SMALL_ARRAY];
        for level in 1..levels {
            let size = 7 * u16::from(levels - level) + 4;
            document.extend([1, 0]);
            document.extend(size.to_le_bytes());
            document.extend([json_type::SMALL_ARRAY, 7, 0]);
        }
        document.extend([0, 0, 4, 0]);
        document
    };
    assert_eq!(print(&nested(100)), Ok("[".repeat(100) + &"]".repeat(100)));
    assert!(print(&nested(101)).is_err());
}

#[test]
fn values_that_overlap_are_refused() {
    // Two elements at one place: level upon level of them would print without bound.
    assert!(print(&bytes("0202000f00 0c0a00 0c0a00 04 61616161")).is_err());
    // An offset into the entries.
    assert!(print(&bytes("0201000700 020000")).is_err());
}

/// An operation, a path and a document in hex.
type Change<'a> = (u8, &'a str, &'a str);

fn diffs(list: &[Change<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (operation, path, value) in list {
        out.push(*operation);
        let value = bytes(value);
        let parts: &[&[u8]] = match operation {
            2 => &[path.as_bytes()],
            _ => &[path.as_bytes(), &value],
        };
        for part in parts {
            out.push(u8::try_from(part.len()).expect("short parts"));
            out.extend_from_slice(part);
        }
    }
    out
}

const ONE: &str = "050100";

#[test]
fn differences_change_what_they_name_alone() {
    let cases: &[(&str, &[Change<'_>], &str)] = &[
        (r#"{"a": 1e20}"#, &[], r#"{"a": 1e20}"#),
        (
            r#"{"a": 10.50, "b": [1, {"c": "]"}]}"#,
            &[(0, "$.b[1].c", ONE)],
            r#"{"a": 10.50, "b": [1, {"c": 1}]}"#,
        ),
        (
            r#"{"b": 0, "aa": 0}"#,
            &[(1, "$.a", ONE), (1, "$.c", ONE), (1, "$.ab", ONE)],
            r#"{"a": 1, "b": 0, "c": 1, "aa": 0, "ab": 1}"#,
        ),
        (r#"{}"#, &[(1, r#"$."""#, ONE)], r#"{"": 1}"#),
        (
            "[5, 6]",
            &[(1, "$[0]", ONE), (1, "$[2]", ONE), (1, "$[9]", ONE)],
            "[1, 5, 1, 6, 1]",
        ),
        ("[[], 6]", &[(1, "$[0][0]", ONE), (0, "$[last]", ONE)], "[[1], 1]"),
        (
            "[5, 6, 7]",
            &[(2, "$[last-1]", ""), (2, "$[1]", ""), (2, "$[0]", "")],
            "[]",
        ),
        (
            r#"{"a": [1], "b": {"c": {}}, "d": "\\\""}"#,
            &[(2, "$.a", ""), (2, "$.d", ""), (2, "$.b.c", "")],
            r#"{"b": {}}"#,
        ),
        (
            r#"{"x \"y": {"é.[]": 0, "\u0001": 0}}"#,
            &[(0, r#"$."x \"y"."é.[]""#, ONE), (2, r#"$."x \"y"."\u0001""#, "")],
            r#"{"x \"y": {"é.[]": 1}}"#,
        ),
    ];
    for (text, list, expect) in cases {
        assert_eq!(apply_json_diffs(text, &diffs(list)).as_deref(), Ok(*expect), "{text}");
    }
}

#[test]
fn differences_that_do_not_fit_are_refused() {
    let cases: &[(&str, &[Change<'_>])] = &[
        ("[1]", &[(0, "$[1]", ONE)]),
        ("[1]", &[(2, "$[last-1]", "")]),
        ("[1]", &[(0, "$.a", ONE)]),
        (r#"{"a": 1}"#, &[(1, "$.a", ONE)]),
        (r#"{"a": 1}"#, &[(2, "$.b", "")]),
        (r#"{"a": 1}"#, &[(1, "$.a.b", ONE)]),
        (r#"{"a": 1}"#, &[(0, "$.*", ONE)]),
        (r#"{"a": 1"#, &[(0, "$.b", ONE)]),
        (r#"{"a":1}"#, &[(0, "$.a", ONE)]),
        ("1", &[(2, "$", "")]),
        ("[1]", &[(3, "$[0]", ONE)]),
        ("[1]", &[(0, "a", ONE)]),
    ];
    for (text, list) in cases {
        assert!(apply_json_diffs(text, &diffs(list)).is_err(), "{text}");
    }
    let whole = diffs(&[(0, "$[0]", ONE)]);
    for length in 1..whole.len() {
        assert!(apply_json_diffs("[1]", &whole[..length]).is_err(), "{length} bytes");
    }
}
