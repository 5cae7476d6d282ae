//! `tributary`: parse, start logging, dispatch, exit code.

mod cli;
mod commands;
mod progress;
mod report;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let bars = progress::start_logging(cli.verbose);
    // Encoding runs on the same threads as I/O; with as many threads as cores
    // a busy writer would keep the stream from being read.
    let threads = std::thread::available_parallelism().map_or(4, |n| (n.get() * 2).max(4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(commands::dispatch(cli, bars)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            report::print_error(&error);
            ExitCode::FAILURE
        }
    }
}
