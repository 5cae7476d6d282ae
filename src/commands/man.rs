//! `tributary man`: the help as manual pages, one for the program and one for each command.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Command;
use clap_mangen::roff::{Roff, bold, roman};
use replication::error::Error;

use crate::cli::{Ending, Man, command};
use crate::report::print;

const PROGRAM: &str = env!("CARGO_PKG_NAME");

pub fn man(args: &Man) -> Result<ExitCode> {
    let program = built();
    match (&args.dir, &args.command) {
        (Some(folder), _) => write_all(&program, folder)?,
        (None, None) => print(&page(&program)?)?,
        (None, Some(name)) => {
            let of = verbs(&program).find(|verb| verb.get_name() == name).ok_or_else(|| {
                let names: Vec<&str> = verbs(&program).map(Command::get_name).collect();
                Error::operator(format!("there is no command {name:?}"))
                    .with_hint(format!("name one of {}", names.join(", ")))
            })?;
            print(&page(of)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The command line with all that clap adds to it.
fn built() -> Command {
    let mut program = command().disable_help_subcommand(true);
    program.build();
    program
}

fn verbs(program: &Command) -> impl Iterator<Item = &Command> {
    program.get_subcommands().filter(|verb| !verb.is_hide_set())
}

/// Writes `tributary.1`, `tributary-run.1` and so on.
fn write_all(program: &Command, folder: &Path) -> Result<()> {
    let cannot = |path: &Path, error: io::Error| {
        Error::operator(format!("cannot write {}", path.display()))
            .with_hint("name a folder that you can write to with --dir")
            .with_source(error)
    };
    fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    for command in verbs(program).chain([program]) {
        let path = folder.join(format!("{}.1", title(command)));
        fs::write(&path, page(command)?).map_err(|error| cannot(&path, error))?;
    }
    Ok(())
}

/// `tributary-run`
fn title(command: &Command) -> String {
    match command.get_name() {
        PROGRAM => PROGRAM.to_owned(),
        verb => format!("{PROGRAM}-{verb}"),
    }
}

/// A page in man(7), in ASCII: clap's sections, then ours.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man = clap_mangen::Man::new(command.clone());
    // By hand, for the crate leaves out the date, which is empty, and so shifts what follows.
    let mut page = format!(
        ".TH {} 1 \"\" \"{PROGRAM} {}\" \"Tributary\"\n",
        title(command),
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes();
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(ending) = Ending::of(command.get_name()) {
        render_ending(&ending).to_writer(&mut page)?;
    }
    see_also(command).to_writer(&mut page)?;
    Ok(ascii(&String::from_utf8_lossy(&page)).into_bytes())
}

/// Writes other characters as groff_char(7) has them, which needs no locale.
fn ascii(page: &str) -> String {
    let escaped = |c: char| match c.is_ascii() {
        true => c.to_string(),
        false => format!("\\[u{:04X}]", u32::from(c)),
    };
    page.chars().map(escaped).collect()
}

fn render_ending(ending: &Ending) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in ending.exits {
        roff.control("TP", []).text([bold(*code)]).text([roman(*meaning)]);
    }
    roff.control("SH", ["EXAMPLES"]);
    for (index, (about, commands)) in ending.examples.iter().enumerate() {
        if index > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(*about)]);
        // Lines of commands stay as they are.
        roff.control("PP", []).control("RS", ["4"]).control("nf", []);
        for command in commands.lines() {
            roff.text([roman(command)]);
        }
        roff.control("fi", []).control("RE", []);
    }
    roff
}

fn see_also(of: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let program = built();
    let others = [&program].into_iter().chain(verbs(&program));
    let others = others.filter(|other| other.get_name() != of.get_name());
    let names: Vec<String> = others.map(|other| format!("{}(1)", title(other))).collect();
    roff.text([roman(names.join(", "))]);
    roff
}
