//! `tributary verify`: whether lake and source are equal.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use indicatif::HumanCount;
use replication::config::Config;
use replication::metrics::Metrics;
use replication::pipeline::{Outcome, Report, TableReport, VerifyOptions};
use serde_json::{Map, Value};

use crate::cli::Verify;
use crate::progress::Bars;
use crate::report::print_error;

const UNVERIFIED: u8 = 2;

pub async fn verify(args: Verify, bars: Bars) -> Result<ExitCode> {
    let json = args.json;
    let report = match compare(args, bars).await {
        Ok(report) => report,
        Err(error) => {
            print_error(&error);
            return Ok(ExitCode::from(UNVERIFIED));
        }
    };
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(match report.outcome {
        Outcome::Equal => ExitCode::SUCCESS,
        Outcome::Different => ExitCode::FAILURE,
        Outcome::Unverified => ExitCode::from(UNVERIFIED),
    })
}

async fn compare(args: Verify, bars: Bars) -> Result<Report> {
    let config = Config::load(&args.configured.config)?;
    let options = VerifyOptions {
        tables: args.tables,
        sample: args.sample,
    };
    let metrics = Arc::new(Metrics::default());
    let showing = bars.follow(metrics.clone());
    let report = replication::pipeline::verify(&config, &options, metrics).await;
    showing.stop().await;
    Ok(report?)
}

fn print(report: &Report) {
    let width = report.tables.iter().map(|t| t.table.chars().count()).max().unwrap_or(0);
    for table in &report.tables {
        let word = match table.outcome {
            Outcome::Equal => "equal",
            Outcome::Different => "DIFFERENT",
            Outcome::Unverified => "unverified",
        };
        println!("{:<width$}  {word:<10}  {}", table.table, summary(table));
        if let Some(reason) = &table.reason {
            println!("  {reason}");
        }
        if let Some(hint) = &table.hint {
            println!("  hint: {hint}");
        }
        told("missing in the lake", table.missing.count, &table.missing.keys);
        told("extra in the lake", table.extra.count, &table.extra.keys);
        let different = &table.different;
        for found in &different.keys {
            println!("  different: {} in {}", key(&found.key), found.columns.join(", "));
        }
        more(different.count, different.keys.len());
        if different.count > different.keys.len() as u64 {
            let columns = different
                .columns
                .iter()
                .map(|(name, rows)| format!("{name} in {}", HumanCount(*rows)));
            println!("  columns that differ: {}", columns.collect::<Vec<_>>().join(", "));
        }
    }
}

fn summary(table: &TableReport) -> String {
    let mut parts = vec![format!("{} rows compared", HumanCount(table.rows))];
    if let Some(share) = table.sample {
        parts.push(format!("a sample of {}%", share * 100.0));
    }
    for (count, what) in [
        (table.in_flight, "left out as in flight"),
        (table.missing.count, "missing"),
        (table.extra.count, "extra"),
        (table.different.count, "different"),
    ] {
        if count > 0 {
            parts.push(format!("{} {what}", HumanCount(count)));
        }
    }
    parts.join(", ")
}

fn told(what: &str, count: u64, keys: &[Map<String, Value>]) {
    for found in keys {
        println!("  {what}: {}", key(found));
    }
    more(count, keys.len());
}

fn more(count: u64, shown: usize) {
    let more = count.saturating_sub(shown as u64);
    if more > 0 {
        println!("  … and {} more", HumanCount(more));
    }
}

/// `id=7, region="eu"`
fn key(key: &Map<String, Value>) -> String {
    let parts: Vec<String> = key.iter().map(|(name, value)| format!("{name}={value}")).collect();
    parts.join(", ")
}
