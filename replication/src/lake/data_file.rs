//! Parquet files of a table: written as batches come, read back by row.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Int16Type, Int32Type, Int64Type, SchemaRef};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream};
use parquet::arrow::{AsyncArrowWriter, ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::log::{Log, now_ms, store_error};
use super::mode::{DELETED_AT, OP, SEQUENCE, System};
use super::store;
use super::upload::{PART_BYTES, Upload};
use crate::error::{Error, Result};
use crate::partition::Values;

/// Encoded bytes of an unfinished row group: what a writer holds in memory.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// Rows a page holds at most: a look-up of one row decodes one page.
const PAGE_ROWS: usize = 8 << 10;
/// What is read at once of the end of a file in an object store: mostly the
/// whole footer, which is a request saved.
const FOOTER_BYTES: usize = 64 << 10;
/// A column whose dictionary outgrows this is written plainly. Building a
/// dictionary of values that hardly repeat was a quarter of a snapshot's CPU.
const DICTIONARY_BYTES: usize = 128 << 10;
/// Longer texts make no min/max statistics.
const STATS_TEXT_MAX: usize = 64;

/// A file that is written but not committed.
#[derive(Clone, Debug)]
pub struct WrittenFile {
    /// Relative to the table.
    pub path: String,
    pub size: i64,
    pub modification_time: i64,
    pub rows: u32,
    pub stats: String,
    /// What partition its rows are of.
    pub partition: Values,
}

/// Writes one data file, a batch at a time, holding one row group.
pub struct FileWriter {
    log: Log,
    path: String,
    writer: AsyncArrowWriter<Upload>,
    schema: SchemaRef,
    stats: Stats,
    partition: Values,
    system: System,
}

impl FileWriter {
    /// `schema` has the columns under their physical names, the system columns
    /// of `system` last; `key` names those that get min/max statistics.
    pub fn create(log: &Log, schema: &SchemaRef, key: &[usize], system: System) -> Result<Self> {
        Self::create_in(log, "part", &Values::default(), schema, key, system)
    }

    /// A file of a partition. Its name begins with `name`: plain, with the folders of
    /// the table's that it is in.
    pub fn create_in(
        log: &Log,
        name: &str,
        partition: &Values,
        schema: &SchemaRef,
        key: &[usize],
        system: System,
    ) -> Result<Self> {
        let path = format!("{name}-{}.snappy.parquet", Uuid::new_v4());
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .set_max_row_group_row_count(Some(1 << 20))
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .build();
        let upload = Upload::new(log.store().clone(), log.file(&path), store::is_local(log.url()));
        let writer = AsyncArrowWriter::try_new(upload, schema.clone(), Some(properties))
            .map_err(|e| Error::bug(format!("cannot write the schema of {}", log.url())).with_source(e))?;
        Ok(Self {
            log: log.clone(),
            path,
            writer,
            schema: schema.clone(),
            stats: Stats::new(schema, key),
            partition: partition.clone(),
            system,
        })
    }

    /// What it holds of rows that are not in the store yet, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.writer.memory_size() + self.writer.bytes_written() % PART_BYTES
    }

    /// Takes rows with the schema's columns, whatever they are called. Without the
    /// system columns, they live.
    pub async fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let mut columns = rows.columns().to_vec();
        if columns.len() < self.schema.fields().len() {
            columns.extend(self.system.copied(rows.num_rows()));
        }
        let rows = as_schema(&self.schema, columns, rows.num_rows())?;
        self.stats.add(&rows);
        self.writer
            .write(&rows)
            .await
            .map_err(|e| parquet_error("cannot write to", &self.log, e))
    }

    /// Writes the footer and waits until the file is durable.
    pub async fn finish(mut self) -> Result<WrittenFile> {
        self.writer
            .finish()
            .await
            .map_err(|e| parquet_error("cannot write to", &self.log, e))?;
        Ok(WrittenFile {
            path: self.path,
            size: self.writer.bytes_written() as i64,
            modification_time: now_ms(),
            rows: self.stats.rows,
            stats: self.stats.json().to_string(),
            partition: self.partition,
        })
    }
}

/// Parquet wraps the store's error; unwrap it so that a full disk reads as one.
fn parquet_error(what: &str, log: &Log, error: ParquetError) -> Error {
    match error {
        // What writes a file wraps the error of its upload once more.
        ParquetError::External(inner) if inner.is::<ParquetError>() => match inner.downcast::<ParquetError>() {
            Ok(nested) => parquet_error(what, log, *nested),
            Err(inner) => Error::transient(format!("{what} {}", log.url())).with_source(inner),
        },
        ParquetError::External(inner) => match inner.downcast::<object_store::Error>() {
            Ok(store) => store_error(what, log.url(), *store),
            Err(inner) => match inner.downcast::<std::io::Error>() {
                Ok(io) => store_error(
                    what,
                    log.url(),
                    object_store::Error::Generic {
                        store: "lake",
                        source: io,
                    },
                ),
                Err(inner) => Error::transient(format!("{what} {}", log.url())).with_source(inner),
            },
        },
        other => Error::transient(format!("{what} {}", log.url())).with_source(other),
    }
}

