//! Fields, and what becomes of them.

#![allow(clippy::unwrap_used)]

use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::util::display::array_value_to_string;

use super::fields::*;
use super::*;

fn codec(name: &str, typmod: i32, ndims: i32) -> Codec {
    codec_with(name, typmod, ndims, OPTIONS.infinity)
}

/// The value of a field, as Arrow shows it; the message if it has none.
fn decode(codec: &Codec, hex: &str) -> String {
    let mut builder = codec.builder();
    match builder.append(&bytes(hex)) {
        Ok(()) => {
            let array = finish(codec, &mut builder);
            if array.is_null(0) {
                return "null".to_owned();
            }
            // Arrow shows a named zone only with its time zone database.
            let array = match array.as_primitive_opt::<TimestampMicrosecondType>() {
                Some(times) => Arc::new(times.clone().with_timezone_opt(None::<&str>)),
                None => array,
            };
            array_value_to_string(&array, 0).unwrap()
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn fields_become_the_values_that_postgres_prints() {
    for (name, typmod, ndims, hex, value) in FIELDS {
        assert_eq!(&decode(&codec(name, *typmod, *ndims), hex), value, "{name} {hex}");
    }
}

#[test]
fn truncated_fields_and_fields_with_a_rest_never_panic() {
    for (name, typmod, ndims, hex, _) in FIELDS {
        let codec = codec(name, *typmod, *ndims);
        let mut builder = codec.builder();
        let field = bytes(hex);
        for len in 0..field.len() {
            let _ = builder.append(&field[..len]);
        }
        finish(&codec, &mut builder);

        // Text, bytes and documents have no length of their own.
        let open = matches!(
            codec.kind(),
            Kind::Text | Kind::Versioned | Kind::Bytea | Kind::Geometry
        );
        if !open {
            for len in 0..field.len() {
                assert!(builder.append(&field[..len]).is_err(), "{name} {hex} to {len}");
            }
            let rest = [field.as_slice(), &[0]].concat();
            assert!(builder.append(&rest).is_err(), "{name} {hex} and 00");
            assert!(builder.is_empty());
        }
    }
}

#[test]
fn random_and_damaged_fields_leave_a_valid_array() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    for (name, typmod, ndims, hex, _) in FIELDS {
        for infinity in [Infinity::Null, Infinity::Clamp, Infinity::Error] {
            let codec = codec_with(name, *typmod, *ndims, infinity);
            let field = bytes(hex);
            let mut builder = codec.builder();
            let mut len = 0;
            for round in 0..600 {
                let damaged = match round % 4 {
                    0 => (0..random(40)).map(|_| random(256) as u8).collect(),
                    1 => field[..random(field.len() + 1)].to_vec(),
                    _ => {
                        let mut damaged = field.clone();
                        for _ in 0..=random(3) {
                            let at = random(damaged.len().max(1));
                            let odd = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
                            if let Some(byte) = damaged.get_mut(at) {
                                *byte = odd;
                            }
                        }
                        damaged
                    }
                };
                let (held, replaced) = (builder.bytes(), builder.replaced());
                if random(8) == 0 {
                    builder.append_null();
                    len += 1;
                } else if builder.append(&damaged).is_ok() {
                    len += 1;
                } else {
                    assert_eq!((builder.bytes(), builder.replaced()), (held, replaced));
                }
                assert_eq!(builder.len(), len);
            }
            finish(&codec, &mut builder);
        }
    }
}

#[test]
fn infinities_follow_the_policy_and_are_counted() {
    let clamp = [
        ("date", -1, "7fffffff", "9999-12-31"),
        ("date", -1, "80000000", "0001-01-01"),
        ("timestamp", -1, "7fffffffffffffff", "9999-12-31T23:59:59.999999"),
        ("timestamptz", -1, "8000000000000000", "0001-01-01T00:00:00"),
        // 294247-01-10 04:00:54.775808, one past what i64 holds since 1970
        ("timestamp", -1, "7ffca2fec4c82000", "9999-12-31T23:59:59.999999"),
        ("numeric", 655366, "00000000d0000020", "99999999.99"),
        ("numeric", 655366, "00000000f0000020", "-99999999.99"),
        ("numeric", 655366, "00000000c0000000", "null"),
    ];
    for (name, typmod, hex, clamped) in clamp {
        assert_eq!(decode(&codec(name, typmod, 0), hex), clamped, "{name}");
        assert_eq!(decode(&codec_with(name, typmod, 0, Infinity::Null), hex), "null");
        let refused = decode(&codec_with(name, typmod, 0, Infinity::Error), hex);
        assert!(refused.starts_with("expected a finite "), "{refused}");

        let codec = codec(name, typmod, 0);
        let mut builder = codec.builder();
        builder.append(&bytes(hex)).unwrap();
        builder.append_null();
        assert_eq!(builder.replaced(), 1);
        finish(&codec, &mut builder);
    }
}

#[test]
fn elements_and_counts_before_a_malformed_one_are_taken_back() {
    let codec = catalog().resolve(50_013, -1, 0, &OPTIONS).unwrap();
    let mut builder = codec.builder();
    // {days: [infinity, 2000-01-01], n: 1}
    let good = bytes(
        "00000002 0000c35c 00000024 00000001 00000000 00002718 00000002 00000001 \
         00000004 7fffffff 00000004 00000000 00000017 00000004 00000001",
    );
    builder.append(&good).unwrap();
    let (held, replaced) = (builder.bytes(), builder.replaced());
    assert_eq!(replaced, 1);

    let mut bad = good.clone();
    bad.pop();
    builder.append(&bad).unwrap_err();
    assert_eq!((builder.len(), builder.bytes(), builder.replaced()), (1, held, 1));

    builder.append(&good).unwrap();
    let array = finish(&codec, &mut builder);
    let shown = "{days: [9999-12-31, 2000-01-01], n: 1}";
    assert_eq!(array_value_to_string(&array, 0).unwrap(), shown);
    assert_eq!(array_value_to_string(&array, 1).unwrap(), shown);
}

#[test]
fn fields_that_are_not_the_columns_are_refused_without_their_value() {
    #[rustfmt::skip] // one field a line
    let refused = [
        ("int4", -1, 0, "0001", "expected 4 bytes of int4, found 2"),
        ("bool", -1, 0, "02", "expected 0 or 1 as bool, found 0x02"),
        ("text", -1, 0, "61ff", "expected text to be UTF-8, found an invalid sequence at byte 1"),
        ("jsonb", -1, 0, "027b7d", "expected version 1 of jsonb or jsonpath, found 2"),
        ("numeric", -1, 0, "00010000000000002710", "expected a base-10000 digit of numeric, found 10000"),
        ("numeric", 655366, 0, "00010002000000000001", "expected a numeric that fits decimal(10,2), found one that does not"),
        ("numeric", 655366, 0, "0001ffff000000030001", "expected a numeric that fits decimal(10,2), found one that does not"),
        ("numeric", 655366, 0, "00017fff000000000001", "expected a numeric that fits decimal(10,2), found one that does not"),
        ("time", -1, 0, "000000141dd76001", "expected a time between 00:00:00 and 24:00:00, found one outside"),
        ("inet", -1, 0, "0221000401020304", "expected a mask of up to 32 bits, found 33"),
        ("_int4", -1, 1, "00000001000000000000001900000000", "expected array elements of type 23, found type 25"),
        ("_int4", -1, 1, "00000001000000000000001740000000ffffffff", "expected a count that fits 4 bytes of array, found 1073741824"),
        ("_int4", -1, 1, "0000000200000000000000170000000200000003000000010000000200000004000000010000000400000002", "array with 2 dimensions in a column declared one-dimensional"),
        ("pair", -1, 0, "00000001", "expected a record of 2 fields, found 1"),
        ("pair", -1, 0, "0000000200000019", "expected type 23 in field \"a\" of a record, found type 25"),
        ("tsquery", -1, 0, "000000020100006100 0100006100", "expected the nodes of tsquery to make one tree, found a part or several"),
        ("tsquery", -1, 0, "000000020202 0100006100", "expected the nodes of tsquery to make one tree, found a part or several"),
    ];
    for (name, typmod, ndims, hex, message) in refused {
        assert_eq!(decode(&codec(name, typmod, ndims), hex), message, "{name} {hex}");
    }
}

#[test]
fn a_deep_tsquery_is_written_without_recursion() {
    const DEPTH: usize = 100_000;
    let mut field = (DEPTH as i32 + 1).to_be_bytes().to_vec();
    field.extend([2, 1].repeat(DEPTH));
    field.extend([1, 0, 0, b'a', 0]);
    let codec = codec("tsquery", -1, 0);
    let mut builder = codec.builder();
    builder.append(&field).unwrap();
    assert_eq!(builder.bytes(), DEPTH + 3 + 8 + 1);
}

#[test]
fn floats_are_laid_out_as_postgres_does() {
    let float8 = [
        (0.0, "0"),
        (-0.0, "-0"),
        (f64::NAN, "NaN"),
        (f64::NEG_INFINITY, "-Infinity"),
        (1e15, "1e+15"),
        (123456789012345.0, "123456789012345"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e+308"),
        // Of two as near, the even one; Rust rounds up.
        (2.980_232_238_769_531_2e-8, "2.9802322387695312e-08"),
    ];
    for (value, text) in float8 {
        let mut out = String::new();
        numeric::write_float8(value, &mut out).unwrap();
        assert_eq!(out, text);
    }
    let float4 = [
        (1e6, "1e+06"),
        (123456.0, "123456"),
        (0.00024414062, "0.00024414062"),
        (1e-45, "1e-45"),
    ];
    for (value, text) in float4 {
        let mut out = String::new();
        numeric::write_float4(value, &mut out).unwrap();
        assert_eq!(out, text);
    }
}

#[test]
fn dates_before_christ_and_beyond_four_digits_print_as_text() {
    let written = |days: i32| {
        let mut out = String::new();
        datetime::write_date(&days.to_be_bytes(), &mut out).unwrap();
        out
    };
    assert_eq!(written(0), "2000-01-01");
    assert_eq!(written(-730_120), "0001-12-31 BC");
    assert_eq!(written(-2_451_507), "4713-01-01 BC");
    assert_eq!(written(2_145_031_948), "5874897-12-31");
    assert_eq!(written(i32::MAX), "infinity");

    let mut out = String::new();
    let micros = bytes("ff1fe2ffc58ea460");
    datetime::write_timestamp(&micros, "+00", &mut out).unwrap();
    assert_eq!(out, "0001-12-31 23:59:59.1+00 BC");
}

#[test]
fn types_the_lake_cannot_hold_are_named() {
    let refused = [
        (1033, "type \"aclitem\" has no binary form"),
        (1034, "type \"aclitem\" has no binary form"),
        (2249, "type \"record\" is not supported"),
        (50_008, "type \"public.vector\" is not supported"),
        (50_010, "type \"public.loop\" is made of too many types"),
        (50_011, "type \"public.bare\" has no attributes"),
        (4_000_000, "type with oid 4000000 is not in the catalogue"),
    ];
    for (oid, reason) in refused {
        assert_eq!(catalog().resolve(oid, -1, 0, &OPTIONS).unwrap_err(), reason);
    }
    let money = TypeOptions {
        money_scale: 20,
        ..OPTIONS
    };
    catalog().resolve(oid("money"), -1, 0, &money).unwrap_err();
}

#[test]
fn numeric_is_a_decimal_only_if_its_typmod_fits_one() {
    let typmod = |precision: i32, scale: i32| (precision << 16 | scale & 0x7ff) + 4;
    let check = |typmod, expect: LakeType| {
        assert_eq!(codec("numeric", typmod, 0).lake_type(), &expect);
    };
    let decimal = |precision, scale| LakeType::Decimal { precision, scale };
    check(typmod(10, 2), decimal(10, 2));
    check(typmod(38, 38), decimal(38, 38));
    check(typmod(1, 0), decimal(1, 0));
    check(typmod(39, 0), LakeType::String);
    check(typmod(5, -2), LakeType::String);
    check(typmod(2, 5), LakeType::String);
    check(-1, LakeType::String);
    check(i32::MAX, LakeType::String);
    check(i32::MIN, LakeType::String);
}

#[test]
fn keys_are_types_whose_equality_is_ours() {
    let keys = "bool int2 int4 int8 oid text bpchar char uuid date time timestamp timestamptz \
        numeric bytea mood inet cidr macaddr macaddr8 money varbit float4 float8 pg_lsn xid8";
    for name in keys.split_whitespace() {
        assert!(codec(name, -1, 0).key_capable(), "{name}");
    }
    let others = "interval timetz citext jsonb xml _int4 int4range int4multirange pair point box \
        tsvector tsquery hstore vector geometry tid pg_snapshot";
    for name in others.split_whitespace() {
        assert!(!codec(name, -1, 0).key_capable(), "{name}");
    }
}

#[test]
fn catalogue_rows_of_another_shape_are_refused() {
    let row = vec![Some("23".to_owned())];
    let error = TypeCatalog::from_rows(std::slice::from_ref(&row), &[]).unwrap_err();
    assert_eq!(error.to_string(), "expected 15 columns of pg_type, found 1");
    let error = TypeCatalog::from_rows(&[], &[row]).unwrap_err();
    assert_eq!(error.to_string(), "expected 5 columns of pg_attribute, found 1");
}
