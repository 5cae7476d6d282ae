//! Every flag, with its help text.

mod ending;

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

pub use ending::Ending;

use crate::report::wrapped;

/// Keeps Delta Lake tables equal to a live PostgreSQL, MySQL, MariaDB or MongoDB
/// database, exactly once.
///
/// One process replicates one source, as one configuration file says; every key
/// of it is also an environment variable. What commands answer is on standard
/// output, the log and errors are on standard error.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Show more in the log (standard error); twice for everything. RUST_LOG overrides.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    #[command(subcommand)]
    pub command: Command,
}

/// Characters in a line of help. Commands of examples may take more.
const WIDTH: usize = 80;
/// Those that help has before the text of an option.
const INDENT: usize = 10;

/// The program's command line. Help has lines of [`WIDTH`], and ends with what [`Ending`] has.
pub fn command() -> clap::Command {
    finished(Cli::command()).mut_subcommands(finished)
}

fn finished(mut command: clap::Command) -> clap::Command {
    if let Some(about) = command.get_long_about().map(ToString::to_string) {
        command = command.long_about(in_lines(&about, WIDTH));
    }
    if let Some(ending) = Ending::of(command.get_name()) {
        command = command.after_long_help(ending.to_string());
    }
    command.mut_args(
        |arg| match arg.get_long_help().or(arg.get_help()).map(ToString::to_string) {
            Some(help) => arg.long_help(in_lines(&help, WIDTH - INDENT)),
            None => arg,
        },
    )
}

/// Paragraphs in lines of this many characters: clap does so only with more crates.
fn in_lines(text: &str, width: usize) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| wrapped(paragraph, "", width));
    paragraphs.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// What was given; says what is wrong with it, and ends the program, if it can't be understood.
pub fn parse() -> Cli {
    let matches = command().get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at a database, and write a configuration for it.
    ///
    /// Lists the tables that can be replicated, with their keys and sizes, and
    /// those that can't, with what to do about it; these it excludes. Prints the
    /// statements that make a user with no more rights than it needs. Changes
    /// nothing at the source, and does not write the password.
    Init(Init),
    /// Look at everything that would fail later: rights, settings, tables, lake.
    ///
    /// Prints a line for each thing that it looks at, ✓ if it is well and ✗ if it
    /// has to be changed, with a hint: the statement or the setting that does so.
    /// Needs the source and the lake, to which it writes a probe that it removes. Can
    /// be run at any time, beside a running sidecar too.
    Check(Configured),
    /// Replicate: copy what is new, then follow the source until stopped.
    ///
    /// Transient faults never end it: it starts over by itself, after a pause of up
    /// to 30 s. What ends it needs a person, and its last words say what to do.
    ///
    /// SIGTERM and Ctrl-C commit what is complete, confirm it to the source
    /// and exit with 0. SIGHUP reads the configuration again: source.tables,
    /// source.on_gap, source.wal_budget, source.on_wal_budget, [snapshot] and
    /// [maintenance] but its threads take effect at once.
    Run(Run),
    /// Show where every table stands, and what the source keeps for it.
    ///
    /// Works beside a running sidecar and without one. Needs the lake and the source,
    /// which it asks how far its log is.
    Status(Status),
    /// Ask the running sidecar whether it is well, for health checks.
    ///
    /// Asks for /health at http.listen of the configuration, on this machine: that
    /// answers as long as the program runs. It needs neither source nor lake. Where
    /// http.listen is 0.0.0.0 or [::], it asks the loopback address. There has to be
    /// an answer within 5 s.
    Health(Health),
    /// Copy tables anew, each replaced in one commit once its copy is whole.
    ///
    /// Hands the request to a running sidecar and waits, and Ctrl-C leaves it there;
    /// without one, does it itself, as `run --once`. Readers see the old content
    /// until the new one is in place.
    Snapshot(Snapshot),
    /// Compare the lake with the source, value by value, while both go on.
    ///
    /// Works beside a running sidecar and without one, and changes nothing. Lists the
    /// keys of rows that differ, never values. Rows that keep changing meanwhile
    /// are counted as in flight.
    Verify(Verify),
    /// Show which versions of all tables belong together.
    ///
    /// A cut lists the version of each table that shows the source at one and
    /// the same position of its log: opened together, they hold what holds
    /// across tables at the source. Reads the lake alone, with a running
    /// sidecar or without one.
    Cuts(Cuts),
    /// Compact the lake's tables and remove what no kept version needs, once.
    ///
    /// A running sidecar does so by itself; this is for lakes that `run --once`
    /// writes. Needs the lake alone, not the source.
    Maintain(Maintain),
    /// Print what can be configured: every key, its default and its meaning.
    ///
    /// Reads no file: it is the reference of this version, not what some file
    /// has. As json-schema it is for editors, which then complete keys, explain them
    /// and mark mistakes.
    Config(Reference),
    /// Print a script that makes a shell complete commands and options.
    ///
    /// The script does not run the program, so print it anew after an upgrade.
    Completions(Completions),
    /// Print a manual page, or write all of them to a folder.
    ///
    /// They say what --help says, in the format of man(7): one page for the program
    /// and one for each command.
    Man(Man),
}

impl Command {
    /// Whether it works on the lake, so that its time is worth to be traced.
    pub fn is_traced(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Snapshot(_) | Self::Maintain(_))
    }
}

#[derive(Debug, Args)]
pub struct Configured {
    /// The configuration file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "tributary.toml",
        env = "TRIBUTARY_CONFIG",
        value_hint = ValueHint::FilePath
    )]
    pub config: PathBuf,
}

#[derive(Debug, Args)]
pub struct Init {
    /// postgres://, mysql://, mariadb:// or mongodb://, as source.url.
    #[arg(value_name = "URL", env = "TRIBUTARY_SOURCE_URL", hide_env_values = true, value_hint = ValueHint::Url)]
    pub url: String,

    /// Where the lake is to be: a folder, or a prefix of a bucket.
    #[arg(long, value_name = "URL", default_value = "./lake")]
    pub lake: String,

    #[command(flatten)]
    pub configured: Configured,

    /// Overwrite the configuration file if it is there.
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
pub struct Health {
    #[command(flatten)]
    pub configured: Configured,

    /// Ask for /ready: whether it reads the source's log.
    ///
    /// Not so during an outage of the source or the lake, which no restart cures.
    #[arg(long)]
    pub ready: bool,
}

#[derive(Debug, Args)]
pub struct Reference {
    /// How it is written.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// The table of the README.
    Markdown,
    /// For editors: JSON Schema, draft 2020-12.
    JsonSchema,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell it is for.
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct Man {
    /// The command it is about; the whole program by default.
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,

    /// Write the pages of all commands to this folder, which is made if it is not there.
    #[arg(long, value_name = "FOLDER", conflicts_with = "command", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Snapshot {
    #[command(flatten)]
    pub configured: Configured,

    /// Names of tables or globs over schema.table; by default all for which changes are lost.
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
    /// Names of tables or globs over schema.table; by default all.
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
