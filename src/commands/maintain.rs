//! `tributary maintain`: compacts and cleans the lake once.

use std::process::ExitCode;

use anyhow::Result;
use replication::config::Config;
use replication::pipeline::Maintained;
use serde_json::json;

use crate::cli::Maintain;
use crate::report::bytes;

pub async fn maintain(args: Maintain) -> Result<ExitCode> {
    let config = Config::load(&args.configured.config)?;
    let report = replication::pipeline::maintain(&config, |done| {
        if !args.json {
            println!("{}", line(done));
        }
    })
    .await?;
    if args.json {
        println!("{}", json!({"tables": report}));
    }
    Ok(ExitCode::SUCCESS)
}

fn line(done: &Maintained) -> String {
    if let Some(why) = &done.skipped {
        return format!("{}: left alone, {why}", done.table);
    }
    format!(
        "{}: {} files became {}; removed {} files ({}) and {} log entries",
        done.table,
        done.files_compacted,
        done.files_written,
        done.files_removed,
        bytes(done.bytes_removed),
        done.log_entries_removed
    )
}
