//! Wears a table out by itself, as fast as it goes: what `tests/bench/run day` runs.
//!
//! Arguments: the folder of the lake, rows, commits, and after how many of them each
//! to look. A commit is 200 updates, 10 inserts and 10 deletes of random rows; what
//! is worth compacting is compacted right after it, as a sidecar does between two
//! commits that are seconds apart. At each look the same rows are written beside, as a
//! first copy writes them, a line of JSON is printed, and a line is waited for.

use std::io::{BufRead, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use replication::batch::{ChangeBatch, Op};
use replication::config::StoreOptions;
use replication::error::{Error, Result};
use replication::lake::{
    Chunk, DeltaTable, IndexHome, Lake, Log, Origin, PointRead, PointReader, Shape, State, TableRecord,
};
use replication::position::{Lsn, Position};
use replication::schema::{Column, LakeType, SourceType, TableId, TableSchema};
use serde_json::json;

const UPDATES: u64 = 200;
const FEW: u64 = 10;
/// Rows of a first copy's chunk: what 64 MiB of a table of such rows has.
const CHUNK_ROWS: usize = 750_000;
/// Of the key index, in memory.
const INDEX_MEMORY: u64 = 32 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |at: usize, default: u64| arguments.get(at).and_then(|a| a.parse().ok()).unwrap_or(default);
    let folder = arguments
        .first()
        .ok_or_else(|| Error::operator("no folder for the lake"))?;
    let (rows, commits, every) = (number(1, 1_000_000), number(2, 17_280), number(3, 1_000));
    let lake = Lake::open(folder, &StoreOptions::default())?;
    // By id, how often a row was changed.
    let mut model: Vec<Option<u32>> = vec![Some(0); rows as usize];
    let mut table = copy(&lake, "worn", &model).await?;
    let mut random = numbers(7);
    let (mut compactions, mut compacted_bytes, mut compacting) = (0_u64, 0_i64, Duration::ZERO);
    let (mut times, mut files_max) = (Vec::new(), 0);
    for done in 1..=commits {
        let batch = changes(&mut model, &mut random)?;
        let started = Instant::now();
        table.stage(batch, &NoSource).await?;
        table
            .commit("MERGE", |record| record.watermark = position(1 + done))
            .await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        while let Some(compaction) = table.compaction() {
            let Some(compacted) = compaction.run(&AtomicBool::new(false)).await? else {
                break;
            };
            compactions += 1;
            compacted_bytes += compacted.sizes().1;
            table.take_compacted(&compacted).await?;
        }
        compacting += started.elapsed();
        files_max = files_max.max(table.size().files);
        if done % every == 0 || done == commits {
            // A checkpoint may be on its way.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let name = format!("fresh{done}");
            drop(copy(&lake, &name, &model).await?);
            times.sort_by(f64::total_cmp);
            let size = table.size();
            let line = json!({
                "commits": done, "worn": "public/worn", "fresh": format!("public/{name}"), "rows": size.rows,
                "files": size.files, "files_max": files_max, "vectors": size.vectors, "version": table.version(),
                "compactions": compactions, "compacted_bytes": compacted_bytes, "compacting_seconds": compacting.as_secs_f64(),
                "commit_ms": times.get(times.len() / 2),
            });
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}")
                .and_then(|()| out.flush())
                .map_err(|e| Error::bug("nobody listens").with_source(e))?;
            times.clear();
            let mut answer = String::new();
            let read = std::io::stdin().lock().read_line(&mut answer);
            read.map_err(|e| Error::bug("nobody answers").with_source(e))?;
        }
    }
    Ok(())
}

/// A new table with the rows of the model, in order of their keys.
async fn copy(lake: &Lake, name: &str, model: &[Option<u32>]) -> Result<DeltaTable> {
    let schema = schema();
    let log: Log = lake.table(&TableId::new("public", name))?;
    let shape = Shape::new(&schema, &Origin::default());
    let record = TableRecord::new("wear".into(), format!("public.{name}"), 7, 1, position(1));
    let mut table = DeltaTable::create(log, schema, shape, record).await?;
    table.prepare(&IndexHome::private(INDEX_MEMORY)).await?;
    let live: Vec<(i64, u32)> = (0..)
        .zip(model)
        .filter_map(|(id, times)| Some((id, (*times)?)))
        .collect();
    for part in live.chunks(CHUNK_ROWS) {
        let mut writer = table.file_format().writer();
        for some in part.chunks(8 << 10) {
            let rows = rows(some)?;
            let keys = table.encoder().keys(&rows)?;
            writer.write(&rows, &keys).await?;
        }
        let chunk = Chunk {
            files: writer.finish().await?,
            saw: Box::new(|_| true),
            all_saw: Box::new(|_| true),
        };
        table.stage_chunk(chunk).await?;
        table.commit("SNAPSHOT", |_| {}).await?;
    }
    table.commit("STREAM", |record| record.state = State::Streaming).await?;
    Ok(table)
}

