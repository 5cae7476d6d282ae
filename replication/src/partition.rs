//! Partition columns: what a row's partition is called, from its own columns.
//! Pure: configuration and rows in, values out.
//!
//! They are derived, and in no data file: `created_at_date` of
//! `date(created_at)`. So whoever has a row can tell its partition, and nothing
//! but the log has to remember it.
//!
//! | | of | is | as the log has it |
//! |---|---|---|---|
//! | `date(c)` | date, timestamp | `c_date`, a date (UTC where there is a zone) | `2017-11-16` |
//! | `hour(c)` | timestamp | `c_hour`, a string | `2017-11-16-22` |
//! | `bucket(N, c)` | integers, decimal, date, timestamp, string, binary | `c_bucket`, an integer below N | `3` |
//! | `value(c)` | boolean, integers, date, string | `c_value`, of the same type | `true`, `-7`, `2017-11-16`, `New!20York` |
//!
//! An hour is a string, because readers differ in how they spell and shift
//! timestamps there; it sorts as time does. Buckets are those of Iceberg, so
//! other programs can compute them. NULL has the partition NULL, and so have
//! dates outside of the years 1 to 9999 and texts that are empty (Delta can't
//! tell those from NULL) or too long for the name of a folder. In a text, every
//! byte but letters, digits, `_`, `-` and `.` is `!` and two hex digits: values
//! are folders too, and where a path has an escape of its own, Polars 2.1 misses
//! the file's deletion vector.
//!
//! Spec: Delta protocol, "Partition Value Serialization"; Iceberg, "Partition
//! Transforms" and "Appendix B: 32-bit Hash Requirements".

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::schema::{LakeType, civil};

/// More buckets than this are more folders than rows are worth.
const BUCKETS_MAX: u32 = 10_000;
/// The longest text that is a value of its own: as part of a path each byte may
/// be three, and no file system takes names of more than 255 bytes.
const TEXT_BYTES_MAX: usize = 48;
/// The longest name of a partition column, for the same reason.
const NAME_BYTES_MAX: usize = 100;
const HOUR_MICROS: i64 = 3_600_000_000;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;
/// How readers know the folder of NULL.
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";

/// What is allowed in a configuration.
pub const FORMS: &str = "date(column), hour(column), bucket(N, column) or value(column)";

/// What a column's value becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Derive {
    Date,
    Hour,
    Bucket(u32),
    Value,
}

impl Derive {
    /// What the column's name gets at its end.
    pub fn suffix(self) -> &'static str {
        match self {
            Derive::Date => "date",
            Derive::Hour => "hour",
            Derive::Bucket(_) => "bucket",
            Derive::Value => "value",
        }
    }

    /// The type that comes of a column's; `None` if nothing does.
    pub fn of(self, ty: &LakeType) -> Option<LakeType> {
        use LakeType::{Binary, Boolean, Date, Decimal, Integer, Long, Short, String, Timestamp, TimestampNtz};
        match (self, ty) {
            (Derive::Date, Date | Timestamp | TimestampNtz) => Some(Date),
            (Derive::Hour, Timestamp | TimestampNtz) => Some(String),
            (
                Derive::Bucket(_),
                Short | Integer | Long | Decimal { .. } | Date | Timestamp | TimestampNtz | String | Binary,
            ) => Some(Integer),
            (Derive::Value, Boolean | Short | Integer | Long | Date | String) => Some(ty.clone()),
            _ => None,
        }
    }

    /// The types of columns that it can be made of, for people.
    pub fn takes(self) -> &'static str {
        match self {
            Derive::Date => "a date or a timestamp",
            Derive::Hour => "a timestamp",
            Derive::Bucket(_) => "an integer, a decimal, a date, a timestamp, a string or binary",
            Derive::Value => "a boolean, an integer, a date or a string",
        }
    }
}

/// One entry of `partition_by`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionBy {
    pub derive: Derive,
    pub column: String,
}

impl PartitionBy {
    /// Whether a column is the one that is meant; names match whatever their case.
    pub fn names(&self, column: &str) -> bool {
        self.column.to_lowercase() == column.to_lowercase()
    }

