//! `tributary completions`: what a shell needs to complete the program's words.

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Completions, command};
use crate::report::print;

pub fn completions(args: &Completions) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), env!("CARGO_PKG_NAME"), &mut script);
    print(&script)?;
    Ok(ExitCode::SUCCESS)
}
