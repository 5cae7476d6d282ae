//! `tributary config`: what can be configured.

use std::process::ExitCode;

use anyhow::Result;
use replication::config::reference::{self, Default, Key, SECTIONS, Section};

use crate::cli::{Format, Reference};
use crate::report::{print, wrapped};

/// Characters in a line of the text.
const WIDTH: usize = 80;
const INDENT: &str = "    ";

pub fn config(args: &Reference) -> Result<ExitCode> {
    let text = match args.format {
        Format::Text => text(),
        Format::Markdown => markdown(),
        Format::JsonSchema => format!("{:#}\n", reference::schema()),
    };
    print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn text() -> String {
    let mut text = wrapped(
        "The keys of tributary.toml. Every key of a [section] is also an environment variable, which goes before the \
         file: source.url is TRIBUTARY_SOURCE_URL.",
        "",
        WIDTH,
    );
    for section in SECTIONS {
        text += &format!("\n{}  {}\n", section.heading(), section.about);
        for key in section.keys {
            let default = match key.default {
                Default::Value(value) => format!("default {value}"),
                Default::Otherwise(words) => format!("default: {}", plain(words)),
                Default::Required => "required".to_owned(),
            };
            text += &format!("\n{}  {}; {default}\n", shown(section, key), key.form.words());
            text += &wrapped(&plain(&key.plain_meaning()), INDENT, WIDTH);
        }
    }
    text + "\n"
        + &wrapped(
            "[[table]] may be there several times. All entries that match a table count; a key that several of them \
             set is as the last one has it.",
            "",
            WIDTH,
        )
}

fn shown(section: &Section, key: &Key) -> String {
    match section.repeated {
        true => key.name.to_owned(),
        false => format!("{}.{}", section.name, key.name),
    }
}

/// Without Markdown's marks of code.
fn plain(markdown: &str) -> String {
    markdown.replace('`', "")
}

/// The table of the README.
fn markdown() -> String {
    let mut table = "| key | default | meaning |\n|---|---|---|\n".to_owned();
    for section in SECTIONS {
        for key in section.keys {
            let name = match section.repeated {
                true => format!("`{}` `{}`", section.heading(), key.name),
                false => format!("`{}.{}`", section.name, key.name),
            };
            let default = match key.default {
                Default::Value(value) => format!("`{value}`"),
                Default::Otherwise(words) => words.to_owned(),
                Default::Required => "–".to_owned(),
            };
            table += &format!("| {name} | {default} | {} |\n", key.meaning);
        }
    }
    table
}
