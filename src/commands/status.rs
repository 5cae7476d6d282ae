//! `tributary status`: where every table stands.

use std::process::ExitCode;

use anyhow::Result;
use replication::config::Config;
use replication::pipeline::{Status as Snapshot, shown_time};

use crate::cli::Status;
use crate::report::bytes;

pub async fn status(args: Status) -> Result<ExitCode> {
    let config = Config::load(&args.configured.config)?;
    let status = replication::pipeline::status(&config).await?;
    if args.json {
        println!("{}", serde_json::to_string(&status)?);
    } else {
        print(&status);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(status: &Snapshot) {
    let source = &status.source;
    let confirmed = source
        .confirmed
        .as_ref()
        .map_or("no slot yet".to_owned(), |p| format!("confirmed {p}"));
    println!(
        "source {}  slot {} ({}, {confirmed}, keeps {})",
        source.address,
        source.slot,
        if source.slot_active { "in use" } else { "idle" },
        bytes(source.retained_bytes),
    );
    if let Some(budget) = source.wal_budget.filter(|budget| source.retained_bytes > *budget) {
        println!("the slot keeps more than source.wal_budget ({})", bytes(budget));
    }
    if let Some(cut) = &status.cut {
        println!(
            "newest cut {}  committed {}  position {}  ({} tables)",
            cut.number,
            shown_time(cut.committed_at),
            cut.position,
            cut.tables,
        );
    }
    let mut rows = vec![["table", "state", "watermark", "lag", "version", "rows", "files"].map(str::to_owned)];
    for table in &status.tables {
        let dash = || "-".to_owned();
        let state = match table.copy.as_ref().or(table.snapshot.as_ref()) {
            Some(s) if s.blocks() > 0 => format!("{} {} %", table.state, s.blocks_done() * 100 / s.blocks()),
            _ => table.state.to_owned(),
        };
        rows.push([
            table.table.clone(),
            state,
            table.watermark.as_ref().map_or_else(dash, |p| p.to_string()),
            table.lag_bytes.map_or_else(dash, bytes),
            table.version.map_or_else(dash, |v| v.to_string()),
            table.rows.to_string(),
            table.files.to_string(),
        ]);
    }
    let widths: Vec<usize> = (0..7)
        .map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
    for table in &status.tables {
        if let Some(reason) = &table.reason {
            println!("{}: {reason}", table.table);
        }
    }
}
