//! What the source has: tables, their columns and keys, and what of it can't
//! be replicated.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::ddl::{self, Session};
use super::types::{Charsets, Codec, Flavor, TypeOptions, ZeroDates};
use super::wire::{TextRow, Wire, quote_identifier, quote_literal};
use crate::config::{Infinity, Mode, SourceConfig};
use crate::error::{Error, Result};
use crate::lake::{Origin, Shape, delta_type};
use crate::schema::{Column, MySqlType, SourceType, TableId, TableSchema};
use crate::source::{Discovery, Part, Refusal, Verdict, selected};

/// Databases of the server's own.
const SYSTEM: &str = "('mysql', 'information_schema', 'performance_schema', 'sys')";

/// Engines whose reads are consistent and whose changes are logged by row.
const ENGINES: [&str; 3] = ["INNODB", "ROCKSDB", "TOKUDB"];

/// One column as the stream and a chunk send it.
#[derive(Clone, Debug)]
pub struct SourceColumn {
    pub name: String,
    /// Given by us: the server has no number that stays.
    pub attribute: i32,
    pub ty: MySqlType,
    pub codec: Codec,
}

/// A table that can be replicated.
#[derive(Clone, Debug)]
pub struct SourceTable {
    pub id: TableId,
    /// A hash of its name: the server has no number that everyone may see.
    pub relation: u32,
    pub columns: Vec<SourceColumn>,
    pub schema: Arc<TableSchema>,
    /// Itself: partitions are the server's own business.
    pub parts: Vec<Part>,
    /// The index that is its key.
    pub key_name: String,
    /// Of columns to come.
    pub charset: String,
    pub attribute_max: i32,
    /// As the server estimates it.
    pub rows: u64,
    /// Whether any of its columns is computed from others.
    computed: bool,
    /// Columns that nobody may see, after all others in the log: MariaDB's
    /// hashes of unique values that are too long for an index.
    pub hidden: usize,
    /// Columns of which nobody wants the values, by attribute.
    pub unread: BTreeSet<i32>,
    /// What the lake keeps of it.
    pub mode: Mode,
    /// How its DDL is read.
    session: Session,
}

/// The source's types, and the choices made about them.
#[derive(Clone)]
pub struct Types {
    pub flavor: Flavor,
    pub session: Session,
    zero_dates: ZeroDates,
    pub charsets: Charsets,
    /// The log has no virtual columns: MariaDB's minimal images.
    without_virtual: bool,
}

impl Types {
    pub fn new(flavor: Flavor, session: Session, config: &SourceConfig) -> Self {
        let zero_dates = match config.infinity {
            Infinity::Null => ZeroDates::Null,
            Infinity::Clamp => ZeroDates::Clamp,
            Infinity::Error => ZeroDates::Error,
        };
        Self {
            flavor,
            session,
            zero_dates,
            charsets: Charsets::default(),
            without_virtual: false,
        }
    }

    /// Reads what is missing for a charset from the server.
    pub async fn learn(&mut self, wire: &mut Wire, charset: Option<&str>) -> Result<()> {
        let Some(charset) = charset.filter(|charset| !self.charsets.has(charset)) else {
            return Ok(());
        };
        // One that can't be read is refused where it is used.
        if let Ok(Some(sql)) = Charsets::query(charset) {
            let rows = wire.query(&sql).await?;
            let bad = |e| Error::bug(format!("cannot read the conversion of charset {charset}")).with_source(e);
            self.charsets.load(charset, &rows).map_err(bad)?;
        }
        Ok(())
    }

    fn codec(&self, ty: &MySqlType, is_key: bool) -> Result<Codec, String> {
        // A key that policy changed would no longer tell two rows apart.
        let zero_dates = if is_key { ZeroDates::Error } else { self.zero_dates };
        let options = TypeOptions { zero_dates };
        Codec::resolve(
            &ty.column_type,
            ty.charset.as_deref(),
            self.flavor,
            &options,
            &self.charsets,
        )
    }
}

