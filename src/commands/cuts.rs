//! `tributary cuts`: which versions of all tables belong together.

use std::process::ExitCode;

use anyhow::Result;
use replication::config::Config;
use replication::pipeline::{Cut, CutList, CutsOptions, shown_time};

use crate::cli::Cuts;

pub async fn cuts(args: Cuts) -> Result<ExitCode> {
    let config = Config::load(&args.configured.config)?;
    let options = CutsOptions {
        at: args.at,
        limit: args.limit as usize,
    };
    let list = replication::pipeline::cuts(&config, &options).await?;
    if args.json {
        println!("{}", serde_json::to_string(&list)?);
    } else {
        print(&list);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(list: &CutList) {
    for cut in &list.cuts {
        println!(
            "cut {}  committed {}  position {}",
            cut.number,
            shown_time(cut.committed_at),
            cut.position,
        );
        let widest = cut.tables.iter().map(|table| table.table.chars().count()).max();
        for table in &cut.tables {
            println!(
                "  {:<width$}  version {}",
                table.table,
                table.version,
                width = widest.unwrap_or(0)
            );
        }
    }
    if !list.missing.is_empty() {
        println!(
            "not in it, for they did not equal the source: {}",
            list.missing.join(", ")
        );
    }
    if let Some(cut) = list.cuts.first() {
        println!("\n{}", example(&list.lake, cut));
    }
}

/// Python that opens all tables of a cut.
fn example(lake: &str, cut: &Cut) -> String {
    let lake = lake.trim_end_matches('/');
    let mut lines = vec![
        "from deltalake import DeltaTable, QueryBuilder".to_owned(),
        "tables = QueryBuilder()".to_owned(),
    ];
    for table in &cut.tables {
        lines.push(format!(
            "tables.register({:?}, DeltaTable({:?}, version={}))",
            table.table.replace(|c: char| !c.is_alphanumeric(), "_"),
            format!("{lake}/{}", table.path),
            table.version
        ));
    }
    lines.join("\n")
}
