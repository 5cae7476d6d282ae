//! `tributary snapshot`: copies tables anew.

use std::process::ExitCode;

use anyhow::Result;
use replication::config::Config;
use replication::pipeline::Progress;

use super::run::replicate;
use crate::cli::Snapshot;
use crate::progress::Bars;

pub async fn snapshot(args: Snapshot, bars: Bars) -> Result<ExitCode> {
    let path = args.configured.config;
    let config = Config::load(&path)?;
    let asked = replication::pipeline::snapshot(&config, &args.tables).await?;
    let names: Vec<String> = asked.tables().map(ToString::to_string).collect();
    if names.is_empty() {
        println!("no table needs a new snapshot; name the tables to copy anew: tributary snapshot schema.table");
        return Ok(ExitCode::SUCCESS);
    }
    if !asked.running {
        println!("copying {}", names.join(", "));
        match replicate(path, config.clone(), true, bars).await {
            // One that started just now has the slot, and finds the request.
            Err(_) if asked.is_running(&config).await? => {}
            result => return result,
        }
    }
    println!(
        "asked the running sidecar to copy {}; waiting (Ctrl-C leaves the request in place)",
        names.join(", ")
    );
    let mut told: Vec<String> = Vec::new();
    asked
        .wait(|progress| {
            let lines: Vec<String> = progress.iter().map(line).collect();
            if lines != told {
                for line in lines.iter().filter(|line| !told.contains(line)) {
                    println!("{line}");
                }
                told = lines;
            }
        })
        .await?;
    Ok(ExitCode::SUCCESS)
}

fn line(progress: &Progress) -> String {
    if progress.done {
        format!("{}: done", progress.table)
    } else {
        format!("{}: {}, {} rows copied", progress.table, progress.state, progress.rows)
    }
}
