//! The program's own words.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::server::Server;
use crate::support::{Case, Folder, assert_error, finish, succeed, text};

fn tributary(arguments: &[&str]) -> std::process::Output {
    finish(Command::new(env!("CARGO_BIN_EXE_tributary")).args(arguments))
}

/// All that the program can do.
const VERBS: [&str; 12] = [
    "init",
    "check",
    "run",
    "status",
    "health",
    "snapshot",
    "verify",
    "cuts",
    "maintain",
    "config",
    "completions",
    "man",
];

/// Characters in a line of help, but for examples.
const WIDTH: usize = 80;

#[test]
fn help_says_what_each_verb_does_its_exit_codes_and_examples() {
    let whole = succeed(Command::new(env!("CARGO_BIN_EXE_tributary")).arg("--help"));
    let (_, listed) = whole.split_once("Commands:\n").unwrap();
    let listed = listed.lines().take_while(|line| !line.is_empty());
    let listed: Vec<&str> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(listed, [&VERBS[..], &["help"]].concat());

    let mut examples = 0;
    let helps = VERBS.iter().map(|verb| {
        let output = tributary(&[verb, "--help"]);
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    });
    for help in helps.chain([whole.clone()]) {
        let (body, ending) = help.split_once("\n\nExit codes:\n  0  ").expect(&help);
        let (codes, commands) = ending.split_once("\n\nExamples:\n").expect(&help);
        for code in ["\n  1  ", "\n  2  "] {
            assert!(codes.contains(code), "{help}");
        }
        let (body, _) = body.split_once("\nCommands:\n").unwrap_or((body, ""));
        for line in body.lines().chain(codes.lines()) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        // Help comes last, so whatever the example has before it was understood.
        for line in commands.lines().filter_map(|line| line.strip_prefix("    ")) {
            for command in line.split([';', '|']).flat_map(|part| part.split("&&")) {
                let Some((_, arguments)) = command.split_once("tributary ") else {
                    continue;
                };
                let arguments = arguments.split('>').next().unwrap();
                let words = arguments.split_whitespace().map(|word| word.trim_matches('\''));
                let words: Vec<&str> = words.chain(["--help"]).collect();
                if VERBS.contains(&words[0]) {
                    let output = tributary(&words);
                    assert!(output.status.success(), "{command}: {}", text(&output));
                    examples += 1;
                }
            }
        }
    }
    assert!(examples > VERBS.len(), "{examples}");
}

#[test]
fn bash_completes_verbs_options_and_their_values() {
    let script = succeed(Command::new(env!("CARGO_BIN_EXE_tributary")).args(["completions", "bash"]));
    let complete = |words: &[&str]| -> Vec<String> {
        // As bash calls what `complete -p` names: the command, the word, the word before it.
        let ask = r#"
            eval "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            [[ $(complete -p tributary) =~ -F\ ([^ ]+) ]] || exit 1
            "${BASH_REMATCH[1]}" tributary "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}""#;
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", ask, "bash", &script, "tributary"])
            .args(words);
        succeed(&mut bash).lines().map(str::to_owned).collect()
    };
    for (words, expected) in [
        (&["ver"][..], &["verify"][..]),
        (&["c"], &["check", "cuts", "config", "completions"]),
        (&["verify", "--sa"], &["--sample"]),
        (&["config", "--format", "j"], &["json-schema"]),
        (&["health", "--r"], &["--ready"]),
    ] {
        assert_eq!(complete(words), expected, "{words:?}");
    }
    let all = complete(&[""]);
    for verb in VERBS {
        assert!(all.iter().any(|word| word == verb), "{verb} is not in {all:?}");
    }
}

