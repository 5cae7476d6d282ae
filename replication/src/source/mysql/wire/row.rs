//! A row of the binary protocol: where each cell lies. Pure: no I/O.
//!
//! Spec: MySQL source, "Binary Protocol Resultset Row".

use super::super::binlog::column_type as kind;
use super::packet::{Column, Reader, malformed};
use crate::error::{Error, Result};

/// How a cell's length is written.
#[derive(Clone, Copy)]
enum Length {
    Fixed(usize),
    /// One byte in front: dates and times leave out what is zero.
    Byte,
    Encoded,
}

fn length(kind: u8) -> Option<Length> {
    match kind {
        kind::TINY => Some(Length::Fixed(1)),
        kind::SHORT | kind::YEAR => Some(Length::Fixed(2)),
        kind::LONG | kind::INT24 | kind::FLOAT => Some(Length::Fixed(4)),
        kind::LONGLONG | kind::DOUBLE => Some(Length::Fixed(8)),
        kind::DATE | kind::DATETIME | kind::TIMESTAMP | kind::TIME => Some(Length::Byte),
        kind::VARCHAR | kind::BIT | kind::VECTOR..=kind::GEOMETRY | kind::DECIMAL => Some(Length::Encoded),
        _ => None,
    }
}

/// The cells of a row that [`super::Wire::next_row`] returned, in the order of
/// the columns: numbers little-endian in their full size; dates and times
/// without their length byte, so 0, 4, 7, 8, 11 or 12 bytes; all else without
/// its length.
pub fn cells<'a>(columns: &'a [Column], row: &'a [u8]) -> Cells<'a> {
    // The bitmap's first two bits are reserved.
    let bitmap_bytes = (columns.len() + 9) / 8;
    let (nulls, values) = row.split_at_checked(bitmap_bytes).unwrap_or((&[], &[]));
    Cells {
        columns: columns.iter(),
        bit: 2,
        nulls,
        values: Reader(values),
    }
}

pub struct Cells<'a> {
    columns: std::slice::Iter<'a, Column>,
    bit: usize,
    nulls: &'a [u8],
    values: Reader<'a>,
}

impl<'a> Cells<'a> {
    fn cell(&mut self, column: &Column) -> Result<Option<&'a [u8]>> {
        let bit = self.bit;
        self.bit += 1;
        let byte = self.nulls.get(bit / 8).ok_or_else(|| malformed("row"))?;
        if byte & (1 << (bit % 8)) != 0 {
            return Ok(None);
        }
        let length = length(column.kind)
            .ok_or_else(|| Error::operator(format!("column {} has the unknown type {}", column.name, column.kind)))?;
        let bytes = match length {
            Length::Fixed(len) => self.values.bytes(len),
            Length::Byte => self.values.u8().and_then(|len| self.values.bytes(len.into())),
            Length::Encoded => self.values.lenenc_bytes(),
        };
        bytes.map(Some).ok_or_else(|| malformed("row"))
    }
}

impl<'a> Iterator for Cells<'a> {
    type Item = Result<Option<&'a [u8]>>;

    fn next(&mut self) -> Option<Self::Item> {
        let column = self.columns.next()?;
        Some(self.cell(column))
    }
}

/// Columns of these types.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn columns(kinds: &[u8]) -> Vec<Column> {
    let column = |kind: &u8| Column {
        name: "c".to_owned(),
        kind: *kind,
        flags: 0,
        charset: 63,
        length: 0,
        decimals: 0,
    };
    kinds.iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_lie_where_their_types_say() {
        let columns = columns(&[
            kind::LONG,
            kind::VAR_STRING,
            kind::DATE,
            kind::TINY,
            kind::LONGLONG,
            kind::TIME,
        ]);
        let row = b"\x20\x01\0\0\0\x02ab\x04\xe8\x07\x01\x02\x01\0\0\0\0\0\0\0\x00";
        let found: Result<Vec<_>> = cells(&columns, row).collect();
        let found = found.expect("row");
        assert_eq!(found[0], Some(&[1, 0, 0, 0][..]));
        assert_eq!(found[1], Some(&b"ab"[..]));
        assert_eq!(found[2], Some(&[0xe8, 7, 1, 2][..]));
        assert_eq!(found[3], None);
        assert_eq!(found[4], Some(&[1, 0, 0, 0, 0, 0, 0, 0][..]));
        assert_eq!(found[5], Some(&[][..]));
        for len in 0..row.len() {
            assert!(cells(&columns, &row[..len]).any(|cell| cell.is_err()), "{len}");
        }
    }

    #[test]
    fn the_bitmap_starts_at_its_third_bit() {
        let columns = columns(&[kind::TINY; 7]);
        // Seven columns need nine bits.
        let row = b"\x04\x01\x01\x02\x03\x04\x05";
        let found: Result<Vec<_>> = cells(&columns, row).collect();
        let found = found.expect("row");
        assert_eq!((found[0], found[6]), (None, None));
        assert_eq!(found[5], Some(&[5][..]));
    }
}
