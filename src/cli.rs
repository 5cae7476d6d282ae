//! Every flag, with its help text.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Keeps Delta Lake tables equal to a live PostgreSQL, MySQL, MariaDB or MongoDB
/// database, exactly once.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Show more in the log; twice for everything. RUST_LOG overrides.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at a database, and write a configuration for it.
    ///
    /// Says which tables can be replicated, why others can't and what to do about
    /// it, and prints the statements that make a user with no more rights than it
    /// needs. Changes nothing at the source; the password is not written.
    Init(Init),
    /// Replicate: copy what is new, then follow the source until stopped.
    ///
    /// SIGTERM and Ctrl-C commit what is complete, confirm it to the source
    /// and exit with 0. SIGHUP reads the configuration again: source.tables,
    /// source.on_gap, [snapshot] and [maintenance] but its threads take effect at
    /// once.
    Run(Run),
    /// Copy tables anew, each replaced in one commit once its copy is whole.
    ///
    /// Hands the request to a running sidecar and waits; without one, does it
    /// itself. Readers see the old content until the new one is in place.
    Snapshot(Snapshot),
    /// Look at everything that would fail later: rights, settings, tables, lake.
    ///
    /// Exits with 0 if all is well, with 1 if something has to be changed first.
    Check(Configured),
    /// Show where every table stands. Works beside a running sidecar.
    Status(Status),
    /// Compact the lake's tables and remove what no kept version needs, once.
    ///
    /// A running sidecar does so by itself; this is for lakes that `run --once`
    /// writes. Needs the lake alone, not the source.
    Maintain(Maintain),
    /// Show which versions of all tables belong together.
    ///
    /// A cut lists the version of each table that shows the source at one and
    /// the same position of its log: opened together, they hold what holds
    /// across tables at the source. Reads the lake alone, with a running
    /// sidecar or without one.
    Cuts(Cuts),
    /// Compare the lake with the source, value by value, while both go on.
    ///
    /// Works beside a running sidecar and without one. Exits with 0 if they are
    /// equal, with 1 if anything differs, and with 2 if that could not be found out.
    Verify(Verify),
}

#[derive(Debug, Args)]
pub struct Configured {
    /// The configuration file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "tributary.toml",
        env = "TRIBUTARY_CONFIG"
    )]
    pub config: PathBuf,
}

#[derive(Debug, Args)]
pub struct Init {
    /// postgres://, mysql://, mariadb:// or mongodb://, as source.url.
    #[arg(value_name = "URL", env = "TRIBUTARY_SOURCE_URL", hide_env_values = true)]
    pub url: String,

    /// Where the lake is to be: a folder, or a prefix of a bucket.
    #[arg(long, value_name = "URL", default_value = "./lake")]
    pub lake: String,

    #[command(flatten)]
    pub configured: Configured,

    /// Overwrite the file.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub configured: Configured,

    /// Stop once every table has all that the source had at the start.
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, Args)]
pub struct Snapshot {
    #[command(flatten)]
    pub configured: Configured,

    /// schema.table, or a glob; by default all tables that need it.
    #[arg(value_name = "TABLE")]
    pub tables: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    pub configured: Configured,

    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Maintain {
    #[command(flatten)]
    pub configured: Configured,

    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Cuts {
    #[command(flatten)]
    pub configured: Configured,

    /// The newest cut at or before a time (2026-01-31T12:00:00Z) or a position
    /// of the source; by default the newest of all.
    #[arg(long, value_name = "TIME|POSITION", allow_hyphen_values = true)]
    pub at: Option<String>,

    /// How many, from that one back.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,

    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// Names of tables or globs over `schema.table`; all if none is given.
    #[arg(value_name = "TABLE")]
    pub tables: Vec<String>,

    #[command(flatten)]
    pub configured: Configured,

    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,

    /// Compare a random part of this size, such as 1%.
    #[arg(long, value_name = "PERCENT", value_parser = share)]
    pub sample: Option<f64>,
}

/// `5%` is 0.05.
fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err("expected a percentage above 0% and up to 100%, like 1%".to_owned()),
    }
}
