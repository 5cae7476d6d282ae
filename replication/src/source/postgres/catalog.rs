//! What the source has: tables, their columns and keys, and what of it can't
//! be replicated.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::types::{Codec, Infinity as Policy, TypeCatalog, TypeOptions};
use super::wire::{TextRow, Wire, quote_identifier};
use crate::config::{Infinity, Mode, SourceConfig};
use crate::error::{Error, Result};
use crate::schema::{Column, PostgresType, SourceType, TableId, TableSchema};
use crate::source::{Discovery, Membership, Part, Refusal, selected};

/// One column as the stream and a COPY send it.
#[derive(Clone, Debug)]
pub struct SourceColumn {
    pub name: String,
    /// `pg_attribute.attnum`.
    pub attribute: i32,
    pub ty: PostgresType,
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
    /// Where its rows lie: itself, or its partitions.
    pub parts: Vec<Part>,
    /// The publication's row filter.
    pub filter: Option<String>,
    /// The parts that the lake's rows are of, each with its physical file.
    pub storage: Vec<(u32, u32)>,
    /// Every column that the table ever had, in order.
    pub attributes: Vec<Attribute>,
    /// The last attribute number that was given when `columns` were these.
    pub attribute_max: i32,
    /// Columns of which nobody wants the values, by attribute.
    pub unread: BTreeSet<i32>,
    /// What the lake keeps of it.
    pub mode: Mode,
}

/// What the catalogue tells of a column besides its type.
#[derive(Clone, Debug)]
pub struct Attribute {
    pub number: i32,
    /// `None` once it is dropped.
    pub name: Option<String>,
    /// Whether rows from before it was added may have a value, other than by a
    /// rewrite of the table.
    pub fills: bool,
    /// The transaction that last changed its definition.
    pub stamp: u32,
}

impl SourceTable {
    /// `"schema"."table"`, quoted.
    pub fn sql_name(&self) -> String {
        sql_name(&self.id)
    }

    /// Whether its rows lie in partitions.
    pub fn is_partitioned(&self) -> bool {
        self.parts.iter().all(|part| part.relation != self.relation)
    }

    /// The same table with other columns.
    pub fn with_columns(&self, columns: Vec<SourceColumn>, key: &[i32]) -> Option<Self> {
        let place = |attribute: &i32| columns.iter().position(|c| c.attribute == *attribute);
        let schema = TableSchema {
            key: key.iter().map(place).collect::<Option<Vec<_>>>()?,
            columns: columns.iter().map(SourceColumn::lake_column).collect(),
        };
        Some(Self {
            schema: Arc::new(schema),
            columns,
            ..self.clone()
        })
    }

    /// The table with the columns whose values are wanted.
    pub fn to_read(self: Arc<Self>) -> Arc<Self> {
        if self.unread.is_empty() {
            return self;
        }
        let wanted = |column: &&SourceColumn| !self.unread.contains(&column.attribute);
        let columns = self.columns.iter().filter(wanted).cloned().collect();
        // The key is always among them.
        self.with_columns(columns, &self.schema.key_attributes())
            .map_or(self.clone(), Arc::new)
    }
}

impl SourceColumn {
    fn lake_column(&self) -> Column {
        Column {
            name: self.name.clone(),
            ty: self.codec.lake_type().clone(),
            attribute: self.attribute,
            source: SourceType::Postgres(self.ty),
        }
    }
}

pub fn sql_name(id: &TableId) -> String {
    format!("{}.{}", quote_identifier(&id.schema), quote_identifier(&id.name))
}

/// What a publication says of its tables.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// Whether it has all kinds of changes; `None` if there is no publication.
    pub publishes_all: Option<bool>,
    /// Partitioned tables are published as one.
    pub via_root: bool,
    /// Stored generated columns are published, too.
    pub generated: bool,
    pub tables: BTreeMap<TableId, PublishedTable>,
}

#[derive(Clone, Debug, Default)]
pub struct PublishedTable {
    /// What identifies its place: a table that was taken out and put back has
    /// another.
    pub place: String,
    /// Identifies row filter and column list, if it has any.
    pub form: String,
    /// The attribute numbers of its column list.
    pub columns: Option<Vec<i32>>,
    pub filter: Option<String>,
}

