//! The clauses of an ALTER TABLE.
//!
//! The parser refuses a statement whole for any one clause that it doesn't
//! know, and there are many of MySQL's and MariaDB's. So the statement is cut
//! at its commas, clauses are told apart by their first words, and the parser
//! reads what is left to read: expressions, options of columns. A clause that
//! isn't known to be harmless means a copy.

use sqlparser::ast::{ColumnOption, Expr, Value};
use sqlparser::tokenizer::Token;

use super::lex::Cursor;
use super::types::{self, ColumnType};
use super::{Alter, Change, DefaultValue, Definition, Effect, KeyChange, Position, mode};
use crate::schema::TableId;

/// Options of a table that leave rows and columns alone.
const OPTIONS: &[&str] = &[
    "AUTO_INCREMENT",
    "AUTOEXTEND_SIZE",
    "AVG_ROW_LENGTH",
    "CHECKSUM",
    "COMMENT",
    "COMPRESSION",
    "DELAY_KEY_WRITE",
    "ENCRYPTED",
    "ENCRYPTION",
    "ENCRYPTION_KEY_ID",
    "ENGINE_ATTRIBUTE",
    "IETF_QUOTES",
    "KEY_BLOCK_SIZE",
    "MAX_ROWS",
    "MIN_ROWS",
    "PACK_KEYS",
    "PAGE_CHECKSUM",
    "PAGE_COMPRESSED",
    "PAGE_COMPRESSION_LEVEL",
    "PASSWORD",
    "ROW_FORMAT",
    "SECONDARY_ENGINE",
    "SECONDARY_ENGINE_ATTRIBUTE",
    "STATS_AUTO_RECALC",
    "STATS_PERSISTENT",
    "STATS_SAMPLE_PAGES",
    "TABLE_CHECKSUM",
    "TABLESPACE",
    "TRANSACTIONAL",
];

/// Engines that keep rows as they are.
const ENGINES: &[&str] = &["innodb", "myisam", "aria", "rocksdb", "ndb", "ndbcluster", "tokudb"];

/// The effects of the clauses that come next, on a table.
pub fn effects(mut clauses: Cursor<'_>, table: TableId, default_schema: &str, ignore: bool) -> Vec<Effect> {
    let session = clauses.session;
    let mut reader = Reader {
        changes: Vec::new(),
        renamed: None,
        others: Vec::new(),
        default_schema,
    };
    for partitioning in [&["PARTITION", "BY"], &["REMOVE", "PARTITIONING"]] {
        clauses.cut(partitioning);
    }
    let parts = clauses.parts();
    let is_modifier = |part: &Cursor<'_>| part.is_any(&["ALGORITHM", "LOCK", "WITH", "WITHOUT"]);
    let modified = parts
        .split_last()
        .filter(|(_, before)| !before.is_empty() && before.iter().all(is_modifier));
    if !clauses.is_done()
        && !reader.alone(&mut clauses.clone())
        && !modified.is_some_and(|(last, _)| reader.alone(&mut last.clone()))
    {
        let mut ordering = false;
        for mut clause in parts {
            ordering |= clause.take(&["ORDER", "BY"]);
            let mut ahead = clause;
            if ordering && ahead.name().is_some() && (ahead.is_done() || ahead.take_any(&["ASC", "DESC"])) {
                continue;
            }
            if reader.clause(&mut clause).is_none() || !clause.is_done() {
                reader.other("it was altered in a way that is not followed");
            }
        }
    }
    if ignore && !reader.changes.is_empty() {
        reader.other("it was altered with IGNORE, so rows may be gone");
    }
    let mut effects = Vec::new();
    if !reader.changes.is_empty() {
        effects.push(Effect::Alter {
            table: table.clone(),
            alter: Alter {
                changes: reader.changes,
                strict: session.has(mode::STRICT_TRANS_TABLES | mode::STRICT_ALL_TABLES) && !ignore,
            },
        });
    }
    effects.extend(reader.others);
    if let Some(to) = reader.renamed {
        effects.push(Effect::Rename { from: table, to });
    }
    effects
}

struct Reader<'s> {
    changes: Vec<Change>,
    renamed: Option<TableId>,
    /// What happens to other tables.
    others: Vec<Effect>,
    default_schema: &'s str,
}

