//! Row images: what rows events hold.

use std::borrow::Cow;

use super::column_type::JSON;
use super::layout::Layout;
use super::reader::Reader;
use super::table_map::TableMap;
use super::{Result, compressed, event_type};

const STATEMENT_END_FLAG: u16 = 0x01;
const PARTIAL_JSON_OPTION: u64 = 0x01;

/// Table ids of events that have no rows and only end a statement.
const DUMMY_IDS: [u64; 3] = [0x00ff_ffff, 0xffff_ffff, 0xffff_ffff_ffff];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Insert,
    Update,
    Delete,
}

/// A rows event. Its rows are walked by a [`RowReader`].
#[derive(Clone, Debug, PartialEq)]
pub struct Rows<'a> {
    pub table_id: u64,
    pub op: Op,
    /// The last rows of their statement; the next has table maps of its own.
    pub statement_end: bool,
    event: &'static str,
    compressed: bool,
    partial: bool,
    columns: usize,
    /// Which columns the images have, by bit. One of them is empty unless the
    /// event is an update.
    before: &'a [u8],
    after: &'a [u8],
    images: &'a [u8],
}

/// One column of a row image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// Without the length before it.
    Value(&'a [u8]),
    Null,
    /// Not in the image, by `binlog_row_image`. Not a value: unchanged in an
    /// update's image after, not told elsewhere.
    Absent,
    /// What changed in a JSON value, by `binlog_row_value_options`.
    JsonDiff(&'a [u8]),
}

/// A row in one slot for each column of the table. The slice of an image that
/// the change does not have is empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'r, 'd> {
    /// Of updates and deletes.
    pub before: &'r [Datum<'d>],
    /// Of inserts and updates.
    pub after: &'r [Datum<'d>],
}

impl<'a> Rows<'a> {
    pub(super) fn read(r: &mut Reader<'a>, ty: u8, short_table_id: bool) -> Result<Self> {
        use event_type::*;
        let table_id = if short_table_id {
            r.u32("a table id")?.into()
        } else {
            r.u48("a table id")?
        };
        let flags = r.u16("flags")?;
        let second_version = matches!(
            ty,
            WRITE_ROWS..=DELETE_ROWS | PARTIAL_UPDATE_ROWS | WRITE_ROWS_COMPRESSED..=DELETE_ROWS_COMPRESSED
        );
        if second_version {
            let extra = usize::from(r.u16("the length of extra data")?);
            match extra.checked_sub(2) {
                Some(extra) => r.skip(extra, "extra data")?,
                None => return Err(r.error("a length of extra data of at least 2 before")),
            }
        }
        let op = match ty {
            WRITE_ROWS_V1 | WRITE_ROWS | WRITE_ROWS_COMPRESSED_V1 | WRITE_ROWS_COMPRESSED => Op::Insert,
            DELETE_ROWS_V1 | DELETE_ROWS | DELETE_ROWS_COMPRESSED_V1 | DELETE_ROWS_COMPRESSED => Op::Delete,
            _ => Op::Update,
        };
        let columns = r.len("a column count")?;
        let bitmap = columns.div_ceil(8);
        let before = match op {
            Op::Insert => &[],
            Op::Update | Op::Delete => r.take(bitmap, "the columns of the image before")?,
        };
        let after = match op {
            Op::Delete => &[],
            Op::Insert | Op::Update => r.take(bitmap, "the columns of the image after")?,
        };
        Ok(Self {
            table_id,
            op,
            statement_end: flags & STATEMENT_END_FLAG != 0,
            event: r.event(),
            compressed: (WRITE_ROWS_COMPRESSED_V1..=DELETE_ROWS_COMPRESSED).contains(&ty),
            partial: ty == PARTIAL_UPDATE_ROWS,
            columns,
            before,
            after,
            images: r.rest(),
        })
    }

    /// Whether the event has no table and no rows: it only ends a statement.
    pub fn is_dummy(&self) -> bool {
        self.statement_end && self.images.is_empty() && DUMMY_IDS.contains(&self.table_id)
    }

    /// Bytes of the images in the event.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The images, inflated if they are compressed: for [`Self::reader`].
    pub fn data(&self) -> Result<Cow<'a, [u8]>> {
        if self.compressed {
            compressed::inflate(self.images, self.event).map(Cow::Owned)
        } else {
            Ok(Cow::Borrowed(self.images))
        }
    }

    /// Walks the rows in `data`, which is [`Self::data`]'s.
    pub fn reader<'d>(&self, table: &'d TableMap, data: &'d [u8]) -> Result<RowReader<'d>>
    where
        'a: 'd,
    {
        let r = Reader::new(data, self.event);
        if self.columns != table.columns.len() {
            return Err(r.error("as many columns as the table map has"));
        }
        let after = Present::new(self.after, self.columns);
        Ok(RowReader {
            r,
            table,
            op: self.op,
            partial: self.partial,
            present: (Present::new(self.before, self.columns), after),
            bare: self.op == Op::Insert && after.count == 0,
            before: Vec::new(),
            after: Vec::new(),
        })
    }
}

