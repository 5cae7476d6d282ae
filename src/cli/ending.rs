//! What the help and the manual page of a command end with: exit codes and examples.

use std::fmt;

use super::WIDTH;
use crate::report::wrapped;

pub struct Ending {
    /// By code: what it says.
    pub exits: &'static [(&'static str, &'static str)],
    /// What it is for, and the command.
    pub examples: &'static [(&'static str, &'static str)],
}

const FAILED: (&str, &str) = ("1", "it failed; the error and a hint are on standard error");
const MISUSED: (&str, &str) = ("2", "the command line is wrong");

impl Ending {
    /// That of a command, or of the program.
    pub fn of(command: &str) -> Option<Self> {
        let (exits, examples): (&[_], &[_]) = match command {
            "tributary" => (
                &[
                    ("0", "done, or all is well"),
                    (
                        "1",
                        "not done, or something is not well; check, health and verify say what 1 is",
                    ),
                    (
                        "2",
                        "the command line is wrong; of verify also: it could not be found out",
                    ),
                ],
                &[
                    (
                        "From a database to a lake that follows it:",
                        "tributary init postgres://replicator:secret@db.example:5432/shop --lake ./lake\n\
                         export PGPASSWORD=secret\n\
                         tributary check\n\
                         tributary run",
                    ),
                    ("All that can be configured:", "tributary config"),
                ],
            ),
            "init" => (
                &[("0", "the file is written"), FAILED, MISUSED],
                &[
                    (
                        "A configuration for a database, with a lake in a bucket:",
                        "tributary init mysql://root:secret@db.example:3306 --lake s3://bucket/shop",
                    ),
                    (
                        "The same for MongoDB, to another file, with the URL from the environment:",
                        "export TRIBUTARY_SOURCE_URL='mongodb://root:secret@db.example:27017/shop?replicaSet=rs0'\n\
                         tributary init --config shop.toml",
                    ),
                ],
            ),
            "check" => (
                &[
                    ("0", "all is well: `tributary run` can start"),
                    (
                        "1",
                        "something has to be changed first, or it could not be looked at, for the configuration has a \
                         mistake or the source can't be reached",
                    ),
                    MISUSED,
                ],
                &[(
                    "Before the first run, and after a change of the configuration:",
                    "tributary check --config shop.toml",
                )],
            ),
            "run" => (
                &[
                    ("0", "stopped by SIGTERM or Ctrl-C; with --once, all is in the lake"),
                    (
                        "1",
                        "it can't go on before a person has changed something; the error and a hint are on standard \
                         error. To start it again does no harm",
                    ),
                    MISUSED,
                ],
                &[
                    (
                        "As a sidecar, with a configuration of its own:",
                        "tributary run --config shop.toml",
                    ),
                    (
                        "From time to time, as by cron, instead of all the time:",
                        "tributary run --once && tributary maintain",
                    ),
                    (
                        "With a URL that no file has:",
                        "TRIBUTARY_SOURCE_URL=postgres://replicator:secret@db.example/shop tributary run",
                    ),
                ],
            ),
            "status" => (
                &[("0", "shown, whatever the tables' states"), FAILED, MISUSED],
                &[
                    ("What there is:", "tributary status"),
                    (
                        "Tables that do not follow the source, for a script:",
                        "tributary status --json | jq -r '.tables[] | select(.state != \"streaming\") | .table'",
                    ),
                ],
            ),
            "health" => (
                &[
                    ("0", "the sidecar answers with 200"),
                    (
                        "1",
                        "it answers otherwise or not at all, http.listen is \"off\", or the configuration has a \
                         mistake; the reason and a hint are on standard error",
                    ),
                    MISUSED,
                ],
                &[
                    (
                        "As the health check of a container:",
                        "HEALTHCHECK CMD [\"tributary\", \"health\"]",
                    ),
                    (
                        "Wait until it follows the source:",
                        "until tributary health --ready; do sleep 1; done",
                    ),
                ],
            ),
            "snapshot" => (
                &[("0", "the copies are in place, or no table needs one"), FAILED, MISUSED],
                &[
                    ("All tables for which changes are lost:", "tributary snapshot"),
                    (
                        "Some, whatever their state:",
                        "tributary snapshot public.orders 'shop.item*'",
                    ),
                ],
            ),
            "verify" => (
                &[
                    ("0", "lake and source are equal"),
                    ("1", "something differs"),
                    ("2", "it could not be found out, or the command line is wrong"),
                ],
                &[
                    ("Everything:", "tributary verify"),
                    (
                        "A sample of large tables:",
                        "tributary verify 'public.event*' --sample 1%",
                    ),
                ],
            ),
            "cuts" => (
                &[("0", "shown"), FAILED, MISUSED],
                &[
                    ("The newest, with the Python that opens its tables:", "tributary cuts"),
                    ("The state of noon:", "tributary cuts --at 2026-01-31T12:00:00Z --json"),
                ],
            ),
            "maintain" => (
                &[("0", "done; tables that were left alone are named"), FAILED, MISUSED],
                &[("After `run --once`:", "tributary run --once && tributary maintain")],
            ),
            "config" => (
                &[("0", "printed"), FAILED, MISUSED],
                &[
                    ("To read:", "tributary config | less"),
                    (
                        "For Taplo and Even Better TOML, if the file's first line is #:schema ./tributary.schema.json:",
                        "tributary config --format json-schema > tributary.schema.json",
                    ),
                ],
            ),
            "completions" => (
                &[("0", "printed"), FAILED, MISUSED],
                &[
                    (
                        "bash, for one user:",
                        "mkdir -p ~/.local/share/bash-completion/completions\n\
                         tributary completions bash > ~/.local/share/bash-completion/completions/tributary",
                    ),
                    (
                        "zsh, in a folder of its fpath:",
                        "tributary completions zsh > /usr/local/share/zsh/site-functions/_tributary",
                    ),
                    (
                        "fish:",
                        "tributary completions fish > ~/.config/fish/completions/tributary.fish",
                    ),
                ],
            ),
            "man" => (
                &[("0", "printed or written"), FAILED, MISUSED],
                &[
                    ("To read one:", "tributary man check | man -l -"),
                    ("For all users:", "tributary man --dir /usr/local/share/man/man1"),
                ],
            ),
            _ => return None,
        };
        Some(Self { exits, examples })
    }
}

/// As help has it.
impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exit codes:")?;
        for (code, meaning) in self.exits {
            let lines = wrapped(meaning, "     ", WIDTH);
            write!(f, "\n  {code}  {}", lines.trim())?;
        }
        write!(f, "\n\nExamples:")?;
        for (index, (about, commands)) in self.examples.iter().enumerate() {
            let gap = if index > 0 { "\n" } else { "" };
            write!(f, "{gap}\n  {about}")?;
            for command in commands.lines() {
                write!(f, "\n    {command}")?;
            }
        }
        Ok(())
    }
}
