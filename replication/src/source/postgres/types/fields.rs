//! Field bytes as PostgreSQL 17 sends them, for tests and fuzzers.

#![allow(clippy::unwrap_used)]

use arrow::array::{Array, ArrayRef};

use super::*;

pub const OPTIONS: TypeOptions = TypeOptions {
    infinity: Infinity::Clamp,
    money_scale: 2,
};

/// Every type below once, with a field of it and the value: name, typmod,
/// ndims, bytes, value.
#[rustfmt::skip] // one field a line
pub const FIELDS: &[(&str, i32, i32, &str, &str)] = &[
    ("bool", -1, 0, "01", "true"),
    ("bool", -1, 0, "00", "false"),
    ("int2", -1, 0, "8000", "-32768"),
    ("int4", -1, 0, "80000000", "-2147483648"),
    ("int8", -1, 0, "7fffffffffffffff", "9223372036854775807"),
    ("oid", -1, 0, "ffffffff", "4294967295"),
    ("regclass", -1, 0, "000004eb", "1259"),
    ("xid8", -1, 0, "ffffffffffffffff", "18446744073709551615"),
    ("float4", -1, 0, "3fc00000", "1.5"),
    ("float8", -1, 0, "bff8000000000000", "-1.5"),
    ("money", -1, 0, "fffffffffffffffb", "-0.05"),
    ("money", -1, 0, "8000000000000000", "-92233720368547758.08"),
    ("numeric", 655366, 0, "000200004000000200011388", "-1.50"),
    ("numeric", 655366, 0, "0000000000000002", "0.00"),
    ("numeric", 655366, 0, "0003000140000002270f270f26ac", "-99999999.99"),
    ("numeric", 655366, 0, "0001ffff000000020064", "0.01"),
    ("numeric", 655366, 0, "00010001000000020001", "10000.00"),
    ("numeric", -1, 0, "000200000000000300011388", "1.500"),
    ("numeric", -1, 0, "0000000000000003", "0.000"),
    ("numeric", -1, 0, "0001fffe0000000800c8", "0.00000200"),
    ("numeric", -1, 0, "00010001000000000001", "10000"),
    ("numeric", -1, 0, "00000000c0000000", "NaN"),
    ("numeric", -1, 0, "00000000d0000020", "Infinity"),
    ("numeric", -1, 0, "00000000f0000020", "-Infinity"),
    ("text", -1, 0, "c3a9f09f9880", "é😀"),
    ("text", -1, 0, "", ""),
    ("bpchar", 9, 0, "6162202020", "ab   "),
    ("char", -1, 0, "61", "a"),
    ("char", -1, 0, "00", ""),
    ("char", -1, 0, "e9", "\\351"),
    ("mood", -1, 0, "736164", "sad"),
    ("citext", -1, 0, "6142", "aB"),
    ("jsonb", -1, 0, "017b2261223a20312e35307d", "{\"a\": 1.50}"),
    ("bytea", -1, 0, "00ff10", "00ff10"),
    ("geometry", -1, 0, "0101000000", "0101000000"),
    ("uuid", -1, 0, "a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("date", -1, 0, "ffffffff", "1999-12-31"),
    ("date", -1, 0, "fff4dbf9", "0001-01-01"),
    ("timestamp", -1, 0, "0002b582c47fb120", "2024-02-29T12:00:00.500"),
    ("timestamptz", -1, 0, "fffca2fec4c82000", "1970-01-01T00:00:00"),
    ("time", -1, 0, "000000141dd76000", "24:00:00"),
    ("time", -1, 0, "0000000a8bda1c64", "12:34:56.0001"),
    ("timetz", -1, 0, "000000141dd75fffffffb2a8", "23:59:59.999999+05:30"),
    ("timetz", -1, 0, "0000000a0eebb00000000007", "12:00:00-00:00:07"),
    ("timetz", -1, 0, "000000141dd7600000007080", "24:00:00-08"),
    ("interval", -1, 0, "00000000000000000000000000000000", "PT0S"),
    ("interval", -1, 0, "fffffffc9368357800000003fffffff2", "P-1Y-2M3DT-4H-5M-6.789S"),
    ("interval", -1, 0, "ffffffffffffffff0000000000000000", "PT-0.000001S"),
    ("interval", -1, 0, "80000000000000008000000080000000", "-infinity"),
    ("inet", -1, 0, "0220000401020304", "1.2.3.4"),
    ("inet", -1, 0, "0218000401020304", "1.2.3.4/24"),
    ("inet", -1, 0, "0380001000000000000000000000ffff01020304", "::ffff:1.2.3.4"),
    ("inet", -1, 0, "0380001000000000000000000000000000000001", "::1"),
    ("inet", -1, 0, "0340001000010000000000020000000000000003", "1:0:0:2::3/64"),
    ("cidr", -1, 0, "0220010401020304", "1.2.3.4/32"),
    ("macaddr", -1, 0, "08002b010203", "08:00:2b:01:02:03"),
    ("macaddr8", -1, 0, "08002b01020304ff", "08:00:2b:01:02:03:04:ff"),
    ("varbit", -1, 0, "00000009aa80", "101010101"),
    ("pg_lsn", -1, 0, "00000016b374d848", "16/B374D848"),
    ("pg_snapshot", -1, 0, "00000002000000000000000a0000000000000014000000000000000a000000000000000e", "10:20:10,14"),
    ("tid", -1, 0, "ffffffff0001", "(4294967295,1)"),
    ("point", -1, 0, "3ff0000000000000c435af1d78b58c40", "(1,-4e+20)"),
    ("lseg", -1, 0, "3ff00000000000004000000000000000400c000000000000c435af1d78b58c40", "[(1,2),(3.5,-4e+20)]"),
    ("path", -1, 0, "00000000013ff00000000000004000000000000000", "[(1,2)]"),
    ("path", -1, 0, "01000000013ff00000000000004000000000000000", "((1,2))"),
    ("box", -1, 0, "400800000000000040100000000000003ff00000000000004000000000000000", "(3,4),(1,2)"),
    ("polygon", -1, 0, "000000013ff00000000000004000000000000000", "((1,2))"),
    ("line", -1, 0, "3ff000000000000040000000000000004008000000000000", "{1,2,3}"),
    ("circle", -1, 0, "3ff000000000000040000000000000004008000000000000", "<(1,2),3>"),
    ("tsvector", -1, 0, "0000000361000004c0018002400300046200000069742773000000", "'a':1A,2B,3C,4 'b' 'it''s'"),
    ("tsquery", -1, 0, "00000000", ""),
    ("tsquery", -1, 0, "0000000502020203010000630001000062000100006100", "'a' & ( 'b' | 'c' )"),
    ("tsquery", -1, 0, "000000050204000102040001010000630001000062000100006100", "'a' <-> ( 'b' <-> 'c' )"),
    ("tsquery", -1, 0, "000000040201020201090162000100006100", "!( 'a' & 'b':*AD )"),
    ("int4range", -1, 0, "0200000004000000010000000400000005", "[1,5)"),
    ("int4range", -1, 0, "01", "empty"),
    ("int4range", -1, 0, "18", "(,)"),
    ("textrange", -1, 0, "020000000361225c0000000762202c28295b5d", "[\"a\"\"\\\\\",\"b ,()[]\")"),
    ("int4multirange", -1, 0, "00000002000000110200000004000000010000000400000002000000110200000004000000050000000400000009", "{[1,2),[5,9)}"),
    ("_int4", -1, 1, "000000010000000100000017000000030000000100000004000000010000000400000002ffffffff", "[1, 2, ]"),
    ("_int4", -1, 0, "000000000000000000000017", "[]"),
    ("_int4", -1, 1, "000000010000000000000017000000020000000500000004000000070000000400000008", "[7, 8]"),
    ("_int4", -1, 2, "0000000200000000000000170000000200000003000000010000000200000004000000010000000400000002", "[[1],[2]]"),
    ("_text", -1, 2, "0000000200000001000000190000000100000001000000020000000100000003612209ffffffff", "[[\"a\\\"\\t\",null]]"),
    ("_bool", -1, 2, "000000010000000000000010000000020000000100000001010000000100", "[true,false]"),
    ("_float8", -1, 2, "0000000100000000000002bd000000020000000100000008430c6bf526340000000000087ff8000000000000", "[1e+15,\"NaN\"]"),
    ("grid", -1, 0, "000000020000000000000017000000020000000100000002000000010000000400000001000000040000000200000004000000030000000400000004", "[[1,2],[3,4]]"),
    ("pair", -1, 0, "000000020000001700000004000000010000001900000003612062", "{a: 1, B b: a b}"),
    ("pair", -1, 0, "0000000200000017ffffffff0000001900000000", "{a: , B b: }"),
    ("_pair", -1, 2, "00000001000000000000c35000000001000000010000001b000000020000001700000004000000010000001900000003612c22", "[\"(1,\\\"a,\\\"\\\"\\\")\"]"),
    ("hstore", -1, 0, "000000020000000161000000013100000003622063ffffffff", "{a: 1, b c: }"),
    ("vector", -1, 0, "000200003f80000040200000", "[1.0, 2.5]"),
];

pub fn catalog() -> TypeCatalog {
    // oid, schema, name, typtype, typelem, typbasetype, typndims, typrelid, bound, extension
    type Type = (u32, &'static str, &'static str, &'static str, [u32; 5], &'static str);
    const BASE: [u32; 5] = [0; 5];
    let mut types: Vec<Type> = vec![
        (23, "pg_catalog", "int4", "b", BASE, ""),
        (25, "pg_catalog", "text", "b", BASE, ""),
        (16, "pg_catalog", "bool", "b", BASE, ""),
        (701, "pg_catalog", "float8", "b", BASE, ""),
        (1033, "pg_catalog", "aclitem", "b", BASE, ""),
        (705, "pg_catalog", "unknown", "p", BASE, ""),
        (2249, "pg_catalog", "record", "p", BASE, ""),
        (1007, "pg_catalog", "_int4", "b", [23, 0, 0, 0, 0], ""),
        (1009, "pg_catalog", "_text", "b", [25, 0, 0, 0, 0], ""),
        (1000, "pg_catalog", "_bool", "b", [16, 0, 0, 0, 0], ""),
        (1022, "pg_catalog", "_float8", "b", [701, 0, 0, 0, 0], ""),
        (1034, "pg_catalog", "_aclitem", "b", [1033, 0, 0, 0, 0], ""),
        (3904, "pg_catalog", "int4range", "r", [0, 0, 0, 0, 23], ""),
        (4451, "pg_catalog", "int4multirange", "m", [0, 0, 0, 0, 23], ""),
        (50_000, "public", "pair", "c", [0, 0, 0, 49_999, 0], ""),
        (50_001, "public", "_pair", "b", [50_000, 0, 0, 0, 0], ""),
        (50_002, "public", "textrange", "r", [0, 0, 0, 0, 25], ""),
        (50_003, "public", "grid", "d", [0, 1007, 2, 0, 0], ""),
        (50_004, "public", "mood", "e", BASE, ""),
        (50_005, "public", "citext", "b", BASE, "citext"),
        (50_006, "public", "hstore", "b", BASE, "hstore"),
        (50_007, "public", "vector", "b", BASE, "vector"),
        (50_008, "public", "vector", "b", BASE, "another"),
        (50_009, "public", "geometry", "b", BASE, "postgis"),
        (50_010, "public", "loop", "d", [0, 50_010, 0, 0, 0], ""),
        (50_011, "public", "bare", "c", [0, 0, 0, 49_998, 0], ""),
        (50_012, "public", "_dates", "b", [10_008, 0, 0, 0, 0], ""),
        (50_013, "public", "dated", "c", [0, 0, 0, 49_997, 0], ""),
    ];
    let names = "int2 int8 oid regclass xid8 float4 money numeric date timestamp timestamptz bpchar \
        char jsonb bytea uuid time timetz interval inet cidr macaddr macaddr8 varbit pg_lsn \
        pg_snapshot tid point lseg path box polygon line circle tsvector tsquery xml";
    for (oid, name) in (10_000..).zip(names.split_whitespace()) {
        types.push((oid, "pg_catalog", name, "b", BASE, ""));
    }
    let rows: Vec<Vec<Option<String>>> = types
        .into_iter()
        .map(
            |(oid, schema, name, typtype, [element, base, ndims, relation, bound], extension)| {
                let has_send = if name == "aclitem" { "f" } else { "t" };
                let category = if element != 0 { "A" } else { "X" };
                vec![
                    oid.to_string(),
                    schema.to_owned(),
                    name.to_owned(),
                    typtype.to_owned(),
                    category.to_owned(),
                    "-1".to_owned(),
                    has_send.to_owned(),
                    ",".to_owned(),
                    element.to_string(),
                    base.to_string(),
                    "-1".to_owned(),
                    ndims.to_string(),
                    relation.to_string(),
                    bound.to_string(),
                    extension.to_owned(),
                ]
                .into_iter()
                .map(|cell| Some(cell).filter(|cell| !cell.is_empty()))
                .collect()
            },
        )
        .collect();
    let attributes = [
        ["49999", "a", "23", "-1", "0"],
        ["49999", "B b", "25", "-1", "0"],
        ["49997", "days", "50012", "-1", "1"],
        ["49997", "n", "23", "-1", "0"],
    ]
    .map(|row| row.map(|cell| Some(cell.to_owned())).to_vec());
    TypeCatalog::from_rows(&rows, &attributes).unwrap()
}

pub fn oid(name: &str) -> u32 {
    let catalog = catalog();
    let oids = catalog.types.iter().filter(|(_, row)| row.name == name);
    oids.map(|(oid, _)| *oid).min().unwrap()
}

pub fn codec_with(name: &str, typmod: i32, ndims: i32, infinity: Infinity) -> Codec {
    let options = TypeOptions { infinity, ..OPTIONS };
    catalog().resolve(oid(name), typmod, ndims, &options).unwrap()
}

pub fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

pub fn finish(codec: &Codec, builder: &mut ColumnBuilder) -> ArrayRef {
    let len = builder.len();
    let array = builder.finish();
    assert_eq!(array.data_type(), &codec.lake_type().arrow());
    assert_eq!(array.len(), len);
    array.to_data().validate_full().unwrap();
    assert!(builder.is_empty());
    assert_eq!(builder.replaced(), 0);
    array
}