impl SourceTable {
    /// `` `schema`.`table` ``, quoted.
    pub fn sql_name(&self) -> String {
        sql_name(&self.id)
    }

    /// The same table with the columns of a DDL statement's outcome.
    pub fn with_known(&self, known: &ddl::Table, types: &Types) -> Result<Self, String> {
        let mut columns = Vec::with_capacity(known.columns.len());
        for column in &known.columns {
            let ty = MySqlType {
                column_type: column.column_type.clone(),
                charset: column.charset.clone(),
                nullable: column.nullable,
                auto_increment: column.auto_increment,
            };
            let codec = types.codec(&ty, known.key.contains(&column.attribute))?;
            columns.push(SourceColumn {
                name: column.name.clone(),
                attribute: column.attribute,
                ty,
                codec,
            });
        }
        let table = self.with_columns(columns, &known.key);
        let mut table = table.ok_or_else(|| "a column of its key is gone".to_owned())?;
        table.key_name.clone_from(&known.key_name);
        table.charset.clone_from(&known.charset);
        table.attribute_max = known.attribute_max;
        Ok(table)
    }

    /// The table as DDL statements are judged by.
    pub fn known(&self) -> ddl::Table {
        let column = |c: &SourceColumn| ddl::KnownColumn {
            name: c.name.clone(),
            column_type: c.ty.column_type.clone(),
            charset: c.ty.charset.clone(),
            attribute: c.attribute,
            nullable: c.ty.nullable,
            auto_increment: c.ty.auto_increment,
        };
        ddl::Table {
            columns: self.columns.iter().map(column).collect(),
            key: self.schema.key_attributes(),
            key_name: self.key_name.clone(),
            charset: self.charset.clone(),
            attribute_max: self.attribute_max,
            computed: self.computed,
        }
    }

    fn with_columns(&self, columns: Vec<SourceColumn>, key: &[i32]) -> Option<Self> {
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

    /// The table with the columns that the lake has of it. `None` if a type of
    /// them is not known any more.
    pub fn as_recorded(&self, shape: &Shape, types: &Types) -> Option<Self> {
        let mut columns = Vec::with_capacity(shape.columns.len());
        for own in &shape.columns {
            let SourceType::MySql(ty) = &own.source else {
                return None;
            };
            let codec = types.codec(ty, shape.key.contains(&own.attribute)).ok()?;
            if delta_type(&codec.lake_type(), None) != own.ty {
                return None;
            }
            columns.push(SourceColumn {
                name: own.name.clone(),
                attribute: own.attribute,
                ty: ty.clone(),
                codec,
            });
        }
        let mut table = self.with_columns(columns, &shape.key)?;
        table.key_name.clone_from(&shape.origin.key_name);
        table.charset.clone_from(&shape.origin.charset);
        table.attribute_max = shape.origin.attribute_max;
        Some(table)
    }

    /// Whether two spellings are of one type.
    pub fn same_type(&self, a: &str, b: &str) -> bool {
        ddl::same_type(a, b, &self.session)
    }

    /// Whether both have the same columns under the same names, in the same
    /// order, and the same key.
    pub fn is_like(&self, other: &Self) -> bool {
        let same = |(a, b): (&SourceColumn, &SourceColumn)| {
            a.name == b.name
                && ddl::same_type(&a.ty.column_type, &b.ty.column_type, &self.session)
                && a.ty.charset == b.ty.charset
                && a.codec.lake_type() == b.codec.lake_type()
        };
        self.columns.len() == other.columns.len()
            && self.columns.iter().zip(&other.columns).all(same)
            && self.schema.key == other.schema.key
    }
}

impl crate::source::SourceTable for SourceTable {
    fn id(&self) -> &TableId {
        &self.id
    }

    fn relation(&self) -> u32 {
        self.relation
    }

    fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn origin(&self) -> Origin {
        Origin {
            attribute_max: self.attribute_max,
            key_name: self.key_name.clone(),
            charset: self.charset.clone(),
            ..Origin::default()
        }
    }

    fn with_id(self, id: TableId) -> Self {
        Self { id, ..self }
    }

