//! `tributary`: parse, start logging, dispatch, exit code.

mod cli;
mod commands;
mod daemon;
mod progress;
mod report;
mod traces;

use std::process::ExitCode;
use std::time::Duration;

use crate::traces::Traces;

fn main() -> ExitCode {
    limit_heaps();
    give_back_memory();
    let cli = cli::parse();
    let (traces, untraced) = match cli.command.is_traced().then(Traces::start).transpose() {
        Ok(traces) => (traces.flatten(), None),
        Err(error) => (None, Some(error)),
    };
    let bars = progress::start_logging(cli.verbose, traces.as_ref());
    if let Some(error) = untraced {
        // Replication is worth more than its traces.
        tracing::warn!("there are no traces: {error:#}");
    }
    // Encoding runs on the same threads as I/O; with as many threads as cores
    // a busy writer would keep the stream from being read.
    let threads = std::thread::available_parallelism().map_or(4, |n| (n.get() * 2).max(4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build();
    let result = match runtime {
        // On a worker: a future that `block_on` itself polls is woken through
        // another thread for every read from the socket.
        Ok(runtime) => {
            let result = runtime.block_on(runtime.spawn(commands::dispatch(cli, bars)));
            // A thread that reads a log waits as long as its store lets it.
            runtime.shutdown_timeout(Duration::from_secs(1));
            result.unwrap_or_else(|error| Err(error.into()))
        }
        Err(error) => Err(error.into()),
    };
    drop(traces);
    match result {
        Ok(code) => code,
        Err(error) => {
            report::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Keeps glibc from giving every thread a heap of its own: batches are filled
/// by one thread and freed by another, which doubles the peak. And from taking
/// the largest buffers out of heaps, which it begins to once some were freed:
/// what is small between them keeps their room, so that memory grew for hours.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn limit_heaps() {
    const LARGEST: libc::c_int = 4 << 20;
    // SAFETY: mallopt only sets numbers, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn limit_heaps() {}

/// Lets glibc return what is free in the middle of its heaps, now and then: after
/// thousands of commits that was half of what the process held.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn give_back_memory() {
    const INTERVAL: std::time::Duration = std::time::Duration::from_secs(20);
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(INTERVAL);
            // SAFETY: malloc_trim takes the heaps' own locks.
            unsafe {
                libc::malloc_trim(0);
            }
        }
    });
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back_memory() {}
