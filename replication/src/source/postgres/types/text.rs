//! The text form of every type, as its output function writes it.

use std::fmt::Write;

use super::wire::{Reader, boolean, fixed, utf8};
use super::{Codec, DecodeError, Kind};
use super::{datetime, geometry, nested, numeric, text_search};

/// Appends the text form of one field. On an error `out` may hold a part of it.
///
/// Calls itself only through types made of types, whose depth the catalogue bounds.
pub(super) fn write_text(codec: &Codec, bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    match codec.kind() {
        Kind::Bool => out.push(if boolean(bytes)? { 't' } else { 'f' }),
        Kind::Int2 => write!(out, "{}", i16::from_be_bytes(fixed(bytes, "int2")?))?,
        Kind::Int4 => write!(out, "{}", i32::from_be_bytes(fixed(bytes, "int4")?))?,
        Kind::Int8 => write!(out, "{}", i64::from_be_bytes(fixed(bytes, "int8")?))?,
        Kind::Oid => write!(out, "{}", u32::from_be_bytes(fixed(bytes, "oid")?))?,
        Kind::Xid8 => write!(out, "{}", u64::from_be_bytes(fixed(bytes, "xid8")?))?,
        Kind::Float4 => numeric::write_float4(f32::from_be_bytes(fixed(bytes, "float4")?), out)?,
        Kind::Float8 => numeric::write_float8(f64::from_be_bytes(fixed(bytes, "float8")?), out)?,
        Kind::Decimal { .. } | Kind::Numeric => numeric::write_numeric(bytes, out)?,
        Kind::Money { scale } => {
            numeric::write_scaled(i64::from_be_bytes(fixed(bytes, "money")?), *scale, out)?;
        }
        Kind::Bytea => {
            out.push_str("\\x");
            for byte in bytes {
                write!(out, "{byte:02x}")?;
            }
        }
        Kind::Geometry => {
            for byte in bytes {
                write!(out, "{byte:02X}")?;
            }
        }
        Kind::Date => datetime::write_date(bytes, out)?,
        Kind::Timestamp => datetime::write_timestamp(bytes, "", out)?,
        Kind::Timestamptz => datetime::write_timestamp(bytes, "+00", out)?,
        Kind::Text => out.push_str(utf8(bytes, "text")?),
        Kind::Char => write_char(bytes, out)?,
        Kind::Versioned => out.push_str(versioned(bytes)?),
        Kind::Uuid => write_uuid(bytes, out)?,
        Kind::Time => datetime::write_time(bytes, out)?,
        Kind::Timetz => datetime::write_timetz(bytes, out)?,
        Kind::Interval => datetime::write_interval(bytes, out)?,
        Kind::Inet => write_network(bytes, false, out)?,
        Kind::Cidr => write_network(bytes, true, out)?,
        Kind::Macaddr => write_macaddr(&fixed::<6>(bytes, "macaddr")?, out)?,
        Kind::Macaddr8 => write_macaddr(&fixed::<8>(bytes, "macaddr8")?, out)?,
        Kind::Bit => write_bits(bytes, out)?,
        Kind::PgLsn => {
            let lsn = u64::from_be_bytes(fixed(bytes, "pg_lsn")?);
            write!(out, "{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)?;
        }
        Kind::Snapshot => write_snapshot(bytes, out)?,
        Kind::Tid => {
            let mut reader = Reader::new(bytes, "tid");
            write!(out, "({},{})", reader.u32()?, reader.u16()?)?;
            reader.finish()?;
        }
        Kind::Point => geometry::write_point(bytes, out)?,
        Kind::Lseg => geometry::write_lseg(bytes, out)?,
        Kind::Path => geometry::write_path(bytes, out)?,
        Kind::Box => geometry::write_box(bytes, out)?,
        Kind::Polygon => geometry::write_polygon(bytes, out)?,
        Kind::Line => geometry::write_line(bytes, out)?,
        Kind::Circle => geometry::write_circle(bytes, out)?,
        Kind::TsVector => text_search::write_tsvector(bytes, out)?,
        Kind::TsQuery => text_search::write_tsquery(bytes, out)?,
        Kind::Range(bound) => nested::write_range(bound, bytes, out)?,
        Kind::Multirange(bound) => nested::write_multirange(bound, bytes, out)?,
        Kind::List(items) | Kind::JsonArray(items) => nested::write_array(items, bytes, out)?,
        Kind::Struct(attributes) => nested::write_record(attributes, bytes, out)?,
        Kind::Hstore => nested::write_hstore(bytes, out)?,
        Kind::Vector => nested::write_vector(bytes, out)?,
    }
    Ok(())
}

/// Strips the version byte that `jsonb` and `jsonpath` send first.
pub(super) fn versioned(bytes: &[u8]) -> Result<&str, DecodeError> {
    match bytes.split_first() {
        Some((1, text)) => utf8(text, "jsonb or jsonpath"),
        Some((version, _)) => Err(DecodeError::new(format!(
            "expected version 1 of jsonb or jsonpath, found {version}"
        ))),
        None => Err(DecodeError::new(
            "expected a version byte of jsonb or jsonpath, found 0 bytes",
        )),
    }
}

pub(super) fn write_uuid(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    const STARTS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

    let uuid: [u8; 16] = fixed(bytes, "uuid")?;
    let mut text = [b'-'; 36];
    for (start, byte) in STARTS.into_iter().zip(uuid) {
        let pair = text.get_mut(start..).and_then(<[u8]>::first_chunk_mut);
        if let Some([high, low]) = pair {
            *high = hex_digit(byte >> 4);
            *low = hex_digit(byte & 0x0f);
        }
    }
    out.push_str(utf8(&text, "uuid")?);
    Ok(())
}

fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => nibble.saturating_add(b'0'),
        _ => nibble.saturating_add(b'a' - 10),
    }
}