    /// What the partition column of a base column is called.
    pub fn name(&self, base: &str) -> String {
        format!("{base}_{}", self.derive.suffix())
    }
}

impl fmt::Display for PartitionBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.derive {
            Derive::Bucket(count) => write!(f, "bucket({count}, {})", self.column),
            other => write!(f, "{}({})", other.suffix(), self.column),
        }
    }
}

impl FromStr for PartitionBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected partition_by as {FORMS}, found {text:?}");
        let (function, rest) = text.trim().split_once('(').ok_or_else(wrong)?;
        let inside = rest.strip_suffix(')').ok_or_else(wrong)?;
        let (derive, column) = match function.trim() {
            "date" => (Derive::Date, inside),
            "hour" => (Derive::Hour, inside),
            "value" => (Derive::Value, inside),
            "bucket" => {
                let (count, column) = inside.split_once(',').ok_or_else(wrong)?;
                let count = count.trim().parse().map_err(|_| wrong())?;
                if !(1..=BUCKETS_MAX).contains(&count) {
                    return Err(format!(
                        "expected from 1 to {BUCKETS_MAX} buckets in partition_by, found {text:?}"
                    ));
                }
                (Derive::Bucket(count), column)
            }
            _ => return Err(wrong()),
        };
        let column = column.trim().to_owned();
        match column.is_empty() {
            true => Err(wrong()),
            false => Ok(Self { derive, column }),
        }
    }
}

/// Why a name can't be a partition column's, if so: it is part of paths, and
/// not every reader takes escapes there.
pub fn unfit_name(name: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.bytes().all(plain) {
        return Some("its name has other characters than letters, digits, _ and -".to_owned());
    }
    (name.len() > NAME_BYTES_MAX).then(|| format!("its name is longer than {NAME_BYTES_MAX} bytes"))
}

/// A partition: the values of its columns by their names in files, in the form
/// that the log has them; empty where a table has no partitions.
pub type Values = Arc<BTreeMap<String, Option<String>>>;

/// Values as some log has them: an empty one is NULL.
pub fn values(pairs: impl IntoIterator<Item = (String, Option<String>)>) -> Values {
    let pairs = pairs.into_iter();
    Arc::new(
        pairs
            .map(|(name, value)| (name, value.filter(|v| !v.is_empty())))
            .collect(),
    )
}

/// The folders of a partition, each with a slash at its end: `name=value/`.
/// Names and values are plain, so nothing leaves its folder.
pub fn folder<'a>(names: impl IntoIterator<Item = &'a str>, values: &Values) -> String {
    let mut path = String::new();
    for name in names {
        path.push_str(name);
        path.push('=');
        path.push_str(values.get(name).and_then(Option::as_deref).unwrap_or(NULL_FOLDER));
        path.push('/');
    }
    path
}

/// How the rows of a table are told apart: for each partition column its name
/// in files, where its base column is, and what becomes of that.
#[derive(Clone, Debug, Default)]
pub struct Partitioning(pub Vec<(String, Option<usize>, Derive)>);