    fn with_parts(&self, parts: Vec<Part>) -> Self {
        Self { parts, ..self.clone() }
    }

    fn without_values(self, columns: BTreeSet<i32>) -> Self {
        Self {
            unread: columns,
            ..self
        }
    }

    fn with_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    fn decodes_like(&self, other: &Self) -> bool {
        let same = |(a, b): (&SourceColumn, &SourceColumn)| a.name == b.name && a.ty == b.ty && a.codec == b.codec;
        self.columns.len() == other.columns.len() && self.columns.iter().zip(&other.columns).all(same)
    }

    /// The log tells every change of columns, so one that it did not tell was
    /// made behind its back.
    fn judge_now(&self, now: &Self) -> Verdict<Self> {
        if !self.is_like(now) {
            return Verdict::Copy("its columns changed in a way that the log did not tell".to_owned());
        }
        let mut same = self.clone();
        same.parts.clone_from(&now.parts);
        same.rows = now.rows;
        Verdict::Same(same)
    }

    fn differs(&self, other: &Self) -> bool {
        !self.is_like(other)
    }
}

impl SourceColumn {
    fn lake_column(&self) -> Column {
        Column {
            name: self.name.clone(),
            ty: self.codec.lake_type().clone(),
            attribute: self.attribute,
            source: SourceType::MySql(self.ty.clone()),
        }
    }
}

pub fn sql_name(id: &TableId) -> String {
    format!("{}.{}", quote_identifier(&id.schema), quote_identifier(&id.name))
}

/// FNV-1a of a table's name.
pub fn relation(id: &TableId) -> u32 {
    let bytes = id.schema.bytes().chain([0]).chain(id.name.bytes());
    bytes.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Reads the catalogue and sorts the selected tables into usable and refused;
/// with `only`, reads no more than one table.
pub async fn discover(
    wire: &mut Wire,
    patterns: &[String],
    types: &mut Types,
    only: Option<&TableId>,
) -> Result<Discovery<SourceTable>> {
    let filter = match only {
        Some(id) => format!(
            " AND TABLE_SCHEMA = {} AND TABLE_NAME = {}",
            quote_literal(&id.schema),
            quote_literal(&id.name)
        ),
        None => format!(" AND TABLE_SCHEMA NOT IN {SYSTEM}"),
    };
    let columns = by_table(
        wire.query(&format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, CHARACTER_SET_NAME, IS_NULLABLE, EXTRA \
             FROM information_schema.COLUMNS WHERE TRUE{filter} ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
        ))
        .await?,
    );
    let keys = by_table(
        wire.query(&format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART, NULLABLE, INDEX_TYPE, SEQ_IN_INDEX \
             FROM information_schema.STATISTICS WHERE NON_UNIQUE = 0{filter} \
             ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME = 'PRIMARY' DESC, INDEX_NAME, SEQ_IN_INDEX"
        ))
        .await?,
    );
    let tables = wire
        .query(&format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, coalesce(ENGINE, ''), coalesce(DATA_LENGTH, 0), \
             coalesce(TABLE_ROWS, 0), coalesce(TABLE_COLLATION, '') \
             FROM information_schema.TABLES WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED'){filter} \
             ORDER BY TABLE_SCHEMA, TABLE_NAME"
        ))
        .await?;
    types.without_virtual =
        types.flavor == Flavor::MariaDb && wire.scalar("SELECT @@global.binlog_row_image").await? == "MINIMAL";
    let mut found: Discovery<SourceTable> = Discovery::default();
    for row in &tables {
        let id = TableId::new(text(row, 0), text(row, 1));
        if only.is_some_and(|only| *only != id) {
            continue;
        }
        found.names.insert(relation(&id), id.clone());
        if !selected(patterns, &id) {
            continue;
        }
        found.places.insert(id.clone(), String::new());
        let empty = Vec::new();
        let columns = columns.get(&id).unwrap_or(&empty);
        for row in columns {
            types.learn(wire, row.get(4).and_then(Option::as_deref)).await?;
        }
        let unique = keys.get(&id).unwrap_or(&empty);
        let key = match unique_keys(unique).as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            [first, ..] if first.0 == "PRIMARY" => Some(first.clone()),
            // The one that the server takes for the key comes first here.
            several => {
                let order = wire.query(&format!("SHOW INDEX FROM {}", sql_name(&id))).await?;
                let mut names = order.iter().map(|row| text(row, 2));
                names.find_map(|name| several.iter().find(|(own, _)| *own == name).cloned())
            }
        };
        // Of each such index one row is the first.
        let hidden = unique
            .iter()
            .filter(|row| text(row, 6) == "HASH" && text(row, 7) == "1");
        let hidden = match types.flavor {
            Flavor::MariaDb => hidden.count(),
            Flavor::MySql => 0,
        };
        match resolve(&id, row, columns, key, hidden, types) {
            Ok(table) => found.tables.push(table),
            Err((reason, hint)) => found.refused.push(Refusal {
                table: id,
                reason,
                hint,
            }),
        }
    }
    found.notes = cascades(wire, &found.tables).await?;
    Ok(found)
}

