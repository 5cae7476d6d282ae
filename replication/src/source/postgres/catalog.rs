//! What the source has: tables, their columns and keys, and what of it can't
//! be replicated.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::types::{Codec, Infinity as Policy, TypeCatalog, TypeOptions};
use super::wire::{TextRow, Wire, quote_identifier};
use crate::config::{Infinity, SourceConfig};
use crate::error::{Error, Result};
use crate::schema::{Column, TableId, TableSchema};

/// One column as the stream and a COPY send it.
#[derive(Clone, Debug)]
pub struct SourceColumn {
    pub name: String,
    pub type_oid: u32,
    pub typmod: i32,
    /// For casts of literals in point reads.
    pub type_name: String,
    pub codec: Codec,
}

/// A table that can be replicated.
#[derive(Clone, Debug)]
pub struct SourceTable {
    pub id: TableId,
    /// `pg_class.oid`.
    pub relation: u32,
    pub columns: Vec<SourceColumn>,
    pub schema: Arc<TableSchema>,
    /// Heap and TOAST, in bytes.
    pub bytes: u64,
}

impl SourceTable {
    /// `"schema"."table"`, quoted.
    pub fn sql_name(&self) -> String {
        sql_name(&self.id)
    }

    /// The column names, quoted, separated by commas.
    pub fn sql_columns(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|c| quote_identifier(&c.name)).collect();
        names.join(", ")
    }
}

pub fn sql_name(id: &TableId) -> String {
    format!("{}.{}", quote_identifier(&id.schema), quote_identifier(&id.name))
}

/// A table that was selected but can't be replicated as it is.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub table: TableId,
    pub reason: String,
    pub hint: String,
}

#[derive(Default)]
pub struct Discovery {
    pub tables: Vec<SourceTable>,
    pub refused: Vec<Refusal>,
    /// Things worth knowing that stop nothing.
    pub notes: Vec<String>,
}

const TABLES: &str = "\
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relreplident, c.relpersistence,
       has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'), pg_table_size(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY n.nspname, c.relname";

const COLUMNS: &str = "\
SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attndims, a.attgenerated,
       format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY a.attrelid, a.attnum";

/// Unique indexes that can be a key: no expressions, no predicate, checked at
/// once, all columns NOT NULL.
const KEYS: &str = "\
SELECT i.indrelid, i.indisprimary, i.indisreplident,
       (SELECT string_agg(k.attnum::text, ' ' ORDER BY k.ord)
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ord) WHERE k.ord <= i.indnkeyatts)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ord)
                  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                  WHERE k.ord <= i.indnkeyatts AND NOT a.attnotnull)
ORDER BY i.indrelid, i.indisprimary DESC, i.indexrelid";

/// Reads the catalogue and sorts the selected tables into usable and refused.
pub async fn discover(wire: &mut Wire, config: &SourceConfig) -> Result<Discovery> {
    let types = wire.query(TypeCatalog::QUERY).await?;
    let attributes = wire.query(TypeCatalog::ATTRIBUTES_QUERY).await?;
    let catalog = TypeCatalog::from_rows(&types, &attributes)
        .map_err(|e| Error::bug("cannot read the source's type catalogue").with_source(e))?;
    let money = wire.scalar("SELECT scale(1::money::numeric)").await?;
    let options = TypeOptions {
        infinity: match config.infinity {
            Infinity::Null => Policy::Null,
            Infinity::Clamp => Policy::Clamp,
            Infinity::Error => Policy::Error,
        },
        money_scale: money.parse().unwrap_or(2),
    };
    let columns = by_relation(wire.query(COLUMNS).await?);
    let keys = by_relation(wire.query(KEYS).await?);
    let mut found = Discovery::default();
    for row in wire.query(TABLES).await? {
        let table = TableRow::read(&row)?;
        if !selected(&config.tables, &table.id) {
            continue;
        }
        if table.kind == "p" {
            found.notes.push(format!(
                "{} is partitioned: each partition becomes a table of its own",
                table.id
            ));
            continue;
        }
        let empty = Vec::new();
        let columns = columns.get(&table.relation).unwrap_or(&empty);
        let keys = keys.get(&table.relation).unwrap_or(&empty);
        match resolve(&table, columns, keys, &catalog, &options, &mut found.notes) {
            Ok(table) => found.tables.push(table),
            Err((reason, hint)) => found.refused.push(Refusal {
                table: table.id,
                reason,
                hint,
            }),
        }
    }
    Ok(found)
}

