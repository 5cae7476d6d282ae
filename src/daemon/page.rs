//! The page: one answer, no script, nothing from elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{Display, Write};
use std::time::Instant;

use replication::metrics::{Numbers, TableNumbers, Trouble};
use replication::pipeline::shown_time;
use replication::schema::TableId;

use crate::report::bytes;

/// The curve of a table, in its own units.
const WIDTH: usize = 120;
const HEIGHT: f32 = 20.0;

const STYLE: &str = "
:root{color-scheme:light dark;--line:#8885;--soft:#888;--bad:#c62828;--good:#2e7d32;--work:#b26a00}
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem}
h1{font-size:1.2rem;margin:0 0 1rem}h1 small{color:var(--soft);font-weight:normal}
dl{display:flex;flex-wrap:wrap;gap:.5rem 2rem;margin:0 0 1.5rem}dt{color:var(--soft);font-size:.85em}dd{margin:0;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .75rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top;white-space:nowrap}
th{color:var(--soft);font-weight:normal}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.good{color:var(--good)}.bad{color:var(--bad)}.work{color:var(--work)}
.trouble{white-space:normal;border-left:3px solid var(--bad);padding-left:.75rem;margin:.25rem 0 1rem}
.trouble p{margin:0}svg{display:block}polyline{fill:none;stroke:currentColor;stroke-width:1}
progress{width:6rem}
";

/// Text that can't be anything but text.
struct Plain<T>(T);

impl<T: Display> Display for Plain<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for letter in self.0.to_string().chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

pub fn render(numbers: &Numbers, samples: &BTreeMap<TableId, VecDeque<f32>>, started: Instant) -> String {
    let mut html = String::new();
    // Writing to a text can't fail.
    let _ = write_page(&mut html, numbers, samples, started);
    html
}

fn write_page(
    html: &mut String,
    numbers: &Numbers,
    samples: &BTreeMap<TableId, VecDeque<f32>>,
    started: Instant,
) -> std::fmt::Result {
    write!(
        html,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Tributary</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><meta http-equiv=\"refresh\" content=\"5\">\
         <style>{STYLE}</style></head><body><h1>Tributary <small>{}</small></h1><dl>",
        env!("CARGO_PKG_VERSION")
    )?;
    let stream = match (numbers.streaming, numbers.paused) {
        (true, Some(since)) => format!("<span class=\"work\">paused since {}</span>", shown_time(since)),
        (true, None) => "<span class=\"good\">streaming</span>".to_owned(),
        (false, Some(since)) => format!(
            "<span class=\"bad\">not streaming</span>, paused since {}",
            shown_time(since)
        ),
        (false, None) => "<span class=\"bad\">not streaming</span>".to_owned(),
    };
    let mut fact = |name: &str, value: &dyn Display| write!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    fact("source", &stream)?;
    if let Some(lag) = numbers.lag_bytes {
        fact("not yet durable", &bytes(lag))?;
    }
    if let Some(retained) = numbers.retained_bytes() {
        match &numbers.budget {
            Some(budget) => {
                let class = if budget.over.is_some() { "bad" } else { "good" };
                let (retained, budget) = (bytes(retained), bytes(budget.budget));
                let shown = format!("<span class=\"{class}\">{retained}</span> of {budget}");
                fact("log kept at the source", &shown)?;
            }
            None => fact("log kept at the source", &bytes(retained))?,
        }
    }
    if let Some(source) = &numbers.source {
        fact("end of its log", &Plain(&source.log_end))?;
    }
    fact("changes committed", &numbers.changes)?;
    fact(
        "batches in memory",
        &bytes(numbers.memory.open + numbers.memory.in_flight),
    )?;
    if numbers.spilled_bytes > 0 {
        fact("large transactions on disk", &bytes(numbers.spilled_bytes))?;
    }
    let errors = numbers.errors.transient + numbers.errors.operator + numbers.errors.bug;
    fact("interruptions", &errors)?;
    fact("running for", &duration(started.elapsed().as_secs()))?;
    write!(html, "</dl>")?;
    if let Some(over) = numbers.budget.as_ref().and_then(|budget| budget.over.as_ref()) {
        for holder in &over.held_by {
            let trouble = Trouble {
                error: holder.what.clone(),
                hint: Some(holder.hint.clone()),
                since: over.since,
            };
            write_trouble(html, "more log is kept than source.wal_budget", &trouble)?;
        }
    }
    if let Some(trouble) = &numbers.last_error {
        write_trouble(html, "last interruption", trouble)?;
    }
    write!(
        html,
        "<div class=\"wide\"><table><thead><tr><th>table<th>state<th class=\"n\">lag<th>last 10 minutes<th class=\"n\">rows\
         <th class=\"n\">version<th class=\"n\">files<th class=\"n\">upserts<th class=\"n\">deletes<th>watermark</tr></thead><tbody>"
    )?;
    for (id, table) in &numbers.tables {
        write_table(html, numbers, id, table, samples.get(id))?;
    }
    write!(html, "</tbody></table></div>")?;
    if numbers.tables.is_empty() {
        write!(html, "<p>No table is followed yet.</p>")?;
    }
    for (id, table) in &numbers.tables {
        if let Some(trouble) = &table.trouble {
            write_trouble(html, &id.to_string(), trouble)?;
        }
    }
    write!(html, "</body></html>")
}