/// Arrays under a schema's names. Nested fields may differ in their Parquet ids.
fn as_schema(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let columns = columns.into_iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() {
            Ok(column)
        } else {
            cast(&column, field.data_type())
        }
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    columns
        .collect::<Result<Vec<_>, _>>()
        .and_then(|columns| RecordBatch::try_new_with_options(schema.clone(), columns, &options))
        .map_err(|e| Error::bug("rows do not fit the columns of a data file").with_source(e))
}

/// Reads some rows of some columns, in row order, as one batch. A column that
/// the file doesn't have is NULL.
///
/// `rows` is ascending and without repeats.
pub async fn read_rows(log: &Log, file: &Stored<'_>, columns: &SchemaRef, rows: &[u32]) -> Result<RecordBatch> {
    let (stream, places) = open_rows(log, file, columns, rows).await?;
    let Some(stream) = stream else {
        return project(columns, &places, None, rows.len());
    };
    let schema = stream.schema().clone();
    let batches: Vec<RecordBatch> = stream
        .try_collect()
        .await
        .map_err(|e| parquet_error("cannot read", log, e))?;
    let batch = concat_batches(&schema, &batches)
        .map_err(|e| Error::bug("rows of one file differ in schema").with_source(e))?;
    project(columns, &places, Some(&batch), rows.len())
}

/// Like [`read_rows`], but batch by batch.
pub async fn scan_rows(
    log: &Log,
    file: &Stored<'_>,
    columns: &SchemaRef,
    rows: &[u32],
    mut each: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let (stream, places) = open_rows(log, file, columns, rows).await?;
    match stream {
        Some(stream) => each_batch(log, stream, columns, &places, each).await,
        None => each(project(columns, &places, None, rows.len())?),
    }
}

/// Writes rows of one file to another: some, ascending, or all. Returns how
/// many, or `None` if `go_on` said no before the end.
pub async fn copy_rows(
    log: &Log,
    file: &Stored<'_>,
    columns: &SchemaRef,
    rows: Option<&[u32]>,
    writer: &mut FileWriter,
    go_on: impl Fn() -> bool,
) -> Result<Option<usize>> {
    let (stream, places) = match rows {
        Some(rows) => open_rows(log, file, columns, rows).await?,
        None => {
            let (builder, places) = open(log, file, columns).await?;
            let stream = builder.with_batch_size(PAGE_ROWS).build();
            (Some(stream.map_err(|e| parquet_error("cannot read", log, e))?), places)
        }
    };
    let Some(mut stream) = stream else {
        let count = rows.map_or(0, <[u32]>::len);
        writer.write(&project(columns, &places, None, count)?).await?;
        return Ok(Some(count));
    };
    let mut copied = 0;
    loop {
        if !go_on() {
            return Ok(None);
        }
        let batch = stream.try_next().await;
        let Some(batch) = batch.map_err(|e| parquet_error("cannot read", log, e))? else {
            return Ok(Some(copied));
        };
        copied += batch.num_rows();
        writer
            .write(&project(columns, &places, Some(&batch), batch.num_rows())?)
            .await?;
    }
}

/// Rows of a file, batch by batch.
pub struct RowStream {
    log: Log,
    columns: SchemaRef,
    places: Vec<Option<usize>>,
    stream: Option<ParquetRecordBatchStream<StoreReader>>,
    /// Rows without any of the columns, if the file has none of them.
    bare: usize,
}

/// Opens a file for some rows, ascending and without repeats.
pub async fn stream_rows(log: &Log, file: &Stored<'_>, columns: &SchemaRef, rows: &[u32]) -> Result<RowStream> {
    let (stream, places) = open_rows(log, file, columns, rows).await?;
    Ok(RowStream {
        log: log.clone(),
        columns: columns.clone(),
        places,
        bare: if stream.is_none() { rows.len() } else { 0 },
        stream,
    })
}

impl RowStream {
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(stream) = &mut self.stream else {
            let now = self.bare.min(PAGE_ROWS);
            self.bare -= now;
            return match now {
                0 => Ok(None),
                _ => project(&self.columns, &self.places, None, now).map(Some),
            };
        };
        let batch = stream.try_next().await;
        let batch = batch.map_err(|e| parquet_error("cannot read", &self.log, e))?;
        let batch = batch.map(|batch| project(&self.columns, &self.places, Some(&batch), batch.num_rows()));
        batch.transpose()
    }
}

