//! What a statement of the binary log means for tables.
//!
//! The log tells DDL as text, in order with the rows. A statement becomes a
//! list of [`Effect`]s; [`Table::judge`] tells what an ALTER makes of columns
//! that are known. Nothing here asks the server, so a statement means the same
//! whenever it is read.

mod alter;
mod judge;
mod lex;
mod types;

use lex::Cursor;

pub use judge::{KnownColumn, Table, Verdict};
pub use types::{ColumnType, charset_name};

use crate::schema::TableId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    MySql,
    MariaDb,
}

/// Bits of the SQL mode that change what a statement means.
pub mod mode {
    pub const REAL_AS_FLOAT: u64 = 1;
    pub const ANSI_QUOTES: u64 = 1 << 2;
    /// MariaDB: type names are another product's.
    pub const ORACLE: u64 = 1 << 9;
    pub const MSSQL: u64 = 1 << 10;
    pub const MAXDB: u64 = 1 << 12;
    pub const NO_BACKSLASH_ESCAPES: u64 = 1 << 20;
    pub const STRICT_TRANS_TABLES: u64 = 1 << 21;
    pub const STRICT_ALL_TABLES: u64 = 1 << 22;
    pub const PAD_CHAR_TO_FULL_LENGTH: u64 = 1 << 31;
}

/// What a statement's meaning depends on besides its text: the server, and
/// the status variables of its QUERY event.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub flavor: Flavor,
    /// As in versioned comments: 90704 for 9.7.4, 101119 for 10.11.19.
    pub version: u32,
    pub sql_mode: u64,
    /// `explicit_defaults_for_timestamp`, if the event has it. If not, a
    /// TIMESTAMP that isn't said to be NULL is taken as one that isn't.
    pub explicit_timestamps: Option<bool>,
    /// `lower_case_table_names` is not 0: table ids are in lower case.
    pub fold_names: bool,
}

impl Session {
    /// A table by the names that an event has.
    pub fn table(&self, schema: &str, name: &str) -> TableId {
        if self.fold_names {
            TableId::new(schema.to_lowercase(), name.to_lowercase())
        } else {
            TableId::new(schema, name)
        }
    }

    fn has(&self, bits: u64) -> bool {
        self.sql_mode & bits != 0
    }
}

/// What a statement does to tables.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Alter {
        table: TableId,
        alter: Alter,
    },
    Rename {
        from: TableId,
        to: TableId,
    },
    Truncate {
        table: TableId,
    },
    Drop {
        table: TableId,
    },
    DropSchema {
        schema: String,
    },
    /// `unless_exists` is IF NOT EXISTS, which is logged even if the table was
    /// there and stays. Any other CREATE of a known table replaces it.
    Create {
        table: TableId,
        unless_exists: bool,
    },
    /// Rows or columns changed in a way that is not known: of these tables, or
    /// of any.
    Unclear {
        tables: Option<Vec<TableId>>,
        reason: String,
    },
    /// Rows were written as a statement: of this table, or through it if it is
    /// a view or has triggers.
    Unlogged {
        table: TableId,
    },
}

impl Effect {
    /// Schemas and tables that it is of; `None` if it may be any.
    pub fn tables(&self) -> Option<Vec<(&str, Option<&str>)>> {
        fn one(id: &TableId) -> (&str, Option<&str>) {
            (id.schema.as_str(), Some(id.name.as_str()))
        }
        Some(match self {
            Self::Rename { from, to } => vec![one(from), one(to)],
            Self::Alter { table, .. }
            | Self::Truncate { table }
            | Self::Drop { table }
            | Self::Unlogged { table }
            | Self::Create { table, .. } => vec![one(table)],
            Self::DropSchema { schema } => vec![(schema.as_str(), None)],
            Self::Unclear { tables, .. } => tables.as_ref()?.iter().map(one).collect(),
        })
    }
}