struct TableRow {
    relation: u32,
    id: TableId,
    kind: String,
    identity: String,
    persistence: String,
    readable: bool,
    bytes: u64,
}

impl TableRow {
    fn read(row: &TextRow) -> Result<Self> {
        Ok(Self {
            relation: number(row, 0)?,
            id: TableId::new(text(row, 1), text(row, 2)),
            kind: text(row, 3),
            identity: text(row, 4),
            persistence: text(row, 5),
            readable: text(row, 6) == "t",
            bytes: number(row, 7)?,
        })
    }
}

/// A usable table, or why not and the way out.
fn resolve(
    table: &TableRow,
    columns: &[TextRow],
    keys: &[TextRow],
    catalog: &TypeCatalog,
    options: &TypeOptions,
    notes: &mut Vec<String>,
) -> Result<SourceTable, (String, String)> {
    let id = &table.id;
    let exclude = format!("exclude it: source.tables = [\"*\", \"!{id}\"]");
    let bad_catalog = |e: Error| (e.to_string(), exclude.clone());
    if table.persistence == "u" {
        return Err((
            "is unlogged, so its changes are in no log".into(),
            format!("ALTER TABLE {} SET LOGGED; or {exclude}", sql_name(id)),
        ));
    }
    if !table.readable {
        return Err((
            "can't be read by this role".into(),
            format!(
                "GRANT USAGE ON SCHEMA {} TO <role>; GRANT SELECT ON {} TO <role>; or {exclude}",
                quote_identifier(&id.schema),
                sql_name(id)
            ),
        ));
    }
    let key = key_attributes(table, keys).map_err(|reason| {
        let name = sql_name(id);
        (reason, format!("ALTER TABLE {name} ADD PRIMARY KEY (…), or a unique index on NOT NULL columns and ALTER TABLE {name} REPLICA IDENTITY USING INDEX …; or {exclude}"))
    })?;
    let mut source_columns = Vec::new();
    let mut lake_columns = Vec::new();
    let mut key_columns = vec![None; key.len()];
    for row in columns {
        let name = text(row, 2);
        if !text(row, 6).is_empty() {
            notes.push(format!(
                "{id}.{name} is generated: the server does not publish it, so the lake has no such column"
            ));
            continue;
        }
        let attnum: i32 = number(row, 1).map_err(bad_catalog)?;
        let type_oid: u32 = number(row, 3).map_err(bad_catalog)?;
        let typmod: i32 = number(row, 4).map_err(bad_catalog)?;
        let ndims: i32 = number(row, 5).map_err(bad_catalog)?;
        let place = key.iter().position(|k| *k == attnum);
        // A key that policy changed would no longer tell two rows apart.
        let infinity = if place.is_some() {
            Policy::Error
        } else {
            options.infinity
        };
        let options = TypeOptions { infinity, ..*options };
        let codec = catalog.resolve(type_oid, typmod, ndims, &options).map_err(|reason| {
            (
                format!("has column {name:?} that can't be replicated: {reason}"),
                exclude.clone(),
            )
        })?;
        if let Some(place) = place {
            if !codec.key_capable() {
                return Err((
                    format!(
                        "has key column {name:?} of type {}, which can't be a lake key",
                        text(row, 7)
                    ),
                    exclude.clone(),
                ));
            }
            key_columns[place] = Some(lake_columns.len());
        }
        lake_columns.push(Column {
            name: name.clone(),
            ty: codec.lake_type().clone(),
        });
        source_columns.push(SourceColumn {
            name,
            type_oid,
            typmod,
            type_name: text(row, 7),
            codec,
        });
    }
    let key: Option<Vec<usize>> = key_columns.into_iter().collect();
    let Some(key) = key else {
        return Err(("has a generated column in its key".into(), exclude));
    };
    if let Some(clash) = case_clash(&lake_columns) {
        return Err((
            format!("has columns that differ only in case: {clash:?}, which Delta does not allow"),
            exclude,
        ));
    }
    Ok(SourceTable {
        id: id.clone(),
        relation: table.relation,
        columns: source_columns,
        schema: Arc::new(TableSchema {
            columns: lake_columns,
            key,
        }),
        bytes: table.bytes,
    })
}