/// The rows of a file, by its footer.
pub async fn row_count(log: &Log, file: &Stored<'_>) -> Result<u32> {
    let (builder, _) = open(log, file, &Arc::new(arrow::datatypes::Schema::empty())).await?;
    let rows = builder.metadata().file_metadata().num_rows();
    u32::try_from(rows).map_err(|_| {
        Error::operator(format!("{} of {} has more than 2^32 rows", file.path, log.url()))
            .with_hint("another program wrote it; move the table's folder away and run again: it is copied anew")
    })
}

/// Opens a file for some rows; `None` if it has none of the columns.
async fn open_rows(
    log: &Log,
    file: &Stored<'_>,
    columns: &SchemaRef,
    rows: &[u32],
) -> Result<(Option<ParquetRecordBatchStream<StoreReader>>, Vec<Option<usize>>)> {
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut next = 0_usize;
    for row in rows {
        let row = *row as usize;
        match selectors.last_mut() {
            Some(last) if row == next && !last.skip => last.row_count += 1,
            _ => {
                if row > next {
                    selectors.push(RowSelector::skip(row - next));
                }
                selectors.push(RowSelector::select(1));
            }
        }
        next = row + 1;
    }
    let (builder, places) = open(log, file, columns).await?;
    if places.iter().all(Option::is_none) {
        return Ok((None, places));
    }
    let stream = builder
        .with_batch_size(PAGE_ROWS)
        .with_row_selection(RowSelection::from(selectors))
        .build()
        .map_err(|e| parquet_error("cannot read", log, e))?;
    Ok((Some(stream), places))
}

/// Reads some columns of a whole file, batch by batch.
pub async fn scan(
    log: &Log,
    file: &Stored<'_>,
    columns: &SchemaRef,
    each: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let (builder, places) = open(log, file, columns).await?;
    let stream = builder.with_batch_size(16 << 10).build();
    let stream = stream.map_err(|e| parquet_error("cannot read", log, e))?;
    each_batch(log, stream, columns, &places, each).await
}

async fn each_batch(
    log: &Log,
    mut stream: ParquetRecordBatchStream<StoreReader>,
    columns: &SchemaRef,
    places: &[Option<usize>],
    mut each: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    while let Some(batch) = stream
        .try_next()
        .await
        .map_err(|e| parquet_error("cannot read", log, e))?
    {
        each(project(columns, places, Some(&batch), batch.num_rows())?)?;
    }
    Ok(())
}

/// Opens a file for some columns by their physical names, and tells where each
/// will be in the batches read.
async fn open(
    log: &Log,
    file: &Stored<'_>,
    columns: &SchemaRef,
) -> Result<(ParquetRecordBatchStreamBuilder<StoreReader>, Vec<Option<usize>>)> {
    let reader = StoreReader {
        store: log.store().clone(),
        path: log.file(file.path),
        size: file.size,
        end: (!store::is_local(log.url())).then_some(FOOTER_BYTES),
    };
    // The offset index lets a look-up of a few rows skip the pages between.
    let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
    let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options)
        .await
        .map_err(|e| parquet_error("cannot read", log, e))?;
    let in_file = |field: &Arc<Field>| builder.schema().index_of(field.name()).ok();
    let roots: Vec<Option<usize>> = columns.fields().iter().map(in_file).collect();
    let mut wanted: Vec<usize> = roots.iter().flatten().copied().collect();
    wanted.sort_unstable();
    let places = roots
        .iter()
        .map(|root| root.and_then(|root| wanted.binary_search(&root).ok()))
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    Ok((builder.with_projection(mask), places))
}

fn project(
    columns: &SchemaRef,
    places: &[Option<usize>],
    batch: Option<&RecordBatch>,
    rows: usize,
) -> Result<RecordBatch> {
    let arrays = columns.fields().iter().zip(places).map(|(field, place)| {
        place
            .zip(batch)
            .map_or_else(|| new_null_array(field.data_type(), rows), |(p, b)| b.column(p).clone())
    });
    as_schema(columns, arrays.collect(), rows)
}

/// A file of the table as the log has it.
pub struct Stored<'a> {
    pub path: &'a str,
    /// In bytes.
    pub size: u64,
}

/// Parquet's view of an object.
struct StoreReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    /// Bytes of the end to read with the footer's length.
    end: Option<usize>,
}

impl AsyncFileReader for StoreReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.store.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new()
                .with_prefetch_hint(self.end)
                .with_arrow_reader_options(options);
            reader.load_and_finish(self, size).await.map(Arc::new)
        }
        .boxed()
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// Row count, and min, max and null count of key columns of plain types.
///
/// Statistics dominate the size of commits, so nothing else gets any.
struct Stats {
    rows: u32,
    columns: Vec<(usize, String, Bounds)>,
}