/// Bytes past ASCII need not be text in any encoding and are shown in octal,
/// as servers since PostgreSQL 16 do.
fn write_char(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    match fixed(bytes, "\"char\"")? {
        [0] => {}
        [byte] if byte.is_ascii() => out.push(byte.into()),
        [byte] => write!(out, "\\{byte:03o}")?,
    }
    Ok(())
}

fn write_macaddr(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    for (i, byte) in bytes.iter().enumerate() {
        if i > 0 {
            out.push(':');
        }
        write!(out, "{byte:02x}")?;
    }
    Ok(())
}

fn write_bits(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "bit");
    let len = reader.i32()?;
    let data = reader.take_rest();
    let len = usize::try_from(len)
        .ok()
        .filter(|len| len.div_ceil(8) == data.len())
        .ok_or_else(|| {
            DecodeError::new(format!(
                "expected a bit count for {} bytes of bit, found {len}",
                data.len()
            ))
        })?;
    let bits = data
        .iter()
        .flat_map(|byte| (0..8u8).rev().map(move |shift| byte >> shift & 1));
    out.extend(bits.take(len).map(|bit| if bit == 0 { '0' } else { '1' }));
    Ok(())
}

fn write_snapshot(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "pg_snapshot");
    let count = reader.i32()?;
    write!(out, "{}:{}:", reader.u64()?, reader.u64()?)?;
    for i in 0..count {
        if i > 0 {
            out.push(',');
        }
        write!(out, "{}", reader.u64()?)?;
    }
    reader.finish()
}

/// `inet` shows its mask unless it covers the whole address, `cidr` always.
fn write_network(bytes: &[u8], cidr: bool, out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "inet or cidr");
    let family = reader.u8()?;
    let mask = reader.u8()?;
    let _is_cidr = reader.u8()?;
    let len = reader.u8()?;
    let address = reader.take_rest();
    let whole = match (family, len) {
        // PostgreSQL's own numbers, whatever AF_INET6 is where it runs.
        (2, 4) => {
            write_ipv4(fixed(address, "an IPv4 address")?, out)?;
            32
        }
        (3, 16) => {
            write_ipv6(fixed(address, "an IPv6 address")?, out)?;
            128
        }
        _ => {
            return Err(DecodeError::new(format!(
                "expected address family 2 with 4 bytes or 3 with 16, found {family} with {len}"
            )));
        }
    };
    if mask > whole {
        return Err(DecodeError::new(format!(
            "expected a mask of up to {whole} bits, found {mask}"
        )));
    }
    if cidr || mask != whole {
        write!(out, "/{mask}")?;
    }
    Ok(())
}

fn write_ipv4(address: [u8; 4], out: &mut String) -> Result<(), DecodeError> {
    let [a, b, c, d] = address;
    write!(out, "{a}.{b}.{c}.{d}")?;
    Ok(())
}

/// As PostgreSQL's `inet_net_ntop.c`: the longest run of two or more zero
/// groups is `::`; addresses that embed IPv4 end in its dotted form.
fn write_ipv6(address: [u8; 16], out: &mut String) -> Result<(), DecodeError> {
    let [.., a, b, c, d] = address;
    let mut groups = [0u16; 8];
    for (group, pair) in groups.iter_mut().zip(address.chunks_exact(2)) {
        *group = pair.try_into().map(u16::from_be_bytes).unwrap_or(0);
    }

    let mut longest = 0..0;
    let mut run = 0..0;
    for (i, group) in groups.iter().enumerate() {
        if *group != 0 {
            continue;
        }
        let start = if run.end == i && !run.is_empty() { run.start } else { i };
        run = start..i.saturating_add(1);
        if run.len() > longest.len() {
            longest = run.clone();
        }
    }
    if longest.len() < 2 {
        longest = 0..0;
    }

    let mapped = longest == (0..5) && groups.get(5) == Some(&0xffff);
    for (i, group) in groups.iter().enumerate() {
        if longest.contains(&i) {
            if i == longest.start {
                out.push(':');
            }
            continue;
        }
        if i > 0 {
            out.push(':');
        }
        if i == 6 && (longest == (0..6) || mapped) {
            return write_ipv4([a, b, c, d], out);
        }
        write!(out, "{group:x}")?;
    }
    if longest.end == groups.len() && !longest.is_empty() {
        out.push(':');
    }
    Ok(())
}