impl Reader<'_> {
    fn other(&mut self, reason: &str) {
        self.changes.push(Change::Other(reason.to_owned()));
    }

    /// Reads a statement on partitions or tablespaces, which has no other
    /// clauses. The lists of names in it have commas too.
    fn alone(&mut self, clause: &mut Cursor<'_>) -> bool {
        const PARTITION: &str = "PARTITION";
        if clause.take(&["EXCHANGE", PARTITION]) {
            self.other("a partition of it was exchanged");
            let mut with = clause.cut(&["TABLE"]).unwrap_or(*clause);
            with.bump();
            if let Some(table) = with.table(self.default_schema) {
                let changes = vec![Change::Other("it was exchanged with a partition".into())];
                let alter = Alter { changes, strict: false };
                self.others.push(Effect::Alter { table, alter });
            }
        } else if clause.take(&["CONVERT", "TABLE"]) {
            self.other("a table became a partition of it");
            self.others
                .extend(clause.table(self.default_schema).map(|table| Effect::Drop { table }));
        } else if clause.take(&["CONVERT", PARTITION]) {
            self.other("a partition of it became a table");
            let mut to = clause.cut(&["TABLE"]).unwrap_or(*clause);
            to.bump();
            let unless_exists = false;
            let create = |table| Effect::Create { table, unless_exists };
            self.others.extend(to.table(self.default_schema).map(create));
        } else if ["DROP", "TRUNCATE", "DISCARD", "IMPORT", "REPAIR"]
            .iter()
            .any(|verb| clause.is(&[verb, PARTITION]))
        {
            self.other("the rows of partitions changed");
        } else if clause.is(&["DISCARD", "TABLESPACE"]) || clause.is(&["IMPORT", "TABLESPACE"]) {
            self.other("its tablespace was exchanged");
        } else {
            let kept = [
                "ADD",
                "REORGANIZE",
                "COALESCE",
                "REBUILD",
                "OPTIMIZE",
                "ANALYZE",
                "CHECK",
            ];
            return kept.iter().any(|verb| clause.is(&[verb, PARTITION])) || clause.is(&["UPGRADE", "PARTITIONING"]);
        }
        true
    }

    fn clause(&mut self, clause: &mut Cursor<'_>) -> Option<()> {
        if clause.take_any(&["ADD"]) {
            self.add(clause)
        } else if clause.take_any(&["DROP"]) {
            self.drop(clause)
        } else if clause.take_any(&["MODIFY"]) {
            clause.take_any(&["COLUMN"]);
            let if_exists = clause.take(&["IF", "EXISTS"]);
            let name = clause.name()?;
            self.modify(name.clone(), name, clause, if_exists)
        } else if clause.take_any(&["CHANGE"]) {
            clause.take_any(&["COLUMN"]);
            let if_exists = clause.take(&["IF", "EXISTS"]);
            let from = clause.name()?;
            let name = clause.name()?;
            self.modify(from, name, clause, if_exists)
        } else if clause.take_any(&["RENAME"]) {
            self.rename(clause)
        } else if clause.take_any(&["ALTER"]) {
            // Defaults, visibility, enforcement.
            while clause.bump().is_some() {}
            Some(())
        } else if clause.take(&["CONVERT", "TO"]) {
            let charset = charset_word(clause)?;
            let charset = match charset {
                Some(charset) => collate(clause, Some(charset))?,
                None => collate(clause, None)?,
            };
            self.changes.push(Change::Convert(charset));
            Some(())
        } else if clause.take_any(&["ENABLE", "DISABLE"]) {
            clause.take_any(&["KEYS"]).then_some(())
        } else if clause.take_any(&["WITH", "WITHOUT"]) {
            clause.take_any(&["VALIDATION"]).then_some(())
        } else if clause.take_any(&["ALGORITHM", "LOCK"]) {
            clause.symbol(&Token::Eq);
            clause.name().map(drop)
        } else if clause.take_any(&["FORCE", "SECONDARY_LOAD", "SECONDARY_UNLOAD"]) || clause.is_done() {
            Some(())
        } else {
            while !clause.is_done() {
                self.option(clause)?;
            }
            Some(())
        }
    }

    fn add(&mut self, clause: &mut Cursor<'_>) -> Option<()> {
        if self.key_or_constraint(clause)? {
            return Some(());
        }
        if clause.is(&["PERIOD", "FOR"]) || clause.is(&["SYSTEM", "VERSIONING"]) {
            return None;
        }
        clause.take_any(&["COLUMN"]);
        let unless_exists = clause.take(&["IF", "NOT", "EXISTS"]);
        let Some(list) = clause.group() else {
            return self.add_column(clause, unless_exists);
        };
        for mut element in list.parts() {
            if !self.key_or_constraint(&mut element)? {
                self.add_column(&mut element, unless_exists)?;
            }
            if !element.is_done() {
                return None;
            }
        }
        Some(())
    }

    fn add_column(&mut self, clause: &mut Cursor<'_>, unless_exists: bool) -> Option<()> {
        let name = clause.name()?;
        let read = definition(name, clause)?;
        let position = position(clause)?;
        self.changes.push(Change::Add {
            column: read.column,
            position,
            unless_exists,
        });
        self.changes.extend(read.keys.into_iter().map(Change::Key));
        Some(())
    }

    fn modify(&mut self, from: String, name: String, clause: &mut Cursor<'_>, if_exists: bool) -> Option<()> {
        let read = definition(name, clause)?;
        let position = position(clause)?;
        self.changes.push(Change::Modify {
            from,
            column: read.column,
            position,
            if_exists,
        });
        self.changes.extend(read.keys.into_iter().map(Change::Key));
        Some(())
    }

    /// Reads the rest of ADD if it adds anything but a column.
    fn key_or_constraint(&mut self, clause: &mut Cursor<'_>) -> Option<bool> {
        let named = clause.take_any(&["CONSTRAINT"]);
        if named {
            clause.take(&["IF", "NOT", "EXISTS"]);
            if !clause.is_any(&["PRIMARY", "UNIQUE", "FOREIGN", "CHECK"]) {
                clause.name()?;
            }
        }
        let vector = clause.is(&["VECTOR", "INDEX"]) || clause.is(&["VECTOR", "KEY"]);
        if clause.take(&["PRIMARY", "KEY"]) {
            let columns = clause.next_group().and_then(|group| key_columns(&group));
            self.changes
                .push(Change::Key(KeyChange::AddPrimary(columns.unwrap_or_default())));
        } else if clause.take_any(&["UNIQUE"]) {
            self.changes.push(Change::Key(KeyChange::AddUnique));
        } else if !(vector || clause.is_any(&["INDEX", "KEY", "FULLTEXT", "SPATIAL", "FOREIGN", "CHECK"])) {
            // CONSTRAINT of something else.
            return (!named).then_some(false);
        }
        while clause.bump().is_some() {}
        Some(true)
    }

    fn drop(&mut self, clause: &mut Cursor<'_>) -> Option<()> {
        if clause.take(&["PRIMARY", "KEY"]) {
            self.changes.push(Change::Key(KeyChange::DropPrimary));
        } else if clause.take(&["FOREIGN", "KEY"]) || clause.take_any(&["CHECK"]) {
            clause.take(&["IF", "EXISTS"]);
            clause.name()?;
        } else if clause.take_any(&["INDEX", "KEY", "CONSTRAINT"]) {
            clause.take(&["IF", "EXISTS"]);
            self.changes.push(Change::Key(index_change(clause.name()?)));
        } else if clause.is(&["PERIOD", "FOR"]) || clause.is(&["SYSTEM", "VERSIONING"]) {
            return None;
        } else {
            clause.take_any(&["COLUMN"]);
            let if_exists = clause.take(&["IF", "EXISTS"]);
            let name = clause.name()?;
            clause.take_any(&["RESTRICT", "CASCADE"]);
            self.changes.push(Change::Drop { name, if_exists });
        }
        Some(())
    }

    fn rename(&mut self, clause: &mut Cursor<'_>) -> Option<()> {
        if clause.take_any(&["COLUMN"]) {
            let if_exists = clause.take(&["IF", "EXISTS"]);
            let from = clause.name()?;
            let to = clause.take_any(&["TO"]).then(|| clause.name())??;
            self.changes.push(Change::Rename { from, to, if_exists });
        } else if clause.take_any(&["INDEX", "KEY"]) {
            clause.take(&["IF", "EXISTS"]);
            let from = clause.name()?;
            clause.take_any(&["TO"]).then(|| clause.name())??;
            self.changes.push(Change::Key(index_change(from)));
        } else {
            let _ = clause.take_any(&["TO", "AS"]) || clause.symbol(&Token::Eq);
            self.renamed = Some(clause.table(self.default_schema)?);
        }
        Some(())
    }

    /// One option of the table.
    fn option(&mut self, clause: &mut Cursor<'_>) -> Option<()> {
        clause.take_any(&["DEFAULT"]);
        if let Some(charset) = charset_word(clause) {
            self.changes.push(Change::Charset(charset));
            return Some(());
        }
        if clause.take_any(&["COLLATE"]) {
            clause.symbol(&Token::Eq);
            // A collation of any charset leaves the charset.
            let charset = types::collation_charset(&clause.word_or_string()?);
            self.changes.extend(charset.map(|c| Change::Charset(Some(c))));
            return Some(());
        }
        if clause.take_any(&["ENGINE", "TYPE"]) {
            clause.symbol(&Token::Eq);
            let engine = clause.word_or_string()?.to_ascii_lowercase();
            return ENGINES.contains(&engine.as_str()).then_some(());
        }
        if clause.take(&["DATA", "DIRECTORY"]) || clause.take(&["INDEX", "DIRECTORY"]) || clause.take_any(OPTIONS) {
            clause.symbol(&Token::Eq);
            match clause.group() {
                Some(_) => {}
                None => {
                    if clause.string().is_none() {
                        clause.bump()?;
                    }
                }
            }
            return Some(());
        }
        None
    }
}