/// Foreign keys whose actions are in no log: the engine carries them out by
/// itself, except in MySQL 9.6 and newer.
async fn cascades(wire: &mut Wire, tables: &[SourceTable]) -> Result<Vec<String>> {
    let native = variables(wire, &["innodb_native_foreign_keys"]).await?;
    if native
        .get("innodb_native_foreign_keys")
        .is_some_and(|value| value == "OFF")
    {
        return Ok(Vec::new());
    }
    let rows = wire
        .query(&format!(
            "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS \
             WHERE CONSTRAINT_SCHEMA NOT IN {SYSTEM} \
             AND (DELETE_RULE IN ('CASCADE', 'SET NULL') OR UPDATE_RULE IN ('CASCADE', 'SET NULL'))"
        ))
        .await?;
    let of_ours = rows.iter().filter(|row| {
        let id = TableId::new(text(row, 0), text(row, 1));
        tables.iter().any(|table| table.id == id)
    });
    let note = |row: &TextRow| {
        format!(
            "{}.{}: what the server does by the foreign key {} (CASCADE, SET NULL) is not in its log; \
             `tributary verify` finds the rows, `tributary snapshot` puts them right",
            text(row, 0),
            text(row, 1),
            text(row, 2)
        )
    };
    Ok(of_ours.map(note).collect())
}

/// Unique indexes that can be a key: whole columns, none of which may be NULL.
fn unique_keys(rows: &[TextRow]) -> Vec<(String, Vec<String>)> {
    let mut keys: Vec<(String, Vec<String>, bool)> = Vec::new();
    for row in rows {
        let name = text(row, 2);
        if keys.last().is_none_or(|key| key.0 != name) {
            keys.push((name, Vec::new(), true));
        }
        let Some(key) = keys.last_mut() else { continue };
        let whole = row.get(4).is_none_or(Option::is_none);
        match row.get(3).cloned().flatten() {
            Some(column) if whole && text(row, 5) != "YES" => key.1.push(column),
            // A part of a column, an expression, or NULL.
            _ => key.2 = false,
        }
    }
    let good = keys.into_iter().filter(|key| key.2);
    good.map(|(name, columns, _)| (name, columns)).collect()
}