impl Partitioning {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, ..)| name.as_str())
    }

    /// The partitions of some rows, in the order of their first ones, with the
    /// numbers of theirs, ascending.
    pub fn split(&self, rows: &RecordBatch) -> Result<Vec<(Values, Vec<u32>)>> {
        let mut groups = vec![0_u32; rows.num_rows()];
        // Of each group that a column makes: the group before it, and its value.
        let mut origins: Vec<Vec<(u32, Cell<'_>)>> = Vec::with_capacity(self.0.len());
        for (name, column, derive) in &self.0 {
            let column = column
                .and_then(|column| rows.columns().get(column))
                .ok_or_else(|| Error::bug(format!("the column that {name} is made of is not there")))?;
            let cells = cells(*derive, column)
                .ok_or_else(|| Error::bug(format!("{name} can't be made of {}", column.data_type())))?;
            let mut known: HashMap<(u32, Cell<'_>), u32> = HashMap::new();
            let mut made = Vec::new();
            let mut last = None;
            for (group, cell) in groups.iter_mut().zip(cells) {
                let place = (*group, cell);
                // Neighbours are alike more often than not.
                *group = match last {
                    Some((before, number)) if before == place => number,
                    _ => *known.entry(place).or_insert_with(|| {
                        made.push(place);
                        made.len() as u32 - 1
                    }),
                };
                last = Some((place, *group));
            }
            origins.push(made);
        }
        let count = groups.iter().max().map_or(0, |last| *last as usize + 1);
        let mut members = vec![Vec::new(); count];
        for (row, group) in (0_u32..).zip(groups) {
            if let Some(rows) = members.get_mut(group as usize) {
                rows.push(row);
            }
        }
        let values = |mut group: usize| {
            let mut named = BTreeMap::new();
            for ((name, ..), origins) in self.0.iter().zip(&origins).rev() {
                if let Some((before, cell)) = origins.get(group) {
                    named.insert(name.clone(), cell.text());
                    group = *before as usize;
                }
            }
            Arc::new(named)
        };
        let groups = members.into_iter().enumerate();
        Ok(groups.map(|(group, rows)| (values(group), rows)).collect())
    }
}

/// A value of a partition column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cell<'a> {
    Null,
    Flag(bool),
    Number(i64),
    /// Days since 1970-01-01.
    Day(i64),
    /// Hours since 1970-01-01 00:00.
    Hour(i64),
    Text(&'a str),
}

impl<'a> Cell<'a> {
    fn day(days: i64) -> Self {
        match (1..=9999).contains(&civil(days).0) {
            true => Cell::Day(days),
            false => Cell::Null,
        }
    }

    fn hour(hours: i64) -> Self {
        match Self::day(hours.div_euclid(24)) {
            Cell::Null => Cell::Null,
            _ => Cell::Hour(hours),
        }
    }

    fn of_text(text: &'a str) -> Self {
        match (1..=TEXT_BYTES_MAX).contains(&text.len()) {
            true => Cell::Text(text),
            false => Cell::Null,
        }
    }

    /// Spec: Delta protocol, "Partition Value Serialization".
    fn text(self) -> Option<String> {
        let date = |days| {
            let (year, month, day) = civil(days);
            format!("{year:04}-{month:02}-{day:02}")
        };
        match self {
            Cell::Null => None,
            Cell::Flag(flag) => Some(flag.to_string()),
            Cell::Number(number) => Some(number.to_string()),
            Cell::Day(days) => Some(date(days)),
            Cell::Hour(hours) => Some(format!("{}-{:02}", date(hours.div_euclid(24)), hours.rem_euclid(24))),
            Cell::Text(text) => Some(plain(text)),
        }
    }
}

/// A text that can be part of a path, and of no other text's.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => out.push(char::from(byte)),
            _ => out.push_str(&format!("!{byte:02X}")),
        }
    }
    if out == NULL_FOLDER {
        out.replace_range(..1, "!5F");
    }
    out
}

/// What becomes of a column's values; `None` if its type is none for that.
fn cells(derive: Derive, column: &ArrayRef) -> Option<Vec<Cell<'_>>> {
    match (derive, column.data_type()) {
        (Derive::Date | Derive::Value, DataType::Date32) => {
            let days = numbers(column)?;
            Some(each(column, |row| Cell::day(days[row])))
        }
        (Derive::Date, DataType::Timestamp(..)) => {
            let micros = numbers(column)?;
            Some(each(column, |row| Cell::day(micros[row].div_euclid(DAY_MICROS))))
        }
        (Derive::Hour, DataType::Timestamp(..)) => {
            let micros = numbers(column)?;
            Some(each(column, |row| Cell::hour(micros[row].div_euclid(HOUR_MICROS))))
        }
        (Derive::Value, DataType::Boolean) => {
            let flags = column.as_boolean();
            Some(each(column, |row| Cell::Flag(flags.value(row))))
        }
        (Derive::Value, DataType::Utf8) => {
            let texts = column.as_string::<i32>();
            Some(each(column, |row| Cell::of_text(texts.value(row))))
        }
        (Derive::Value, _) => {
            let numbers = numbers(column)?;
            Some(each(column, |row| Cell::Number(numbers[row])))
        }
        (Derive::Bucket(count), ty) => {
            let bucket = |bytes: &[u8]| Cell::Number(i64::from(bucket(bytes, count)));
            match ty {
                DataType::Utf8 => {
                    let texts = column.as_string::<i32>();
                    Some(each(column, |row| bucket(texts.value(row).as_bytes())))
                }
                DataType::Binary => {
                    let values = column.as_binary::<i32>();
                    Some(each(column, |row| bucket(values.value(row))))
                }
                DataType::Decimal128(..) => {
                    let values = column.as_primitive::<Decimal128Type>();
                    Some(each(column, |row| bucket(shortest(&values.value(row).to_be_bytes()))))
                }
                _ => {
                    let numbers = numbers(column)?;
                    Some(each(column, |row| bucket(&numbers[row].to_le_bytes())))
                }
            }
        }
        _ => None,
    }
}

