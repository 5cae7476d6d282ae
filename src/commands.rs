//! One file per verb.

mod check;
mod completions;
mod config;
mod cuts;
mod health;
mod init;
mod maintain;
mod man;
mod run;
mod snapshot;
mod status;
mod verify;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::progress::Bars;

pub async fn dispatch(cli: Cli, bars: Bars) -> Result<ExitCode> {
    match cli.command {
        Command::Init(args) => init::init(args).await,
        Command::Run(args) => run::run(args, bars).await,
        Command::Snapshot(args) => snapshot::snapshot(args, bars).await,
        Command::Check(args) => check::check(args).await,
        Command::Status(args) => status::status(args).await,
        Command::Maintain(args) => maintain::maintain(args).await,
        Command::Cuts(args) => cuts::cuts(args).await,
        Command::Verify(args) => verify::verify(args, bars).await,
        Command::Health(args) => health::health(args).await,
        Command::Config(args) => config::config(&args),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => man::man(&args),
    }
}