/// A transaction's changes, which the model has then.
fn changes(model: &mut Vec<Option<u32>>, random: &mut impl FnMut(u64) -> u64) -> Result<ChangeBatch> {
    let (mut of, mut ops) = (Vec::new(), Vec::new());
    for _ in 0..UPDATES {
        let id = random(model.len() as u64) as usize;
        if let Some(times) = &mut model[id] {
            *times += 1;
            of.push((id as i64, *times));
            ops.push(Op::Upsert);
        }
    }
    for _ in 0..FEW {
        of.push((model.len() as i64, 0));
        ops.push(Op::Insert);
        model.push(Some(0));
    }
    for _ in 0..FEW {
        let id = random(model.len() as u64) as usize;
        if let Some(times) = model[id].take() {
            of.push((id as i64, times));
            ops.push(Op::Delete);
        }
    }
    Ok(ChangeBatch {
        rows: rows(&of)?,
        transactions: vec![1; ops.len()],
        ops,
        unchanged: Vec::new(),
        truncated_by: None,
        patches: None,
        commits: None,
    })
}

/// Rows that were changed so often; of the kind that `accounts.sql` makes.
fn rows(of: &[(i64, u32)]) -> Result<RecordBatch> {
    let mixed = |id: i64, times: u32, salt: u64| mix(id as u64 ^ u64::from(times) << 40 ^ salt << 56);
    let ids = || of.iter().map(|(id, _)| *id);
    let times = of
        .iter()
        .map(|(id, times)| 1_704_067_200_000_000 + id * 17_000 + i64::from(*times) * 1_000_000);
    let states = ids().map(|id| ["new", "paid", "shipped", "returned"][id as usize % 4]);
    let notes = of
        .iter()
        .map(|(id, times)| (id % 16 != 2 || *times > 0).then(|| format!("n{}", mixed(*id, *times, 1) % 1_000_000_000)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids().collect::<Int64Array>()),
        Arc::new(
            ids()
                .map(|id| (mixed(id, 0, 2) % 200_000) as i32)
                .collect::<Int32Array>(),
        ),
        Arc::new(
            of.iter()
                .map(|(id, times)| (mixed(*id, 0, 3) % 1_000_000_000) as i64 + i64::from(*times))
                .collect::<Int64Array>(),
        ),
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
        Arc::new(StringArray::from_iter_values(states)),
        Arc::new(notes.collect::<StringArray>()),
    ];
    RecordBatch::try_new(schema().arrow(), columns).map_err(|e| Error::bug("rows that don't fit").with_source(e))
}

fn schema() -> Arc<TableSchema> {
    let columns = [
        ("id", LakeType::Long),
        ("owner", LakeType::Integer),
        ("v", LakeType::Long),
        ("changed_at", LakeType::Timestamp),
        ("state", LakeType::String),
        ("note", LakeType::String),
    ];
    let column = |(attribute, (name, ty)): (i32, (&str, LakeType))| Column {
        name: name.into(),
        ty,
        attribute,
        source: SourceType::default(),
    };
    Arc::new(TableSchema {
        columns: (1..).zip(columns).map(column).collect(),
        key: vec![0],
    })
}

fn position(lsn: u64) -> Position {
    Position::Lsn(Lsn(lsn))
}

/// Is never asked: each row comes whole.
struct NoSource;

impl PointReader for NoSource {
    fn read<'a>(&'a self, _: RecordBatch) -> Pin<Box<dyn Future<Output = Result<PointRead>> + Send + 'a>> {
        Box::pin(async { Err(Error::bug("the source was asked for a row")) })
    }
}

/// The next numbers of a sequence that looks random.
fn numbers(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(seed) % below
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}