/// `value` of each row that is not NULL.
fn each<'a>(column: &ArrayRef, value: impl Fn(usize) -> Cell<'a>) -> Vec<Cell<'a>> {
    let cell = |row| match column.is_null(row) {
        true => Cell::Null,
        false => value(row),
    };
    (0..column.len()).map(cell).collect()
}

/// Whole numbers, days or microseconds; anything where there is NULL.
fn numbers(column: &ArrayRef) -> Option<Vec<i64>> {
    fn wide<T: ArrowPrimitiveType<Native: Into<i64>>>(column: &ArrayRef) -> Option<Vec<i64>> {
        let values = column.as_primitive_opt::<T>()?.values();
        Some(values.iter().map(|value| (*value).into()).collect())
    }
    match column.data_type() {
        DataType::Int16 => wide::<Int16Type>(column),
        DataType::Int32 => wide::<Int32Type>(column),
        DataType::Int64 => wide::<Int64Type>(column),
        DataType::Date32 => wide::<Date32Type>(column),
        DataType::Timestamp(..) => wide::<TimestampMicrosecondType>(column),
        _ => None,
    }
}

fn bucket(bytes: &[u8], count: u32) -> u32 {
    (murmur3(bytes) & i32::MAX.cast_unsigned()) % count.max(1)
}

/// The fewest bytes of a big-endian number that still have its sign.
fn shortest(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let [first, rest @ ..] = bytes
        && let Some(next) = rest.first()
        && matches!((first, next >> 7), (0, 0) | (0xff, 1))
    {
        bytes = rest;
    }
    bytes
}