fn write_table(
    html: &mut String,
    numbers: &Numbers,
    id: &TableId,
    table: &TableNumbers,
    samples: Option<&VecDeque<f32>>,
) -> std::fmt::Result {
    let class = match table.state {
        "streaming" => "good",
        "snapshotting" | "catching_up" | "resnapshotting" => "work",
        _ => "bad",
    };
    write!(
        html,
        "<tr><td>{}<td class=\"{class}\">{}",
        Plain(id),
        Plain(table.state.replace('_', " "))
    )?;
    if let Some(snapshot) = numbers.snapshots.get(id) {
        write!(
            html,
            "<br><progress value=\"{:.3}\"></progress> {:.0} %, {} rows, {:.0}/s",
            snapshot.share(),
            snapshot.share() * 100.0,
            snapshot.rows,
            snapshot.rate()
        )?;
    }
    write!(html, "<td class=\"n\">{:.1} s<td>", table.lag().as_secs_f64())?;
    if let Some(samples) = samples {
        write_curve(html, samples)?;
    }
    write!(html, "<td class=\"n\">{}<td class=\"n\">", table.size.rows)?;
    if let Some(version) = table.version {
        write!(html, "{version}")?;
    }
    write!(
        html,
        "<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td>{}</tr>",
        table.size.files,
        table.upserts,
        table.deletes,
        Plain(&table.watermark)
    )
}

/// Lag over time; its highest point is said beside it.
fn write_curve(html: &mut String, samples: &VecDeque<f32>) -> std::fmt::Result {
    let highest = samples.iter().copied().fold(0.0, f32::max);
    let scale = highest.max(1.0);
    write!(
        html,
        "<svg width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"lag, at most {highest:.1} s\"><polyline points=\""
    )?;
    for (number, sample) in samples.iter().enumerate() {
        let x = WIDTH - samples.len().min(WIDTH) + number;
        write!(html, "{x},{:.1} ", HEIGHT - 1.0 - sample / scale * (HEIGHT - 2.0))?;
    }
    write!(html, "\"/></svg>")
}

fn write_trouble(html: &mut String, what: &str, trouble: &Trouble) -> std::fmt::Result {
    let ago = duration(trouble.since.elapsed().as_secs());
    write!(
        html,
        "<div class=\"trouble\"><p><b>{}</b>, {ago} ago: {}</p>",
        Plain(what),
        Plain(&trouble.error)
    )?;
    if let Some(hint) = &trouble.hint {
        write!(html, "<p>{}</p>", Plain(hint))?;
    }
    write!(html, "</div>")
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_errors_are_text_whatever_they_hold() {
        let mut numbers = Numbers::default();
        let id = TableId::new("<script>alert(1)</script>", "\"><img src=x>");
        let trouble = Trouble {
            error: "<b>".to_owned(),
            hint: Some("a & b".to_owned()),
            since: Instant::now(),
        };
        let table = TableNumbers {
            trouble: Some(trouble),
            ..TableNumbers::default()
        };
        numbers.tables.insert(id, table);
        let html = render(&numbers, &BTreeMap::new(), Instant::now());
        assert!(
            !html.contains("<script>") && !html.contains("<img") && html.contains("a &amp; b"),
            "{html}"
        );
    }
}