/// A usable table, or why not and the way out.
fn resolve(
    id: &TableId,
    row: &TextRow,
    rows: &[TextRow],
    key: Option<(String, Vec<String>)>,
    hidden: usize,
    types: &Types,
) -> Result<SourceTable, (String, String)> {
    let exclude = format!("exclude it: source.tables = [\"*\", \"!{id}\"]");
    let name = sql_name(id);
    if text(row, 2) != "BASE TABLE" {
        return Err((
            "is system-versioned, so its log has rows that are not in it".into(),
            format!("ALTER TABLE {name} DROP SYSTEM VERSIONING; or {exclude}"),
        ));
    }
    let engine = text(row, 3);
    if !ENGINES.contains(&engine.to_uppercase().as_str()) {
        return Err((
            format!("has the engine {engine}, which can't be read as of one moment"),
            format!("ALTER TABLE {name} ENGINE = InnoDB; or {exclude}"),
        ));
    }
    let Some((key_name, key_columns)) = key else {
        return Err((
            "has no primary key, and no unique index on NOT NULL columns".into(),
            format!("ALTER TABLE {name} ADD PRIMARY KEY (…); or {exclude}"),
        ));
    };
    let mut columns = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        let (name, extra) = (text(row, 2), text(row, 6).to_lowercase());
        let ty = MySqlType {
            column_type: text(row, 3),
            charset: row.get(4).cloned().flatten().map(|name| ddl::charset_name(&name)),
            nullable: text(row, 5) == "YES",
            auto_increment: extra.contains("auto_increment"),
        };
        if types.without_virtual && extra.contains("virtual") {
            return Err((
                format!("has the virtual column {name:?}, which the log leaves out while binlog_row_image is MINIMAL"),
                format!("SET GLOBAL binlog_row_image = 'NOBLOB', for sessions to come; or {exclude}"),
            ));
        }
        let is_key = key_columns.contains(&name);
        let codec = types.codec(&ty, is_key).map_err(|reason| {
            let reason = format!("has column {name:?} that can't be replicated: {reason}");
            (reason, exclude.clone())
        })?;
        if is_key && !codec.key_capable() {
            let reason = format!(
                "has key column {name:?} of type {}, which can't be a lake key",
                ty.column_type
            );
            return Err((reason, exclude));
        }
        columns.push(SourceColumn {
            name,
            attribute: i32::try_from(place).unwrap_or(i32::MAX).saturating_add(1),
            ty,
            codec,
        });
    }
    let key: Vec<i32> = key_columns
        .iter()
        .filter_map(|name| columns.iter().find(|c| c.name == *name))
        .map(|c| c.attribute)
        .collect();
    let relation = relation(id);
    let bare = SourceTable {
        id: id.clone(),
        relation,
        columns: Vec::new(),
        schema: Arc::new(TableSchema {
            columns: Vec::new(),
            key: Vec::new(),
        }),
        parts: vec![Part {
            id: id.clone(),
            relation,
            bytes: text(row, 4).parse().unwrap_or(0),
        }],
        key_name,
        charset: ddl::charset_name(text(row, 6).split('_').next().unwrap_or_default()),
        attribute_max: columns.last().map_or(0, |c| c.attribute),
        rows: text(row, 5).parse().unwrap_or(0),
        // MySQL has DEFAULT_GENERATED for a default that is computed.
        computed: rows.iter().any(|row| {
            let extra = text(row, 6).to_lowercase();
            extra.contains("virtual") || extra.contains("stored") || extra.contains("persistent")
        }),
        hidden,
        unread: BTreeSet::new(),
        mode: Mode::Mirror,
        session: types.session,
    };
    if key.len() != key_columns.len() {
        return Err(("has a key column that can't be seen".into(), exclude));
    }
    bare.with_columns(columns, &key)
        .ok_or_else(|| ("has a key column that can't be seen".into(), exclude))
}

fn by_table(rows: Vec<TextRow>) -> BTreeMap<TableId, Vec<TextRow>> {
    let mut map: BTreeMap<TableId, Vec<TextRow>> = BTreeMap::new();
    for row in rows {
        map.entry(TableId::new(text(&row, 0), text(&row, 1)))
            .or_default()
            .push(row);
    }
    map
}

pub fn text(row: &TextRow, column: usize) -> String {
    row.get(column).cloned().flatten().unwrap_or_default()
}

/// The values of some system variables, by name.
pub async fn variables(wire: &mut Wire, names: &[&str]) -> Result<HashMap<String, String>> {
    let list: Vec<String> = names.iter().map(|name| quote_literal(name)).collect();
    let rows = wire
        .query(&format!(
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ({})",
            list.join(", ")
        ))
        .await?;
    Ok(rows.iter().map(|row| (text(row, 0), text(row, 1))).collect())
}