/// Which columns an image has.
#[derive(Clone, Copy, Debug)]
struct Present<'a> {
    bits: &'a [u8],
    count: usize,
}

impl<'a> Present<'a> {
    fn new(bits: &'a [u8], columns: usize) -> Self {
        let count = match columns % 8 {
            0 => bits.iter().map(|byte| byte.count_ones()).sum(),
            // The last byte's upper bits are no columns.
            rest => match bits.split_last() {
                Some((last, bits)) => {
                    let whole: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
                    whole + (last & ((1 << rest) - 1)).count_ones()
                }
                None => 0,
            },
        };
        Self {
            bits,
            count: count as usize,
        }
    }

    #[inline]
    fn has(&self, column: usize) -> bool {
        bit(self.bits, column)
    }
}

#[inline]
fn bit(bits: &[u8], i: usize) -> bool {
    bits.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1)
}

/// Walks the rows of one event.
pub struct RowReader<'d> {
    r: Reader<'d>,
    table: &'d TableMap,
    op: Op,
    partial: bool,
    present: (Present<'d>, Present<'d>),
    /// The next row is one without any column: a minimal image of `INSERT …
    /// VALUES ()`, which has no bytes.
    bare: bool,
    before: Vec<Datum<'d>>,
    after: Vec<Datum<'d>>,
}

impl<'d> RowReader<'d> {
    /// The next row, until there is none. The slots are reused by the next call.
    #[inline]
    pub fn next_row(&mut self) -> Result<Option<Row<'_, 'd>>> {
        let bare = std::mem::take(&mut self.bare);
        if self.r.is_empty() && !bare {
            return Ok(None);
        }
        let start = self.r.remaining();
        let (before, after) = self.present;
        if self.op != Op::Insert {
            image(&mut self.r, self.table, before, Diffs::None, &mut self.before)?;
        }
        if self.op != Op::Delete {
            let diffs = if self.partial {
                Diffs::read(&mut self.r, self.table.json_columns)?
            } else {
                Diffs::None
            };
            image(&mut self.r, self.table, after, diffs, &mut self.after)?;
        }
        if self.r.remaining() == start && !bare {
            return Err(self.r.error("a row of at least one column"));
        }
        Ok(Some(Row {
            before: &self.before,
            after: &self.after,
        }))
    }
}

/// Which JSON columns of the table have a diff instead of a value.
#[derive(Clone, Copy)]
enum Diffs<'d> {
    None,
    Bits(&'d [u8]),
}

impl<'d> Diffs<'d> {
    fn read(r: &mut Reader<'d>, json_columns: usize) -> Result<Self> {
        match r.lenenc("value options")? {
            0 => Ok(Self::None),
            PARTIAL_JSON_OPTION => Ok(Self::Bits(r.take(json_columns.div_ceil(8), "bits of partial values")?)),
            _ => Err(r.error("known value options before")),
        }
    }
}

#[inline]
fn image<'d>(
    r: &mut Reader<'d>,
    table: &TableMap,
    present: Present<'d>,
    diffs: Diffs<'d>,
    slots: &mut Vec<Datum<'d>>,
) -> Result<()> {
    slots.clear();
    slots.reserve(table.columns.len());
    let null_bits = r.take(present.count.div_ceil(8), "null bits")?;
    let all = present.count == table.columns.len();
    let mut ordinal = 0;
    let mut json_ordinal = 0;
    for (i, column) in table.columns.iter().enumerate() {
        let layout = column.layout;
        let mut partial = false;
        if let Diffs::Bits(bits) = diffs
            && layout.real_type() == JSON
        {
            partial = bit(bits, json_ordinal);
            json_ordinal += 1;
        }
        if !all && !present.has(i) {
            slots.push(Datum::Absent);
            continue;
        }
        let null = bit(null_bits, ordinal);
        ordinal += 1;
        slots.push(if null {
            Datum::Null
        } else {
            let value = value(r, layout)?;
            if partial {
                Datum::JsonDiff(value)
            } else {
                Datum::Value(value)
            }
        });
    }
    Ok(())
}

#[inline]
fn value<'d>(r: &mut Reader<'d>, layout: Layout) -> Result<&'d [u8]> {
    let len = match layout.prefix {
        0 => layout.size.into(),
        1 => r.u8("the length of a value")?.into(),
        2 => r.u16("the length of a value")?.into(),
        n => r.uint(n.into(), "the length of a value")? as usize,
    };
    r.take(len, "a value")
}
