//! libpq's password file, `~/.pgpass`: lines of `host:port:database:user:password`.
//!
//! Spec: PostgreSQL manual, "The Password File".

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tracing::warn;

/// Reads the password for host, port, database and user. A file that is not
/// there has none, and neither has one that others may read: that is told.
pub fn read(path: &Path, wanted: [&str; 4]) -> Option<String> {
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return None,
        Err(e) => {
            warn!("the password file {shown} is ignored: {e}");
            return None;
        }
    };
    if !metadata.is_file() {
        warn!("the password file {shown} is ignored: it is not a plain file");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        warn!("the password file {shown} is ignored: others may read or write it; chmod 0600 {shown}");
        return None;
    }
    match std::fs::read(path) {
        Ok(bytes) => find(&String::from_utf8_lossy(&bytes), wanted),
        Err(e) => {
            warn!("the password file {shown} is ignored: {e}");
            None
        }
    }
}

/// The password of the first line whose fields all match; others behind it count no more.
fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| wanted.iter().try_fold(line, |rest, wanted| after_field(rest, wanted)))
        .map(unescaped)
}

/// What follows a field that is `wanted`, or `*`.
fn after_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let (mut rest, mut wanted) = (line.chars(), wanted.chars());
    loop {
        let mut found = rest.next()?;
        if found == ':' && wanted.as_str().is_empty() {
            return Some(rest.as_str());
        }
        if found == '\\' {
            found = rest.next()?;
        }
        if wanted.next() != Some(found) {
            return None;
        }
    }
}

/// A field up to a colon. A backslash stands for the character behind it, and at the end for itself.
fn unescaped(field: &str) -> String {
    let mut plain = String::with_capacity(field.len());
    let mut rest = field.chars();
    while let Some(c) = rest.next() {
        match c {
            ':' => break,
            '\\' => plain.push(rest.next().unwrap_or(c)),
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [&str; 4] = ["h", "5432", "d", "u"];

    #[test]
    fn the_first_line_that_matches_counts() {
        for (text, password) in [
            ("h:5432:d:u:p", Some("p")),
            ("h:5432:d:u:p\n", Some("p")),
            ("h:5432:d:u:p\r\n", Some("p")),
            ("*:*:*:*:p", Some("p")),
            ("h:*:d:*:p", Some("p")),
            (
                "g:5432:d:u:a\n\nh:5432:e:u:b\nh:5432:d:v:c\nh:5433:d:u:d\n*:*:*:u:e\nh:5432:d:u:f",
                Some("e"),
            ),
            ("# h:5432:d:u:a\n#:5432:d:u:b\nh:5432:d:u:c", Some("c")),
            ("h:5432:d:u:", Some("")),
            ("h:5432:d:u", None),
            ("hh:5432:d:u:p", None),
            ("h*:5432:d:u:p", None),
            ("**:5432:d:u:p", None),
            (":5432:d:u:p", None),
            (" h:5432:d:u:p", None),
            ("", None),
        ] {
            assert_eq!(find(text, WANTED).as_deref(), password, "{text:?}");
        }
    }

    #[test]
    fn colons_and_backslashes_are_escaped() {
        let wanted = ["::1", "5432", "a:b\\c", "*"];
        for (text, password) in [
            (r"\:\:1:5432:a\:b\\c:*:p\:q\\r", Some(r"p:q\r")),
            // libpq cuts a password at a colon as it is.
            (r"\:\:1:5432:a\:b\\c:\*:p:q", Some("p")),
            (r"::1:5432:*:*:pass\", Some(r"pass\")),
            (r"\:\:1:5432:a\:b\c:*:p", None),
            (r"\:\:1:5432:a\", None),
        ] {
            assert_eq!(find(text, wanted).as_deref(), password, "{text:?}");
        }
        // A name that is a star is none for a line that names another.
        assert_eq!(find("h:5432:d:\\*:p", WANTED), None);
        assert_eq!(find("h:5432:d:u:wörd", WANTED).as_deref(), Some("wörd"));
    }
}