/// MurmurHash3, x86, 32 bits, seed 0.
fn murmur3(bytes: &[u8]) -> u32 {
    let mix = |word: u32| word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (words, rest) = bytes.as_chunks::<4>();
    let mut hash = 0_u32;
    for word in words {
        hash = (hash ^ mix(u32::from_le_bytes(*word)))
            .rotate_left(13)
            .wrapping_mul(5)
            .wrapping_add(0xe654_6b64);
    }
    let last = rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
    hash ^= mix(last);
    hash ^= bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, Int16Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Field, Schema};

    use super::*;

    /// The partition of each value of a column.
    fn check(derive: Derive, column: ArrayRef, expected: &[Option<&str>]) {
        let schema = Schema::new(vec![Field::new("c", column.data_type().clone(), true)]);
        let rows = RecordBatch::try_new(Arc::new(schema), vec![column]).expect("rows");
        let parts = Partitioning(vec![("p".into(), Some(0), derive)]);
        let mut found = vec![None; rows.num_rows()];
        for (values, members) in parts.split(&rows).expect("split") {
            for row in members {
                found[row as usize] = Some(values["p"].clone());
            }
        }
        let found: Vec<Option<String>> = found.into_iter().map(|value| value.expect("a partition")).collect();
        let expected: Vec<Option<String>> = expected.iter().map(|value| value.map(str::to_owned)).collect();
        assert_eq!(found, expected, "{derive:?}");
    }

    const DAY: i64 = 86_400_000_000;

    #[test]
    fn days_and_hours_are_of_the_calendar() {
        let days = Date32Array::from(vec![
            Some(0),
            Some(17_486),
            Some(-1),
            Some(-719_162),
            Some(2_932_896),
            None,
        ]);
        let dates = [
            Some("1970-01-01"),
            Some("2017-11-16"),
            Some("1969-12-31"),
            Some("0001-01-01"),
            Some("9999-12-31"),
            None,
        ];
        check(Derive::Date, Arc::new(days.clone()), &dates);
        check(Derive::Value, Arc::new(days), &dates);
        // 2017-11-16T22:31:08 of the Iceberg spec, and around the epoch.
        let micros = vec![
            Some(1_510_871_468_000_000),
            Some(0),
            Some(-1),
            Some(-3_600_000_000),
            Some(-DAY - 1),
            None,
        ];
        let stamps = TimestampMicrosecondArray::from(micros);
        check(
            Derive::Date,
            Arc::new(stamps.clone()),
            &[
                Some("2017-11-16"),
                Some("1970-01-01"),
                Some("1969-12-31"),
                Some("1969-12-31"),
                Some("1969-12-30"),
                None,
            ],
        );
        check(
            Derive::Hour,
            Arc::new(stamps.with_timezone("UTC")),
            &[
                Some("2017-11-16-22"),
                Some("1970-01-01-00"),
                Some("1969-12-31-23"),
                Some("1969-12-31-23"),
                Some("1969-12-30-23"),
                None,
            ],
        );
        // What no reader can parse.
        let far = vec![2_932_897 * DAY, -719_162 * DAY - 1, i64::MAX, i64::MIN];
        check(
            Derive::Date,
            Arc::new(TimestampMicrosecondArray::from(far.clone())),
            &[None; 4],
        );
        check(Derive::Hour, Arc::new(TimestampMicrosecondArray::from(far)), &[None; 4]);
        check(
            Derive::Date,
            Arc::new(Date32Array::from(vec![i32::MAX, i32::MIN])),
            &[None; 2],
        );
    }

    /// The values of the Iceberg spec, "Appendix B: 32-bit Hash Requirements".
    #[test]
    fn hashes_are_those_of_iceberg() {
        for (bytes, hash) in [
            (34_i64.to_le_bytes().as_slice(), 2_017_239_379),
            // Of decimal(9,2) 14.20.
            (shortest(&1420_i128.to_be_bytes()), -500_754_589),
            // 2017-11-16.
            (17_486_i64.to_le_bytes().as_slice(), -653_330_422),
            // 2017-11-16T22:31:08, and a microsecond later.
            (1_510_871_468_000_000_i64.to_le_bytes().as_slice(), -2_047_944_441),
            (1_510_871_468_000_001_i64.to_le_bytes().as_slice(), -1_207_196_810),
            (b"iceberg", 1_210_000_089),
            (&[0, 1, 2, 3], -188_683_207),
            (b"", 0),
        ] {
            assert_eq!(murmur3(bytes).cast_signed(), hash, "{bytes:?}");
        }
        for (number, bytes) in [
            (0_i128, &[0][..]),
            (127, &[127]),
            (128, &[0, 128]),
            (-1, &[255]),
            (-128, &[128]),
            (-129, &[255, 127]),
        ] {
            assert_eq!(shortest(&number.to_be_bytes()), bytes, "{number}");
        }
    }

    #[test]
    fn every_width_of_a_number_has_the_same_bucket() {
        // 2017239379 % 16, and without a sign for the others.
        let expected = [Some("3"), None];
        let bucket = Derive::Bucket(16);
        check(bucket, Arc::new(Int16Array::from(vec![Some(34), None])), &expected);
        check(bucket, Arc::new(Int32Array::from(vec![Some(34), None])), &expected);
        check(bucket, Arc::new(Int64Array::from(vec![Some(34), None])), &expected);
        let text = Arc::new(StringArray::from(vec![Some("iceberg"), Some(""), None]));
        check(bucket, text, &[Some("9"), Some("0"), None]);
        let bytes = Arc::new(BinaryArray::from_iter([Some([0, 1, 2, 3])]));
        check(Derive::Bucket(100), bytes, &[Some("41")]);
        let decimal = Decimal128Array::from(vec![1420])
            .with_precision_and_scale(9, 2)
            .expect("decimal");
        check(Derive::Bucket(100), Arc::new(decimal), &[Some("59")]);
        check(
            Derive::Bucket(1),
            Arc::new(Int64Array::from(vec![i64::MIN, 7])),
            &[Some("0"); 2],
        );
    }

    #[test]
    fn values_are_spelled_as_the_log_has_them() {
        let value = Derive::Value;
        check(value, Arc::new(Int16Array::from(vec![-7, 0])), &[Some("-7"), Some("0")]);
        check(
            value,
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
            &[Some("true"), Some("false"), None],
        );
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let texts = vec![Some("DE"), Some(""), Some(&long[1..]), Some(&long), Some("../\0"), None];
        check(
            value,
            Arc::new(StringArray::from(texts)),
            &[Some("DE"), None, Some(&long[1..]), None, Some("..!2F!00"), None],
        );
    }

    #[test]
    fn rows_are_split_by_all_columns_together() {
        let schema = Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8, true),
        ]);
        let a = Int64Array::from(vec![Some(1), Some(1), Some(2), None, Some(1)]);
        let b = StringArray::from(vec![Some("x"), Some("y"), Some("x"), None, Some("x")]);
        let rows = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(a), Arc::new(b)]).expect("rows");
        let parts = Partitioning(vec![
            ("b_value".into(), Some(1), Derive::Value),
            ("a_value".into(), Some(0), Derive::Value),
        ]);
        let split = parts.split(&rows).expect("split");
        let found: Vec<(String, &[u32])> = split
            .iter()
            .map(|(values, rows)| (folder(parts.names(), values), rows.as_slice()))
            .collect();
        assert_eq!(
            found,
            [
                ("b_value=x/a_value=1/".to_owned(), &[0, 4][..]),
                ("b_value=y/a_value=1/".to_owned(), &[1]),
                ("b_value=x/a_value=2/".to_owned(), &[2]),
                (format!("b_value={NULL_FOLDER}/a_value={NULL_FOLDER}/"), &[3]),
            ]
        );
        assert!(parts.split(&rows.slice(0, 0)).expect("split").is_empty());
        // A table without partitions is one.
        let whole = Partitioning::default().split(&rows).expect("split");
        assert_eq!(whole, [(Values::default(), vec![0, 1, 2, 3, 4])]);
    }

    #[test]
    fn no_value_leaves_its_folder() {
        for (value, expected) in [
            ("2024-01-01", "p=2024-01-01/"),
            ("../../etc", "p=..!2F..!2Fetc/"),
            ("..", "p=../"),
            ("!20", "p=!2120/"),
            (NULL_FOLDER, "p=!5F_HIVE_DEFAULT_PARTITION__/"),
            ("a b%=ü\0", "p=a!20b!25!3D!C3!BC!00/"),
        ] {
            let named = values([("p".into(), Cell::of_text(value).text())]);
            assert_eq!(folder(["p"], &named), expected);
        }
        assert_eq!(values([("p".into(), Some(String::new()))])["p"], None);
    }

    #[test]
    fn entries_are_read_or_refused() {
        for (text, expected) in [
            ("date(created_at)", Ok("date(created_at)")),
            (" bucket( 16 , id ) ", Ok("bucket(16, id)")),
            ("value(a, (b))", Ok("value(a, (b))")),
            ("hour(x)", Ok("hour(x)")),
            ("day(x)", Err("date(column), hour(column)")),
            ("x", Err("found \"x\"")),
            ("date()", Err("date(column)")),
            ("bucket(x, id)", Err("bucket(N, column)")),
            ("bucket(0, id)", Err("from 1 to 10000")),
            ("bucket(10001, id)", Err("from 1 to 10000")),
        ] {
            match (text.parse::<PartitionBy>(), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.to_string(), expected),
                (Err(found), Err(part)) => assert!(found.contains(part) && found.contains("partition_by"), "{found}"),
                (found, _) => assert_eq!(
                    found.map(|by| by.to_string()),
                    expected.map(str::to_owned).map_err(str::to_owned)
                ),
            }
        }
    }
}
