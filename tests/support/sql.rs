//! SQL that all servers understand, but for a few words.

use super::server::Kind;

/// Puts a server's own words for those that tests of all servers use:
///
/// - `series(1, 1000)` after FROM is a table with one column `i`
/// - `hash(x)` is a text of 32 characters
/// - `random_double()`
pub fn dialect(kind: Kind, sql: &str) -> String {
    let sql = replace(sql, "series(", |arguments| {
        let (from, to) = arguments.split_once(',').unwrap();
        match kind {
            Kind::Postgres(_) => format!("generate_series({from}, {to}) AS series(i)"),
            _ => format!(
                "(WITH RECURSIVE counted (i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM counted WHERE i < {to}) \
                 SELECT i FROM counted) AS series"
            ),
        }
    });
    let sql = replace(&sql, "hash(", |value| match kind {
        Kind::Postgres(_) => format!("md5(({value})::text)"),
        _ => format!("left(sha2({value}, 256), 32)"),
    });
    replace(&sql, "random_double(", |_| match kind {
        Kind::Postgres(_) => "random()".to_owned(),
        _ => "rand()".to_owned(),
    })
}

/// Replaces each `name(arguments)`; `name` has the opening parenthesis, and no letter before it.
fn replace(sql: &str, name: &str, by: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = sql;
    while let Some(at) = rest.find(name) {
        let inside = &rest[at + name.len()..];
        if rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            out.push_str(&rest[..at + name.len()]);
            rest = inside;
            continue;
        }
        let mut depth = 1;
        let end = inside.find(|c| {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            depth == 0
        });
        let end = end.unwrap();
        out.push_str(&rest[..at]);
        out.push_str(&by(&inside[..end]));
        rest = &inside[end + 1..];
    }
    out + rest
}
