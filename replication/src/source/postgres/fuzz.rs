//! PostgreSQL's decoders for fuzzers: see [`crate::fuzz`].

use std::sync::OnceLock;

pub use super::wire::fuzz::endpoint;

use super::pgoutput::{self, Message, Old, Tuple};
use super::snapshot::{COPY_SIGNATURE, append_row, skip_header};
use super::types::fields::{FIELDS, bytes as unhex, codec_with, finish};
use super::types::{Codec, ColumnBuilder, Infinity};
use super::wire::fuzz as wire;
use crate::error::Error;
use crate::fuzz::Target;

pub const TARGETS: &[Target] = &[
    Target {
        name: "pgoutput",
        run: pgoutput,
        seeds: || MESSAGES.iter().map(|message| message.to_vec()).collect(),
    },
    Target {
        name: "postgres_types",
        run: types,
        seeds: fields,
    },
    Target {
        name: "postgres_copy",
        run: copy,
        seeds: copies,
    },
    Target {
        name: "certificate",
        run: wire::certificate,
        seeds: wire::certificates,
    },
];

fn pgoutput(bytes: &[u8]) {
    let tuple = |tuple: Tuple<'_>| {
        assert_eq!(tuple.iter().count(), usize::from(tuple.columns));
        assert!(tuple.len() <= bytes.len());
    };
    let streamed = pgoutput::decode_streamed(bytes).map(|(author, change)| {
        assert_eq!(pgoutput::author(bytes), Ok(Some(author)));
        change
    });
    for message in [pgoutput::decode(bytes), streamed] {
        match message {
            Ok(Message::Insert { new, .. }) => tuple(new),
            Ok(Message::Update { old, new, .. }) => {
                tuple(new);
                if let Old::Key(old) | Old::Row(old) = old {
                    tuple(old);
                }
            }
            Ok(Message::Delete { old, .. }) => tuple(old),
            _ => {}
        }
    }
}

const MESSAGES: &[&[u8]] = &[
    b"B\0\0\0\0\x01\x6b\x37\x48\0\0\0\0\0\0\0\x07\0\0\x02\xdf",
    b"C\0\0\0\0\0\x01\x6b\x37\x48\0\0\0\0\x01\x6b\x37\x78\0\0\0\0\0\0\0\x07",
    b"R\0\0\x40\x01public\0t\0d\0\x02\x01id\0\0\0\0\x17\xff\xff\xff\xff\0v\0\0\0\0\x19\xff\xff\xff\xff",
    b"I\0\0\x40\x01N\0\x03b\0\0\0\x04\0\0\0\x05nt\0\0\0\x02hi",
    b"U\0\0\x40\x01K\0\x02b\0\0\0\x04\0\0\0\x05nN\0\x02b\0\0\0\x04\0\0\0\x06u",
    b"U\0\0\x40\x01O\0\x01nN\0\x01u",
    b"D\0\0\x40\x01K\0\x01b\0\0\0\x04\0\0\0\x05",
    b"T\0\0\0\x02\0\0\0\x40\x01\0\0\x40\x02",
    b"M\0\0\0\0\0\0\0\0\0p\0\0\0\0\x01x",
    b"Y\0\0\x40\x01public\0t\0",
    b"S\0\0\x02\xdf\x01",
    b"E",
    b"c\0\0\x02\xdf\0\0\0\0\0\x01\x6b\x37\x48\0\0\0\0\x01\x6b\x37\x78\0\0\0\0\0\0\0\x07",
    b"A\0\0\x02\xdf\0\0\x02\xe1",
    b"U\0\0\x02\xe1\0\0\x40\x01K\0\x02b\0\0\0\x04\0\0\0\x05nN\0\x02b\0\0\0\x04\0\0\0\x06u",
];

/// Those of [`FIELDS`], under each policy.
fn codecs() -> &'static [Codec] {
    static ALL: OnceLock<Vec<Codec>> = OnceLock::new();
    ALL.get_or_init(|| {
        let policies = [Infinity::Null, Infinity::Clamp, Infinity::Error];
        let of = |(name, typmod, ndims, ..): &(&str, i32, i32, &str, &str)| {
            policies.map(|policy| codec_with(name, *typmod, *ndims, policy))
        };
        FIELDS.iter().flat_map(of).collect()
    })
}

/// The number of a codec, then a field.
fn types(bytes: &[u8]) {
    let Some((number, field)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let codecs = codecs();
    let codec = &codecs[usize::from(u16::from_le_bytes(*number)) % codecs.len()];
    let mut builder = codec.builder();
    builder.append_null();
    let (held, replaced) = (builder.bytes(), builder.replaced());
    match builder.append(field) {
        Ok(()) => assert_eq!(builder.len(), 2),
        Err(_) => assert_eq!(
            (builder.len(), builder.bytes(), builder.replaced()),
            (1, held, replaced)
        ),
    }
    finish(codec, &mut builder);
}

fn fields() -> Vec<Vec<u8>> {
    let number = |field: usize| ((3 * field) as u16).to_le_bytes();
    let fields = FIELDS.iter().enumerate();
    fields
        .map(|(at, (.., hex, _))| [&number(at)[..], &unhex(hex)].concat())
        .collect()
}

/// A COPY of three columns of different forms.
fn copy(bytes: &[u8]) {
    let Ok(mut body) = skip_header(bytes) else { return };
    static CODECS: OnceLock<[Codec; 3]> = OnceLock::new();
    let codecs =
        CODECS.get_or_init(|| ["int4", "text", "numeric"].map(|name| codec_with(name, -1, 0, Infinity::Error)));
    let mut columns: Vec<ColumnBuilder> = codecs.iter().map(Codec::builder).collect();
    let mut rows = 0;
    while let Ok(true) = append_row(&mut body, &mut columns, |_, _| Error::bug("a value")) {
        rows += 1;
    }
    // The columns before the one that was refused have a value more.
    assert!(columns.iter().all(|column| (rows..=rows + 1).contains(&column.len())));
}

fn copies() -> Vec<Vec<u8>> {
    let rows = b"\0\0\0\0\0\0\0\0\0\x03\0\0\0\x04\0\0\0\x05\0\0\0\x02hi\xff\xff\xff\xff\
        \0\x03\0\0\0\x04\0\0\0\x06\0\0\0\0\0\0\0\x0a\0\x01\0\0\0\0\0\0\0\x01\xff\xff";
    vec![[&COPY_SIGNATURE[..], rows].concat()]
}