#[test]
fn scripts_for_other_shells_have_every_verb() {
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let output = tributary(&["completions", shell]);
        assert!(output.status.success(), "{}", text(&output));
        for word in VERBS.iter().chain(&["sample", "format"]) {
            assert!(text(&output).contains(word), "{shell} does not complete {word}");
        }
    }
    assert_eq!(tributary(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn manual_pages_are_right_and_say_what_help_says() {
    let folder = Folder::new("man");
    let pages = folder.path().join("share/man1");
    succeed(
        Command::new(env!("CARGO_BIN_EXE_tributary"))
            .args(["man", "--dir"])
            .arg(&pages),
    );
    let mut names: Vec<String> = VERBS.iter().map(|verb| format!("tributary-{verb}.1")).collect();
    names.push("tributary.1".to_owned());
    let mut written: Vec<String> = fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    written.sort();
    assert_eq!(written, names);

    for name in names {
        let page = pages.join(&name);
        // Ends with an error from this level on.
        succeed(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(&page));
        let shown = succeed(
            Command::new("mandoc")
                .args(["-T", "ascii", "-O", "width=200"])
                .arg(&page),
        );
        // Bold is letters over themselves.
        let shown = without_overstrikes(&shown);
        let verb = name.strip_prefix("tributary-").map(|rest| rest.trim_end_matches(".1"));
        let printed = succeed(Command::new(env!("CARGO_BIN_EXE_tributary")).arg("man").args(verb));
        assert_eq!(fs::read_to_string(&page).unwrap(), printed);
        assert!(printed.is_ascii(), "{name}");
        for heading in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXIT STATUS",
            "EXAMPLES",
            "SEE ALSO",
        ] {
            assert!(shown.lines().any(|line| line == heading), "no {heading} in:\n{shown}");
        }
        let help = succeed(Command::new(env!("CARGO_BIN_EXE_tributary")).args(verb).arg("--help"));
        let (_, examples) = help.split_once("Examples:\n").unwrap();
        for line in examples.lines().filter(|line| line.starts_with("    ")) {
            assert!(shown.contains(line.trim()), "no {line:?} in:\n{shown}");
        }
        for option in help.lines().filter_map(|line| line.trim_start().split("--").nth(1)) {
            let option = option.split([' ', '.', ',']).next().unwrap();
            assert!(shown.contains(&format!("--{option}")), "no --{option} in:\n{shown}");
        }
    }
    assert_error(&tributary(&["man", "rum"]), &["no command \"rum\"", "verify"]);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert_error(
        &tributary(&["man", "--dir", file.to_str().unwrap()]),
        &["cannot write", "--dir"],
    );
}

/// What is shown by a text of mandoc(1) for terminals.
fn without_overstrikes(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '\u{8}' => drop(shown.pop()),
            c => shown.push(c),
        }
    }
    shown
}

#[test]
fn who_reads_no_further_is_no_error() {
    for verb in [&["config"][..], &["completions", "bash"], &["man"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
        let output = command
            .args(verb)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{verb:?}: {}",
            text(&output)
        );
    }
}

#[test]
fn version_is_that_of_the_package() {
    let output = tributary(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        concat!("tributary ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn an_unknown_verb_is_an_error() {
    assert_eq!(tributary(&["rum"]).status.code(), Some(2));
}

#[test]
fn check_passes_before_and_after_the_first_run() {
    let case = Case::new(Server::shared(15), "check");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')");
    for _ in 0..2 {
        let output = finish(&mut case.command("check"));
        assert!(output.status.success(), "{}", text(&output));
        assert!(
            text(&output).contains('✓') && !text(&output).contains('✗'),
            "{}",
            text(&output)
        );
        case.catch_up();
    }
}

#[test]
fn status_tells_tables_and_source_while_the_program_runs() {
    let case = Case::new(Server::shared(15), "status");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 10) i");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql("DELETE FROM t WHERE id = 1");
    case.wait_until_current(&mut sidecar);

    let output = finish(case.command("status").arg("--json"));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let table = &status["tables"][0];
    assert_eq!(table["table"], "public.t", "{status}");
    assert_eq!(table["state"], "streaming", "{status}");
    assert_eq!(table["rows"], 9, "{status}");
    for number in ["version", "files", "lag_bytes"] {
        assert!(table[number].is_u64(), "{number} in {status}");
    }
    assert!(status["source"].is_object(), "{status}");

    let plain = finish(&mut case.command("status"));
    assert!(plain.status.success());
    assert!(
        text(&plain).contains("public.t") && text(&plain).contains("streaming"),
        "{}",
        text(&plain)
    );
    sidecar.stop();
}

#[test]
fn tables_are_chosen_by_patterns() {
    let mut case = Case::new(Server::shared(15), "patterns");
    case.sql(
        "CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY); CREATE TABLE shop.old_orders (id int PRIMARY KEY);
         CREATE TABLE public.t (id int PRIMARY KEY); CREATE TABLE public.keyless (v int)",
    );
    case.tables = vec!["shop.*".to_owned(), "!*.old_*".to_owned()];
    case.catch_up();
    let tables: Vec<_> = case.status().tables.into_iter().map(|t| t.table).collect();
    assert_eq!(tables, ["shop.orders"]);
}