/// The clauses of an ALTER TABLE that are of interest, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Alter {
    pub changes: Vec<Change>,
    /// A value that doesn't fit would have made it fail.
    pub strict: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Add {
        column: Definition,
        position: Position,
        unless_exists: bool,
    },
    Drop {
        name: String,
        if_exists: bool,
    },
    Rename {
        from: String,
        to: String,
        if_exists: bool,
    },
    /// MODIFY or CHANGE; the definition has the new name.
    Modify {
        from: String,
        column: Definition,
        position: Position,
        if_exists: bool,
    },
    Key(KeyChange),
    /// CONVERT TO CHARACTER SET; `None` is the schema's.
    Convert(Option<String>),
    /// The charset of columns to come; `None` is the schema's.
    Charset(Option<String>),
    /// Anything else by which rows or columns may change: the reason to copy.
    Other(String),
}

/// A column as a clause defines it.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    pub name: String,
    pub column_type: ColumnType,
    /// Named, or its collation's; without one it has the table's.
    pub charset: Option<String>,
    pub nullable: bool,
    pub default: DefaultValue,
    pub generated: bool,
    pub auto_increment: bool,
    /// Whether old rows get a value other than NULL.
    pub fills: bool,
    /// It may be NOT NULL though it does not say so: a TIMESTAMP by old rules.
    pub maybe_required: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    None,
    Null,
    Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// No place is given: the last one for a new column, its own for another.
    Last,
    First,
    After(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// With its columns; without any if it isn't of whole columns.
    AddPrimary(Vec<String>),
    DropPrimary,
    AddUnique,
    /// An index, unique or not, was dropped or renamed.
    Index(String),
}

/// A column type as information_schema spells it on this server; `None` if
/// the type is not known.
pub fn column_type(text: &str, session: &Session) -> Option<String> {
    ColumnType::parse(text, session).map(|ty| ty.display(session))
}

/// Whether two spellings are of one type, however it is displayed.
pub fn same_type(a: &str, b: &str, session: &Session) -> bool {
    let parse = |text| ColumnType::parse(text, session);
    a == b || matches!((parse(a), parse(b)), (Some(a), Some(b)) if a.same(&b))
}

/// Statements that leave followed tables alone, by their first word.
const IRRELEVANT: &[&str] = &[
    "ANALYZE",
    "BEGIN",
    "CACHE",
    "CHANGE",
    "CHECK",
    "CHECKSUM",
    "COMMIT",
    "FLUSH",
    "GRANT",
    "INSTALL",
    "KILL",
    "LOCK",
    "OPTIMIZE",
    "PURGE",
    "RELEASE",
    "RESET",
    "REVOKE",
    "ROLLBACK",
    "SAVEPOINT",
    "SET",
    "SHOW",
    "SHUTDOWN",
    "START",
    "STOP",
    "UNINSTALL",
    "UNLOCK",
    "USE",
    "XA",
];

/// What CREATE, ALTER and DROP can be of, besides tables.
const OBJECTS: &[&str] = &[
    "AGGREGATE",
    "ALGORITHM",
    "DATABASE",
    "DEFINER",
    "EVENT",
    "FULLTEXT",
    "FUNCTION",
    "INDEX",
    "INSTANCE",
    "JSON",
    "LIBRARY",
    "LOGFILE",
    "MATERIALIZED",
    "PACKAGE",
    "PREPARE",
    "PROCEDURE",
    "RESOURCE",
    "ROLE",
    "SCHEMA",
    "SEQUENCE",
    "SERVER",
    "SPATIAL",
    "SQL",
    "TABLESPACE",
    "TEMPORARY",
    "TRIGGER",
    "UNDO",
    "USER",
    "VECTOR",
    "VIEW",
];

/// The effects of a statement, in order; none if it is of no interest.
pub fn parse(sql: &str, default_schema: &str, session: &Session) -> Vec<Effect> {
    let (tokens, whole) = lex::tokens(sql, session);
    let mut cursor = Cursor::new(&tokens, session);
    let mut other_mode = false;
    if cursor.take(&["SET", "STATEMENT"])
        && let Some(mut statement) = cursor.cut(&["FOR"])
    {
        // The text was read under the mode before, the log tells this one.
        other_mode = cursor.cut(&["SQL_MODE"]).is_some();
        statement.bump();
        cursor = statement;
    }
    let statement = Statement { default_schema, whole };
    let mut effects = statement
        .effects(cursor)
        .unwrap_or_else(|| vec![unclear(None, "a statement was not understood")]);
    for effect in &mut effects {
        if let Effect::Alter { alter, .. } = effect
            && other_mode
        {
            alter.changes = vec![Change::Other(
                "it was altered under an SQL mode that is not known".into(),
            )];
        }
    }
    effects
}