pub fn index_change(name: String) -> KeyChange {
    match name.eq_ignore_ascii_case("PRIMARY") {
        true => KeyChange::DropPrimary,
        false => KeyChange::Index(name),
    }
}

/// The columns of a key; `None` if it is of parts of columns or expressions.
fn key_columns(group: &Cursor<'_>) -> Option<Vec<String>> {
    let one = |mut part: Cursor<'_>| {
        let name = part.name()?;
        part.group();
        part.take_any(&["ASC", "DESC"]);
        part.is_done().then_some(name)
    };
    group.parts().into_iter().map(one).collect()
}

/// `CHARACTER SET x`, in all its spellings. The inner `None` is DEFAULT.
fn charset_word(clause: &mut Cursor<'_>) -> Option<Option<String>> {
    let found = clause.take_any(&["CHARSET"]) || clause.take(&["CHARACTER", "SET"]) || clause.take(&["CHAR", "SET"]);
    if !found {
        return None;
    }
    clause.symbol(&Token::Eq);
    if clause.take_any(&["DEFAULT"]) {
        return Some(None);
    }
    clause.word_or_string().map(|name| Some(types::charset_name(&name)))
}

/// `[COLLATE y]` after a charset.
fn collate(clause: &mut Cursor<'_>, charset: Option<String>) -> Option<Option<String>> {
    if !clause.take_any(&["COLLATE"]) {
        return Some(charset);
    }
    clause.symbol(&Token::Eq);
    let collation = clause.word_or_string()?;
    Some(charset.or_else(|| types::collation_charset(&collation)))
}

