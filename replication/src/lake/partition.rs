//! A table in partitions: which columns of its shape are derived, and rows that
//! go to a data file for each of their partitions.
//!
//! ```text
//! rows, keys ──► partition of each ──► pieces in memory ──► one open file a partition
//!                                          │ too much in all
//!                                          └──► the largest partition's file is finished
//! ```
//!
//! A partition column is in the Delta schema and in `partitionValues`, in no
//! data file, and in no schema of the source's. Folders are those of Hive
//! (`created_at_date=2024-02-29/`): the protocol needs none, but Polars takes
//! the values from there.

use std::collections::{BTreeMap, HashSet};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::data_file::{FileWriter, WrittenFile};
use super::shape::Shape;
use super::{DeltaTable, FileFormat, delta_type};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::partition::{Derive, PartitionBy, Partitioning, Values, unfit_name};
use crate::schema::{Column, TableSchema};

/// Rows of a partition that are gathered before its file is opened, in bytes as
/// Arrow has them.
const PIECE_BYTES: usize = 2 << 20;
/// What pieces and open files may take together.
pub(super) const OPEN_BYTES: usize = 24 << 20;
/// What an open file takes at least, with what waits for its upload.
const FILE_BYTES: usize = 2 << 20;
/// Partitions that a commit may write to without a word about it.
const PARTITIONS_TOLD: usize = 200;

/// A partition column of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionColumn {
    pub name: String,
    /// Its name in `partitionValues`.
    pub physical: String,
    pub field: i32,
    /// As Delta's schema spells it.
    #[serde(rename = "type")]
    pub ty: Value,
    /// The column that it is made of.
    pub attribute: i32,
    /// What that was called when the table was made.
    pub column: String,
    pub by: Derive,
}

impl PartitionColumn {
    fn entry(&self, column: &str) -> PartitionBy {
        PartitionBy {
            derive: self.by,
            column: column.to_owned(),
        }
    }
}

/// What a table can be partitioned by, by its configuration. Errors: names the
/// column that is unknown, or of a type that does not fit.
fn resolve<'a>(by: &PartitionBy, schema: &'a TableSchema) -> Result<&'a Column> {
    let columns = &schema.columns;
    let exact = columns.iter().find(|column| column.name == by.column);
    let column = exact.or_else(|| columns.iter().find(|column| by.names(&column.name)));
    let column = column.ok_or_else(|| {
        let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        Error::operator(format!("partition_by has {by}, but there is no column {:?}", by.column))
            .with_hint(crate::config::did_you_mean(&known, &by.column))
    })?;
    fits(by, column)?;
    Ok(column)
}

fn fits(by: &PartitionBy, column: &Column) -> Result<()> {
    if by.derive.of(&column.ty).is_none() {
        let ty = delta_type(&column.ty, None);
        let ty = ty.as_str().map_or_else(|| ty["type"].to_string(), str::to_owned);
        return Err(Error::operator(format!(
            "partition_by has {by}, but the column {:?} has the type {ty}",
            column.name
        ))
        .with_hint(format!(
            "{}() takes {}; the forms are {}",
            by.derive.suffix(),
            by.derive.takes(),
            crate::partition::FORMS
        )));
    }
    match unfit_name(&by.name(&column.name)) {
        Some(why) => Err(Error::operator(format!(
            "partition_by has {by}, but the column {:?} can't be partitioned by: {why}",
            column.name
        ))
        .with_hint("partition by another column: the name is part of paths, which not all readers decode")),
        None => Ok(()),
    }
}

impl Shape {
    /// The same with partition columns. For content that has no files yet.
    ///
    /// Errors: as [`resolve`]; or two columns would have one name.
    pub fn partitioned(mut self, by: &[PartitionBy], schema: &TableSchema) -> Result<Self> {
        self.partitions.clear();
        for by in by {
            let column = resolve(by, schema)?;
            self.add_partition(by.derive, column, &column.name, &by.name(&column.name))?;
        }
        self.check_partitions(schema)?;
        Ok(self)
    }