fn unclear(tables: Option<Vec<TableId>>, reason: &str) -> Effect {
    Effect::Unclear {
        tables,
        reason: reason.to_owned(),
    }
}

struct Statement<'s> {
    default_schema: &'s str,
    /// Whether its tokens are all there.
    whole: bool,
}

impl Statement<'_> {
    /// `None` if it isn't clear at all.
    fn effects(&self, mut cursor: Cursor<'_>) -> Option<Vec<Effect>> {
        if cursor.is_done() && self.whole {
            return Some(Vec::new());
        }
        if cursor.take_any(&["ALTER"]) {
            return self.alter(cursor);
        }
        if cursor.take_any(&["CREATE"]) {
            return self.create(cursor);
        }
        if cursor.take_any(&["DROP"]) {
            return self.drop(cursor);
        }
        if cursor.take_any(&["RENAME"]) {
            return self.rename(cursor);
        }
        if cursor.take_any(&["TRUNCATE"]) {
            cursor.take_any(&["TABLE"]);
            let table = cursor.table(self.default_schema)?;
            return Some(vec![Effect::Truncate { table }]);
        }
        if cursor.take_any(&["REPAIR"]) {
            cursor.take_any(&["LOCAL", "NO_WRITE_TO_BINLOG"]);
            cursor.take_any(&["TABLE", "TABLES"]).then_some(())?;
            let changes = vec![Change::Other("it was repaired, so rows may be gone".into())];
            let alter = Alter { changes, strict: false };
            let repaired = |table| Effect::Alter {
                table,
                alter: alter.clone(),
            };
            return Some(self.tables(cursor)?.into_iter().map(repaired).collect());
        }
        if cursor.is_any(&["INSERT", "REPLACE", "UPDATE", "DELETE", "LOAD"]) {
            return self.rows(cursor);
        }
        // MariaDB's ANALYZE of a statement runs it.
        let runs = cursor.is(&["ANALYZE"]) && {
            let mut rest = cursor;
            rest.bump();
            !rest.is_any(&["TABLE", "TABLES", "LOCAL", "NO_WRITE_TO_BINLOG"])
        };
        (!runs && cursor.is_any(IRRELEVANT)).then(Vec::new)
    }

    fn tables(&self, cursor: Cursor<'_>) -> Option<Vec<TableId>> {
        let table = |mut part: Cursor<'_>| part.table(self.default_schema);
        cursor.parts().into_iter().map(table).collect()
    }

    fn alter(&self, mut cursor: Cursor<'_>) -> Option<Vec<Effect>> {
        cursor.take_any(&["ONLINE", "OFFLINE"]);
        let ignore = cursor.take_any(&["IGNORE"]);
        if !cursor.take_any(&["TABLE"]) {
            return (!ignore && cursor.is_any(OBJECTS)).then(Vec::new);
        }
        cursor.take(&["IF", "EXISTS"]);
        let table = cursor.table(self.default_schema)?;
        if !self.whole {
            return Some(vec![unclear(Some(vec![table]), "a statement was not understood")]);
        }
        wait(&mut cursor);
        Some(alter::effects(cursor, table, self.default_schema, ignore))
    }

    /// An index is made or dropped as by ALTER TABLE.
    fn index(&self, mut cursor: Cursor<'_>, change: KeyChange) -> Option<Vec<Effect>> {
        cursor = cursor.cut(&["ON"])?;
        cursor.bump();
        let table = cursor.table(self.default_schema)?;
        let changes = vec![Change::Key(change)];
        let alter = Alter { changes, strict: false };
        Some(vec![Effect::Alter { table, alter }])
    }

    fn create(&self, mut cursor: Cursor<'_>) -> Option<Vec<Effect>> {
        let replaces = cursor.take(&["OR", "REPLACE"]);
        cursor.take_any(&["ONLINE", "OFFLINE"]);
        if cursor.take(&["UNIQUE", "INDEX"]) {
            return self.index(cursor, KeyChange::AddUnique);
        }
        if replaces && cursor.take_any(&["INDEX"]) {
            let name = cursor.name()?;
            return self.index(cursor, alter::index_change(name));
        }
        if !cursor.take_any(&["TABLE"]) {
            return cursor.is_any(OBJECTS).then(Vec::new);
        }
        let unless_exists = cursor.take(&["IF", "NOT", "EXISTS"]);
        let table = cursor.table(self.default_schema)?;
        Some(vec![Effect::Create { table, unless_exists }])
    }

    fn drop(&self, mut cursor: Cursor<'_>) -> Option<Vec<Effect>> {
        if cursor.take_any(&["TABLE", "TABLES"]) {
            cursor.take(&["IF", "EXISTS"]);
            let dropped = |table| Effect::Drop { table };
            return Some(self.tables(cursor)?.into_iter().map(dropped).collect());
        }
        if cursor.take_any(&["DATABASE", "SCHEMA"]) {
            cursor.take(&["IF", "EXISTS"]);
            let name = cursor.name()?;
            let schema = if cursor.session.fold_names {
                name.to_lowercase()
            } else {
                name
            };
            return Some(vec![Effect::DropSchema { schema }]);
        }
        cursor.take_any(&["ONLINE", "OFFLINE"]);
        if cursor.take_any(&["INDEX"]) {
            cursor.take(&["IF", "EXISTS"]);
            let name = cursor.name()?;
            return self.index(cursor, alter::index_change(name));
        }
        cursor.is_any(OBJECTS).then(Vec::new)
    }

    fn rename(&self, mut cursor: Cursor<'_>) -> Option<Vec<Effect>> {
        if cursor.take_any(&["USER"]) {
            return Some(Vec::new());
        }
        cursor.take_any(&["TABLE", "TABLES"]).then_some(())?;
        cursor.take(&["IF", "EXISTS"]);
        let pair = |mut pair: Cursor<'_>| {
            let from = pair.table(self.default_schema)?;
            wait(&mut pair);
            let to = pair.take_any(&["TO"]).then(|| pair.table(self.default_schema))??;
            pair.is_done().then_some(Effect::Rename { from, to })
        };
        cursor.parts().into_iter().map(pair).collect()
    }

    /// Rows that are written as a statement are not in the log.
    fn rows(&self, mut cursor: Cursor<'_>) -> Option<Vec<Effect>> {
        let delete = cursor.is(&["DELETE"]);
        let update = cursor.is(&["UPDATE"]);
        if cursor.is(&["LOAD"]) {
            cursor = cursor.cut(&["INTO", "TABLE"])?;
            cursor.take(&["INTO", "TABLE"]);
        } else {
            cursor.bump();
            while cursor.take_any(&["LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "QUICK", "IGNORE"]) {}
            match delete {
                true => cursor.take_any(&["FROM"]).then_some(())?,
                false => _ = cursor.take_any(&["INTO"]),
            }
        }
        let table = cursor.table(self.default_schema)?;
        if delete && cursor.is_done() && self.whole {
            // How the server tells that a table in memory is empty again.
            return Some(vec![Effect::Truncate { table }]);
        }
        let many = |mut cursor: Cursor<'_>, end: &str| {
            cursor.cut(&[end]);
            cursor.parts().len() > 1
                || ["JOIN", "STRAIGHT_JOIN", "USING"]
                    .iter()
                    .any(|word| cursor.cut(&[word]).is_some())
        };
        if (update && many(cursor, "SET")) || (delete && many(cursor, "WHERE")) {
            return None;
        }
        Some(vec![Effect::Unlogged { table }])
    }
}

/// MariaDB's limit on the wait for a lock.
fn wait(cursor: &mut Cursor<'_>) {
    if cursor.take_any(&["WAIT"]) {
        cursor.bump();
    } else {
        cursor.take_any(&["NOWAIT"]);
    }
}

#[cfg(test)]
mod tests;