/// The attribute numbers of the key that both the log and the lake use.
fn key_attributes(table: &TableRow, keys: &[TextRow]) -> Result<Vec<i32>, String> {
    let find = |column: usize| keys.iter().find(|row| column == 0 || text(row, column) == "t");
    let row = match table.identity.as_str() {
        "d" => find(1).ok_or("has no primary key"),
        "i" => find(2).ok_or("has REPLICA IDENTITY USING INDEX, but no usable index"),
        // The whole old row is in the log, so any key will do.
        "f" => find(1)
            .or_else(|| find(0))
            .ok_or("has REPLICA IDENTITY FULL, but no primary key or unique index on NOT NULL columns"),
        _ => Err("has REPLICA IDENTITY NOTHING, so updates and deletes are not in the log"),
    }?;
    text(row, 3)
        .split(' ')
        .map(|n| n.parse().map_err(|_| "has a key that can't be read".to_owned()))
        .collect()
}

fn case_clash(columns: &[Column]) -> Option<&str> {
    let mut seen = HashMap::new();
    columns
        .iter()
        .find(|c| seen.insert(c.name.to_lowercase(), ()).is_some())
        .map(|c| c.name.as_str())
}

fn by_relation(rows: Vec<TextRow>) -> BTreeMap<u32, Vec<TextRow>> {
    let mut map: BTreeMap<u32, Vec<TextRow>> = BTreeMap::new();
    for row in rows {
        if let Ok(relation) = number(&row, 0) {
            map.entry(relation).or_default().push(row);
        }
    }
    map
}

pub fn text(row: &TextRow, column: usize) -> String {
    row.get(column).cloned().flatten().unwrap_or_default()
}

pub fn number<T: std::str::FromStr>(row: &TextRow, column: usize) -> Result<T> {
    text(row, column)
        .parse()
        .map_err(|_| Error::bug(format!("expected a number in column {column} of a catalogue query")))
}

/// Whether a table is chosen: by any pattern (none means all), and by no `!` pattern.
pub fn selected(patterns: &[String], id: &TableId) -> bool {
    let name = id.to_string();
    let mut positive = patterns.iter().filter(|p| !p.starts_with('!')).peekable();
    let chosen = positive.peek().is_none() || positive.any(|p| glob(p, &name));
    chosen
        && !patterns
            .iter()
            .filter_map(|p| p.strip_prefix('!'))
            .any(|p| glob(p, &name))
}

/// `*` is any run of characters, `?` is one.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                // The last star takes one character more.
                Some((star_p, star_t)) => {
                    star = Some((star_p, star_t + 1));
                    p = star_p + 1;
                    t = star_t + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|c| *c == '*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_and_exclude() {
        for (patterns, table, expected) in [
            (&[][..], "public.t", true),
            (&["public.*"], "public.t", true),
            (&["public.*"], "other.t", false),
            (&["!public.secret*"], "public.secrets", false),
            (&["!public.secret*"], "public.t", true),
            (&["*", "!*.log_?"], "a.log_1", false),
            (&["*", "!*.log_?"], "a.log_10", true),
            (&["*.a*b*c"], "x.aXbYbc", true),
            (&["*.a*b*c"], "x.aXbYb", false),
        ] {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            let (schema, name) = table.split_once('.').expect("two parts");
            assert_eq!(
                selected(&patterns, &TableId::new(schema, name)),
                expected,
                "{patterns:?} {table}"
            );
        }
    }
}