    /// The same with the partition columns of the content that it replaces; `by`
    /// is what is configured now. Errors: as [`Shape::partitioned`].
    pub fn partitioned_as(mut self, before: &Self, by: &[PartitionBy], schema: &TableSchema) -> Result<Self> {
        self.partitions.clear();
        for (number, own) in before.partitions.iter().enumerate() {
            let now = before.column(own.attribute).map(|column| column.name.as_str());
            let configured = by.get(number).map(|by| by.column.as_str());
            let names = now.into_iter().chain([own.column.as_str()]).chain(configured);
            let found = names
                .clone()
                .find(|name| schema.columns.iter().any(|c| own.entry(name).names(&c.name)));
            let column = resolve(&own.entry(found.unwrap_or(&own.column)), schema)?;
            self.add_partition(own.by, column, &own.column, &own.name)?;
        }
        self.check_partitions(schema)?;
        Ok(self)
    }

    fn add_partition(&mut self, by: Derive, column: &Column, made_of: &str, name: &str) -> Result<()> {
        let ty = by
            .of(&column.ty)
            .ok_or_else(|| Error::bug("a partition column without a type"))?;
        if self
            .partitions
            .iter()
            .any(|own| own.name.to_lowercase() == name.to_lowercase())
        {
            return Err(Error::operator(format!("partition_by makes the column {name} twice"))
                .with_hint("name each column once for each of date, hour, bucket and value"));
        }
        self.field_max += 1;
        self.partitions.push(PartitionColumn {
            name: name.to_owned(),
            physical: name.to_owned(),
            field: self.field_max,
            ty: delta_type(&ty, None),
            attribute: column.attribute,
            column: made_of.to_owned(),
            by,
        });
        Ok(())
    }

    /// Whether the partition columns can still be made of these columns. Errors:
    /// one is gone or of another type, or has the name of a partition column.
    pub fn check_partitions(&self, schema: &TableSchema) -> Result<()> {
        for own in &self.partitions {
            let base = schema.columns.iter().find(|column| column.attribute == own.attribute);
            let Some(base) = base else {
                let entry = own.entry(&own.column);
                return Err(Error::operator(format!(
                    "the column that its partitions are made of is gone: {entry}"
                ))
                .with_hint("bring it back, or move the table's folder away and set another partition_by: it is copied anew"));
            };
            if own.by.of(&base.ty).map(|ty| delta_type(&ty, None)).as_ref() != Some(&own.ty) {
                fits(&own.entry(&base.name), base)?;
                return Err(Error::bug("a partition column has another type"));
            }
            let clash = schema.columns.iter().find(|column| {
                let name = column.name.to_lowercase();
                name == own.name.to_lowercase() || name == own.physical.to_lowercase()
            });
            if let Some(clash) = clash {
                return Err(Error::operator(format!(
                    "partition_by makes a column {}, and the table has one of that name: {:?}",
                    own.name, clash.name
                ))
                .with_hint(
                    "rename the column at the source, leave it out with exclude, or partition by another column",
                ));
            }
        }
        Ok(())
    }

    /// A table keeps how it is partitioned, whatever becomes of the names of
    /// its columns. `schema` is what they are at the source, if that is known.
    /// Errors: another configuration.
    pub fn partitions_fit(&self, by: &[PartitionBy], table: &str, schema: Option<&TableSchema>) -> Result<()> {
        let fits = |(own, by): (&PartitionColumn, &PartitionBy)| {
            let now = self.column(own.attribute).map(|column| column.name.as_str());
            let known = now.into_iter().chain([own.column.as_str()]);
            let gone = || {
                let columns = schema.map(|schema| schema.columns.as_slice());
                let is = |name: &str| columns.is_none_or(|all| all.iter().any(|column| column.name == name));
                !known.clone().any(is)
            };
            own.by == by.derive && (known.clone().any(|name| by.names(name)) || gone())
        };
        if self.partitions.len() == by.len() && self.partitions.iter().zip(by).all(fits) {
            return Ok(());
        }
        let entries = self
            .partitions
            .iter()
            .map(|own| format!("{:?}", own.entry(&own.column).to_string()));
        let is = entries.collect::<Vec<_>>().join(", ");
        Err(
            Error::operator(format!("the lake table of {table} was made with partition_by = [{is}]"))
                .with_hint("set it back, or move the table's folder away and run again: it is copied anew"),
        )
    }

    /// How rows of these columns are told apart.
    pub fn partitioning(&self, schema: &TableSchema) -> Partitioning {
        let place = |own: &PartitionColumn| {
            let column = schema
                .columns
                .iter()
                .position(|column| column.attribute == own.attribute);
            (own.physical.clone(), column, own.by)
        };
        Partitioning(self.partitions.iter().map(place).collect())
    }
}

