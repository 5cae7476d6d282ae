//! Text forms of the built-in geometric types.

use super::DecodeError;
use super::numeric::write_float8;
use super::wire::Reader;

pub(super) fn write_point(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "point");
    write_points(&mut reader, 1, out)?;
    reader.finish()
}

pub(super) fn write_lseg(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "lseg");
    out.push('[');
    write_points(&mut reader, 2, out)?;
    out.push(']');
    reader.finish()
}

pub(super) fn write_box(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "box");
    write_points(&mut reader, 2, out)?;
    reader.finish()
}

pub(super) fn write_path(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "path");
    let (open, close) = match reader.u8()? {
        0 => ('[', ']'),
        _ => ('(', ')'),
    };
    let count = reader.count(16)?;
    out.push(open);
    write_points(&mut reader, count, out)?;
    out.push(close);
    reader.finish()
}

pub(super) fn write_polygon(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "polygon");
    let count = reader.count(16)?;
    out.push('(');
    write_points(&mut reader, count, out)?;
    out.push(')');
    reader.finish()
}

pub(super) fn write_line(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "line");
    out.push('{');
    write_float8(reader.f64()?, out)?;
    out.push(',');
    write_float8(reader.f64()?, out)?;
    out.push(',');
    write_float8(reader.f64()?, out)?;
    out.push('}');
    reader.finish()
}

pub(super) fn write_circle(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "circle");
    out.push('<');
    write_points(&mut reader, 1, out)?;
    out.push(',');
    write_float8(reader.f64()?, out)?;
    out.push('>');
    reader.finish()
}

/// `(x,y),(x,y)`
fn write_points(reader: &mut Reader<'_>, count: usize, out: &mut String) -> Result<(), DecodeError> {
    for i in 0..count {
        out.push_str(if i == 0 { "(" } else { ",(" });
        write_float8(reader.f64()?, out)?;
        out.push(',');
        write_float8(reader.f64()?, out)?;
        out.push(')');
    }
    Ok(())
}