impl PublishedTable {
    /// Place and form, to be remembered.
    pub fn token(&self) -> String {
        format!("{} {}", self.place, self.form)
    }
}

/// What became of a table that had the place `before`, a token.
pub fn membership(now: Option<&str>, before: &str) -> Membership {
    let Some(now) = now else { return Membership::Left };
    let (place, form) = split(now);
    let (place_before, form_before) = split(before);
    if place == place_before && form == form_before {
        Membership::Same
    } else if same_publication(now, before) && form != form_before {
        // SET TABLE gives a table another entry, too.
        Membership::Reformed
    } else {
        Membership::Left
    }
}

/// Whether two tokens are of one publication.
pub fn same_publication(a: &str, b: &str) -> bool {
    a.split('.').next() == b.split('.').next()
}

fn split(token: &str) -> (&str, &str) {
    token.split_once(' ').unwrap_or((token, ""))
}

// Nothing here may wait for a lock: a table that is altered in a long transaction would keep all others waiting. So sizes
// of such tables are those of the last ANALYZE (a partition is never taken for empty: it would not be copied), and
// partitions are looked for without `pg_partition_tree`, which locks them.
const TABLES: &str = "\
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relreplident, c.relpersistence,
       has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'),
       CASE WHEN c.oid IN (SELECT relation FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation IS NOT NULL)
       THEN greatest(c.relpages, 0) * current_setting('block_size')::int8 ELSE coalesce(pg_table_size(c.oid), 0) END,
       c.relfilenode, c.relispartition, row_security_active(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  -- NULL for a table that goes away just now.
  AND has_table_privilege(c.oid, 'SELECT') IS NOT NULL
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'";

const PARTITIONS: &str = "\
WITH RECURSIVE tree AS (
    SELECT oid AS root, oid AS part FROM pg_class WHERE relkind = 'p' AND NOT relispartition
    UNION ALL
    SELECT tree.root, i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.part AND NOT i.inhdetachpending)
SELECT tree.root, l.oid, n.nspname, l.relname, l.relkind, l.relreplident,
       CASE WHEN l.oid IN (SELECT relation FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation IS NOT NULL)
       THEN greatest(l.relpages, 1) * current_setting('block_size')::int8 ELSE coalesce(pg_table_size(l.oid), 0) END,
       l.relfilenode,
       has_table_privilege(l.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'), row_security_active(l.oid)
FROM tree JOIN pg_class c ON c.oid = tree.root JOIN pg_class l ON l.oid = tree.part
JOIN pg_namespace n ON n.oid = l.relnamespace
WHERE l.relkind <> 'p'";

const COLUMNS: &str = "\
SELECT c.oid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attndims, a.attgenerated,
       format_type(a.atttypid, a.atttypmod), a.attisdropped,
       CASE c.relkind WHEN 'r' THEN a.atthasmissing
       ELSE a.atthasdef OR a.attidentity <> '' OR a.attnotnull OR coalesce(t.typdefault IS NOT NULL, false) END,
       a.xmin
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'p') AND a.attnum > 0
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'";

/// Unique indexes that can be a key: no expressions, no predicate, checked at
/// once, all columns NOT NULL.
const KEYS: &str = "\
SELECT c.oid, i.indisprimary, i.indisreplident,
       (SELECT string_agg(k.attnum::text, ' ' ORDER BY k.ord)
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ord) WHERE k.ord <= i.indnkeyatts)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ord)
                  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                  WHERE k.ord <= i.indnkeyatts AND NOT a.attnotnull)";

/// The source's types, and the choices made about them.
#[derive(Clone)]
pub struct Types {
    catalog: Arc<TypeCatalog>,
    options: TypeOptions,
}

impl Types {
    pub async fn read(wire: &mut Wire, config: &SourceConfig) -> Result<Self> {
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
        Ok(Self {
            catalog: Arc::new(catalog),
            options,
        })
    }

    #[cfg(test)]
    pub fn of(catalog: TypeCatalog, options: TypeOptions) -> Self {
        Self {
            catalog: Arc::new(catalog),
            options,
        }
    }