enum Bounds {
    /// NULLs alone are counted.
    Nulls(usize),
    Integer(Option<(i64, i64)>),
    /// The same beside NULLs, which are counted.
    Sequence(Option<(i64, i64)>, usize),
    Text(Option<(String, String)>),
}

impl Stats {
    fn new(schema: &SchemaRef, key: &[usize]) -> Self {
        let system = |name, bounds| {
            let found = schema.column_with_name(name);
            found.map(|(index, field)| (index, field.name().clone(), bounds))
        };
        let columns = key
            .iter()
            .filter_map(|index| {
                let field = schema.fields().get(*index)?;
                let range = match field.data_type() {
                    DataType::Int16 | DataType::Int32 | DataType::Int64 => Bounds::Integer(None),
                    DataType::Utf8 => Bounds::Text(None),
                    _ => return None,
                };
                Some((*index, field.name().clone(), range))
            })
            // Which files have deleted rows at all, and whose rows are the newer ones.
            .chain(system(DELETED_AT, Bounds::Nulls(0)))
            .chain(system(OP, Bounds::Text(None)))
            .chain(system(SEQUENCE, Bounds::Sequence(None, 0)))
            .collect();
        Self { rows: 0, columns }
    }

    fn add(&mut self, rows: &RecordBatch) {
        self.rows += rows.num_rows() as u32;
        self.columns
            .retain_mut(|(index, _, range)| range.add(rows.column(*index)));
    }

    fn json(&self) -> Value {
        let (mut min, mut max, mut nulls) = (Map::new(), Map::new(), Map::new());
        for (_, name, range) in &self.columns {
            let (low, high) = match range {
                Bounds::Integer(Some((low, high))) => (json!(low), json!(high)),
                Bounds::Text(Some((low, high))) => (json!(low), json!(high)),
                Bounds::Nulls(count) => {
                    nulls.insert(name.clone(), json!(count));
                    continue;
                }
                Bounds::Sequence(Some((low, high)), count) => {
                    min.insert(name.clone(), json!(low));
                    max.insert(name.clone(), json!(high));
                    nulls.insert(name.clone(), json!(count));
                    continue;
                }
                _ => continue,
            };
            min.insert(name.clone(), low);
            max.insert(name.clone(), high);
            nulls.insert(name.clone(), json!(0));
        }
        json!({"numRecords": self.rows, "minValues": min, "maxValues": max, "nullCount": nulls})
    }
}

impl Bounds {
    /// Widens the range, or says that the column can have none.
    fn add(&mut self, column: &ArrayRef) -> bool {
        if let Bounds::Nulls(count) = self {
            *count += column.null_count();
            return true;
        }
        if let Bounds::Sequence(range, count) = self {
            *count += column.null_count();
            for value in column.as_primitive::<Int64Type>().iter().flatten() {
                let (low, high) = range.get_or_insert((value, value));
                (*low, *high) = (value.min(*low), value.max(*high));
            }
            return true;
        }
        if column.null_count() > 0 {
            return false;
        }
        match self {
            Bounds::Nulls(_) | Bounds::Sequence(..) => {}
            Bounds::Integer(range) => {
                let bounds = match column.data_type() {
                    DataType::Int16 => bounds(
                        column
                            .as_primitive::<Int16Type>()
                            .values()
                            .iter()
                            .map(|v| i64::from(*v)),
                    ),
                    DataType::Int32 => bounds(
                        column
                            .as_primitive::<Int32Type>()
                            .values()
                            .iter()
                            .map(|v| i64::from(*v)),
                    ),
                    _ => bounds(column.as_primitive::<Int64Type>().values().iter().copied()),
                };
                if let Some((low, high)) = bounds {
                    *range = Some(range.map_or((low, high), |(l, h)| (l.min(low), h.max(high))));
                }
            }
            Bounds::Text(range) => {
                for text in column.as_string::<i32>().iter().flatten() {
                    if text.len() > STATS_TEXT_MAX {
                        return false;
                    }
                    match range {
                        None => *range = Some((text.to_owned(), text.to_owned())),
                        Some((low, _)) if text < low.as_str() => text.clone_into(low),
                        Some((_, high)) if text > high.as_str() => text.clone_into(high),
                        Some(_) => {}
                    }
                }
            }
        }
        true
    }
}

fn bounds(values: impl Iterator<Item = i64>) -> Option<(i64, i64)> {
    values.fold(None, |range, v| {
        Some(range.map_or((v, v), |(l, h): (i64, i64)| (l.min(v), h.max(v))))
    })
}