fn position(clause: &mut Cursor<'_>) -> Option<Position> {
    if clause.take_any(&["FIRST"]) {
        Some(Position::First)
    } else if clause.take_any(&["AFTER"]) {
        clause.name().map(Position::After)
    } else {
        Some(Position::Last)
    }
}

struct Read {
    column: Definition,
    keys: Vec<KeyChange>,
}

/// A column's definition from its type on, up to its place.
fn definition(name: String, clause: &mut Cursor<'_>) -> Option<Read> {
    let session = clause.session;
    if session.has(mode::ORACLE | mode::MAXDB | mode::MSSQL) {
        // Type names mean other types.
        return None;
    }
    let (mut ty, implied) = ColumnType::read(clause)?;
    let mut charset = implied.charset;
    let mut nullable = None;
    let mut default = DefaultValue::None;
    let mut generated = false;
    let mut auto_increment = implied.serial;
    let mut keys = Vec::new();
    if implied.serial {
        nullable = Some(false);
        keys.push(KeyChange::AddUnique);
    }
    while !clause.is_done() && !clause.is_any(&["FIRST", "AFTER"]) {
        if let Some(word) = charset_word(clause) {
            charset = Some(word?);
        } else if clause.take_any(&["COLLATE"]) {
            let collation = clause.word_or_string()?;
            charset = charset.or_else(|| types::collation_charset(&collation));
        } else if clause.take_any(&["ASCII"]) {
            charset = Some("latin1".into());
        } else if clause.take_any(&["UNICODE"]) {
            charset = Some("ucs2".into());
        } else if clause.take_any(&["BYTE"]) {
            charset = Some("binary".into());
        } else if clause.take_any(&["BINARY", "VISIBLE", "INVISIBLE"]) {
            // BINARY is a collation here.
        } else if clause.take(&["NOT", "NULL"]) {
            nullable = Some(false);
        } else if clause.take_any(&["NULL"]) {
            nullable = nullable.or(Some(true));
        } else if clause.take_any(&["AUTO_INCREMENT"]) {
            auto_increment = true;
        } else if clause.take(&["SERIAL", "DEFAULT", "VALUE"]) {
            auto_increment = true;
            nullable = Some(false);
            keys.push(KeyChange::AddUnique);
        } else if clause.take(&["PRIMARY", "KEY"]) || clause.take_any(&["KEY", "PRIMARY"]) {
            nullable = Some(false);
            keys.push(KeyChange::AddPrimary(vec![name.clone()]));
        } else if clause.take_any(&["UNIQUE"]) {
            clause.take_any(&["KEY"]);
            keys.push(KeyChange::AddUnique);
        } else if clause.take_any(&["COMMENT"]) {
            clause.string()?;
        } else if clause.take_any(&["COLUMN_FORMAT", "STORAGE"]) {
            clause.bump()?;
        } else if clause.take_any(&[
            "SRID",
            "REF_SYSTEM_ID",
            "ENGINE_ATTRIBUTE",
            "SECONDARY_ENGINE_ATTRIBUTE",
        ]) {
            clause.symbol(&Token::Eq);
            clause.bump()?;
        } else if clause.take_any(&["COMPRESSED"]) {
            if clause.symbol(&Token::Eq) {
                clause.bump()?;
            }
            ty.compressed = true;
        } else if clause.take(&["GENERATED", "ALWAYS", "AS"]) || clause.take_any(&["AS"]) {
            // A column of the system's, if there is no expression.
            clause.group()?;
            clause.take_any(&["VIRTUAL", "STORED", "PERSISTENT"]);
            generated = true;
        } else if clause.take_any(&["CHECK"]) {
            clause.group()?;
            clause.take_any(&["NOT"]);
            clause.take_any(&["ENFORCED"]);
        } else if clause.take_any(&["CONSTRAINT"]) {
            if !clause.is_any(&["CHECK"]) {
                clause.name()?;
            }
            clause.is_any(&["CHECK"]).then_some(())?;
        } else {
            match clause.column_option()? {
                ColumnOption::Default(value) => {
                    let (is_null, collation) = literal(&value);
                    default = if is_null {
                        DefaultValue::Null
                    } else {
                        DefaultValue::Value
                    };
                    charset = charset.or_else(|| collation.and_then(|c| types::collation_charset(&c)));
                }
                ColumnOption::OnUpdate(_) | ColumnOption::ForeignKey(_) => {}
                _ => return None,
            }
        }
    }
    // Without the modern rules it is NOT NULL and gets the time.
    let old_rules = ty.base == "timestamp" && session.explicit_timestamps != Some(true);
    let maybe_required = nullable.is_none() && old_rules && session.explicit_timestamps.is_none();
    let implicit = match nullable {
        None if old_rules => false,
        None => !auto_increment,
        Some(nullable) => nullable,
    };
    Some(Read {
        column: Definition {
            name,
            fills: !implicit || default == DefaultValue::Value || auto_increment || generated,
            column_type: ty,
            charset,
            nullable: implicit || maybe_required,
            default,
            generated,
            auto_increment,
            maybe_required,
        },
        keys,
    })
}

/// Whether a default is NULL, and a collation that was read as a part of it.
fn literal(value: &Expr) -> (bool, Option<String>) {
    match value {
        Expr::Collate { expr, collation } => (literal(expr).0, Some(collation.to_string())),
        Expr::Value(value) => (matches!(value.value, Value::Null), None),
        _ => (false, None),
    }
}