    pub fn codec(&self, ty: PostgresType, is_key: bool) -> Result<Codec, String> {
        // A key that policy changed would no longer tell two rows apart.
        let infinity = if is_key { Policy::Error } else { self.options.infinity };
        let options = TypeOptions {
            infinity,
            ..self.options
        };
        self.catalog.resolve(ty.oid, ty.modifier, ty.dimensions, &options)
    }
}

/// Reads the catalogue and sorts the selected tables into usable and refused;
/// with `only`, reads no more than one relation.
pub async fn discover(
    wire: &mut Wire,
    patterns: &[String],
    types: &Types,
    published: Published,
    only: Option<u32>,
) -> Result<Discovery<SourceTable>> {
    let filter = only.map_or(String::new(), |oid| format!(" AND c.oid = {oid}"));
    let columns = by_relation(
        wire.query(&format!("{COLUMNS}{filter} ORDER BY c.oid, a.attnum"))
            .await?,
    );
    let keys = by_relation(
        wire.query(&format!(
            "{KEYS}{filter} ORDER BY c.oid, i.indisprimary DESC, i.indexrelid"
        ))
        .await?,
    );
    let partitions = by_relation(wire.query(&format!("{PARTITIONS}{filter} ORDER BY l.oid")).await?);
    let mut found = Discovery::default();
    for row in wire
        .query(&format!("{TABLES}{filter} ORDER BY n.nspname, c.relname"))
        .await?
    {
        let table = TableRow::read(&row)?;
        found.names.insert(table.relation, table.id.clone());
        if !selected(patterns, &table.id) {
            continue;
        }
        match (table.kind.as_str(), table.is_partition, published.via_root) {
            ("p", false, false) => {
                found.notes.push(format!(
                    "{} is partitioned: each partition becomes a table of its own, as the publication has publish_via_partition_root off",
                    table.id
                ));
                continue;
            }
            ("p", true, _) | ("r", true, true) => continue,
            _ => {}
        }
        let empty = Vec::new();
        let rows = Rows {
            columns: columns.get(&table.relation).unwrap_or(&empty),
            keys: keys.get(&table.relation).unwrap_or(&empty),
            partitions: partitions.get(&table.relation).unwrap_or(&empty),
        };
        let (generated, published) = (published.generated, published.tables.get(&table.id));
        match resolve(&table, &rows, types, published, generated, &mut found.notes) {
            Ok(table) => found.tables.push(table),
            Err((reason, hint)) => found.refused.push(Refusal {
                table: table.id,
                reason,
                hint,
            }),
        }
    }
    let token = |(id, table): (&TableId, &PublishedTable)| (id.clone(), table.token());
    found.places = published.tables.iter().map(token).collect();
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
    file: String,
    is_partition: bool,
    /// Whether row-level security keeps rows from this role.
    filtered: bool,
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
            file: text(row, 8),
            is_partition: text(row, 9) == "t",
            filtered: text(row, 10) == "t",
        })
    }
}

/// What the catalogue has of one table.
struct Rows<'a> {
    columns: &'a [TextRow],
    keys: &'a [TextRow],
    partitions: &'a [TextRow],
}