/// Writes rows to files, one for each partition, or a few where there are many:
/// what is open is bounded. Each file comes with the keys of its rows.
pub struct RowWriter {
    format: FileFormat,
    open: BTreeMap<Values, Part>,
    done: Vec<(WrittenFile, Vec<Key>)>,
}

/// A partition's file.
#[derive(Default)]
struct Part {
    /// What is not in the file yet.
    pieces: Vec<RecordBatch>,
    piece_bytes: usize,
    file: Option<FileWriter>,
    keys: Vec<Key>,
}

impl Part {
    fn bytes(&self) -> usize {
        let file = self.file.as_ref().map_or(0, |file| file.memory_bytes().max(FILE_BYTES));
        self.piece_bytes + file
    }

    /// Moves the pieces to the file.
    async fn write(&mut self, format: &FileFormat, values: &Values) -> Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => format.writer_of(values)?,
        };
        for piece in self.pieces.drain(..) {
            file.write(&piece).await?;
        }
        self.piece_bytes = 0;
        self.file = Some(file);
        Ok(())
    }

    async fn finish(mut self, format: &FileFormat, values: &Values) -> Result<(WrittenFile, Vec<Key>)> {
        self.write(format, values).await?;
        let file = self.file.ok_or_else(|| Error::bug("a partition without a file"))?;
        Ok((file.finish().await?, self.keys))
    }
}

impl RowWriter {
    pub fn new(format: FileFormat) -> Self {
        Self {
            format,
            open: BTreeMap::new(),
            done: Vec::new(),
        }
    }

    /// Takes rows and the key of each.
    pub async fn write(&mut self, rows: &RecordBatch, keys: &[Key]) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if self.format.partitioning.is_empty() {
            let part = self.open.entry(Values::default()).or_default();
            part.keys.extend_from_slice(keys);
            part.pieces.push(rows.clone());
            return part.write(&self.format, &Values::default()).await;
        }
        for (values, members) in self.format.partitioning.split(rows)? {
            let part = self.open.entry(values.clone()).or_default();
            part.keys
                .extend(members.iter().filter_map(|row| keys.get(*row as usize)));
            let piece = match members.len() == rows.num_rows() {
                true => rows.clone(),
                false => take_record_batch(rows, &UInt32Array::from(members))
                    .map_err(|e| Error::bug("cannot tell the rows of partitions apart").with_source(e))?,
            };
            part.piece_bytes += piece.get_array_memory_size();
            part.pieces.push(piece);
            if part.piece_bytes >= PIECE_BYTES {
                part.write(&self.format, &values).await?;
            }
        }
        self.make_room().await
    }

    /// What is open, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.open.values().map(Part::bytes).sum()
    }

    /// Finishes the largest files until the others fit in memory.
    async fn make_room(&mut self) -> Result<()> {
        let mut bytes = self.bytes();
        // One alone holds a row group at most.
        if bytes <= OPEN_BYTES || self.open.len() == 1 {
            return Ok(());
        }
        let mut sizes: Vec<(usize, Values)> = self
            .open
            .iter()
            .map(|(values, part)| (part.bytes(), values.clone()))
            .collect();
        sizes.sort_unstable();
        while bytes > OPEN_BYTES / 2
            && let Some((size, values)) = sizes.pop()
            && let Some(part) = self.open.remove(&values)
        {
            self.done.push(part.finish(&self.format, &values).await?);
            bytes -= size;
        }
        Ok(())
    }

    /// Finishes all files; they are durable then.
    pub async fn finish(mut self) -> Result<Vec<(WrittenFile, Vec<Key>)>> {
        for (values, part) in self.open {
            self.done.push(part.finish(&self.format, &values).await?);
        }
        Ok(self.done)
    }
}

impl DeltaTable {
    /// Says it once if a commit writes to very many partitions.
    pub(super) fn tell_many_partitions(&mut self) {
        if self.shape.partitions.is_empty() || self.many_partitions_told {
            return;
        }
        let staged = self.files.iter().filter(|file| !file.committed && file.live_rows() > 0);
        let partitions = staged.map(|file| &file.partition).collect::<HashSet<_>>().len();
        if partitions > PARTITIONS_TOLD {
            self.many_partitions_told = true;
            tracing::warn!(table = %self.record.table, partitions,
                hint = "partition by something coarser, or raise apply.max_latency",
                "a commit writes to very many partitions, a file each: reading and writing get slow");
        }
    }
}
