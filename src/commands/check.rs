//! `tributary check`: what would fail later.

use std::process::ExitCode;

use anyhow::Result;
use replication::config::Config;

use crate::cli::Configured;

pub async fn check(args: Configured) -> Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let findings = replication::pipeline::check(&config).await?;
    for finding in &findings {
        println!("{} {}", if finding.ok { "✓" } else { "✗" }, finding.what);
        if let Some(hint) = &finding.hint {
            println!("  hint: {hint}");
        }
    }
    let failed = findings.iter().filter(|f| !f.ok).count();
    if failed == 0 {
        println!("\nready: tributary run --config {}", args.config.display());
        Ok(ExitCode::SUCCESS)
    } else {
        println!("\n{failed} to change before `tributary run`");
        Ok(ExitCode::FAILURE)
    }
}