/// A usable table, or why not and the way out.
fn resolve(
    table: &TableRow,
    rows: &Rows<'_>,
    types: &Types,
    published: Option<&PublishedTable>,
    generated_too: bool,
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
    let unreadable = |id: &TableId| {
        (
            "can't be read by this role".to_owned(),
            format!(
                "GRANT USAGE ON SCHEMA {} TO <role>; GRANT SELECT ON {} TO <role>; or {exclude}",
                quote_identifier(&id.schema),
                sql_name(id)
            ),
        )
    };
    let filtered = |id: &TableId| {
        (
            format!("has row-level security that keeps rows of {id} from this role"),
            format!("ALTER ROLE <role> BYPASSRLS; or {exclude}"),
        )
    };
    if !table.readable {
        return Err(unreadable(id));
    }
    if table.filtered {
        return Err(filtered(id));
    }
    let key = key_attributes(table, rows.keys).map_err(|reason| {
        let name = sql_name(id);
        (reason, format!("ALTER TABLE {name} ADD PRIMARY KEY (…), or a unique index on NOT NULL columns and ALTER TABLE {name} REPLICA IDENTITY USING INDEX …; or {exclude}"))
    })?;
    let mut parts = Vec::new();
    let mut storage = Vec::new();
    if table.kind == "p" {
        for row in rows.partitions {
            let part = Part {
                relation: number(row, 1).map_err(bad_catalog)?,
                id: TableId::new(text(row, 2), text(row, 3)),
                bytes: number(row, 6).map_err(bad_catalog)?,
            };
            if text(row, 4) != "r" {
                return Err((
                    format!("has partition {}, which is not a table of this server", part.id),
                    exclude,
                ));
            }
            if text(row, 5) == "n" {
                return Err((
                    format!("has partition {} with REPLICA IDENTITY NOTHING", part.id),
                    format!(
                        "ALTER TABLE {} REPLICA IDENTITY DEFAULT; or {exclude}",
                        sql_name(&part.id)
                    ),
                ));
            }
            if text(row, 8) != "t" {
                return Err(unreadable(&part.id));
            }
            if text(row, 9) == "t" {
                return Err(filtered(&part.id));
            }
            storage.push((part.relation, number(row, 7).map_err(bad_catalog)?));
            parts.push(part);
        }
    } else {
        storage.push((table.relation, table.file.parse().unwrap_or(0)));
        parts.push(Part {
            id: id.clone(),
            relation: table.relation,
            bytes: table.bytes,
        });
    }
    let listed = published.and_then(|p| p.columns.as_ref());
    let mut columns = Vec::new();
    let mut attributes = Vec::new();
    for row in rows.columns {
        let attribute: i32 = number(row, 1).map_err(bad_catalog)?;
        let (name, dropped) = (text(row, 2), text(row, 8) == "t");
        let generated = !text(row, 6).is_empty();
        attributes.push(Attribute {
            number: attribute,
            name: (!dropped).then(|| name.clone()),
            fills: generated || text(row, 9) == "t",
            stamp: number(row, 10).map_err(bad_catalog)?,
        });
        if dropped {
            continue;
        }
        let is_published = match listed {
            Some(listed) => listed.contains(&attribute),
            None => !generated || (generated_too && text(row, 6) == "s"),
        };
        if !is_published {
            notes.push(format!(
                "{id}.{name} is {}: the server does not publish it, so the lake has no such column",
                if generated {
                    "generated"
                } else {
                    "not in the publication's column list"
                }
            ));
            continue;
        }
        let ty = PostgresType {
            oid: number(row, 3).map_err(bad_catalog)?,
            modifier: number(row, 4).map_err(bad_catalog)?,
            dimensions: number(row, 5).map_err(bad_catalog)?,
        };
        let is_key = key.contains(&attribute);
        let codec = types.codec(ty, is_key).map_err(|reason| {
            (
                format!("has column {name:?} that can't be replicated: {reason}"),
                exclude.clone(),
            )
        })?;
        if is_key && !codec.key_capable() {
            return Err((
                format!(
                    "has key column {name:?} of type {}, which can't be a lake key",
                    text(row, 7)
                ),
                exclude,
            ));
        }
        columns.push(SourceColumn {
            name,
            attribute,
            ty,
            type_name: text(row, 7),
            codec,
        });
    }
    if let Some(clash) = case_clash(&columns) {
        return Err((
            format!("has columns that differ only in case: {clash:?}, which Delta does not allow"),
            exclude,
        ));
    }
    let bare = SourceTable {
        id: id.clone(),
        relation: table.relation,
        columns: Vec::new(),
        schema: Arc::new(TableSchema {
            columns: Vec::new(),
            key: Vec::new(),
        }),
        parts,
        filter: published.and_then(|p| p.filter.clone()),
        storage,
        attribute_max: attributes.iter().map(|a| a.number).max().unwrap_or(0),
        attributes,
        unread: BTreeSet::new(),
        mode: Mode::Mirror,
    };
    bare.with_columns(columns, &key)
        .ok_or_else(|| ("has a key column that the server does not publish".into(), exclude))
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

fn case_clash(columns: &[SourceColumn]) -> Option<&str> {
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
