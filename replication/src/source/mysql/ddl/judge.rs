//! What an ALTER TABLE makes of a table's columns.
//!
//! All clauses speak of the table as it was before, so they are applied at
//! once, the way the server builds the new list of columns. Old rows stay what
//! they are in the lake, or the table is to be copied: a guess would put one
//! column's values under another's name.

use serde::{Deserialize, Serialize};

use super::types::ColumnType;
use super::{Alter, Change, Definition, Flavor, KeyChange, Position, Session, mode};

/// A table's columns at one place of the log, in its order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub columns: Vec<KnownColumn>,
    /// The key's attributes, in key order.
    pub key: Vec<i32>,
    /// `PRIMARY`, or the name of the unique index that serves as the key.
    pub key_name: String,
    /// The charset of columns that come without one.
    pub charset: String,
    /// The last attribute number that was given.
    pub attribute_max: i32,
    /// Whether any of its columns is computed from others.
    pub computed: bool,
}

/// A column as information_schema tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownColumn {
    pub name: String,
    /// COLUMN_TYPE.
    pub column_type: String,
    /// CHARACTER_SET_NAME, of text alone.
    pub charset: Option<String>,
    /// What stays when the column is renamed, and is never given again.
    pub attribute: i32,
    pub nullable: bool,
    pub auto_increment: bool,
}

/// What to do about a table's columns.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The lake's columns stay; decoding may have to change.
    Same(Table),
    /// The lake's columns change, its rows don't.
    Evolve(Table),
    /// The table has to be copied, for this reason.
    Copy(String),
}

const KEY_CHANGED: &str = "its key changed";

impl Table {
    pub fn judge(&self, alter: &Alter, session: &Session) -> Verdict {
        match self.after(alter, session) {
            Ok(after) if after.reads_like(self) => Verdict::Same(after),
            Ok(after) => Verdict::Evolve(after),
            Err(reason) => Verdict::Copy(reason),
        }
    }

    fn reads_like(&self, other: &Self) -> bool {
        let names = |table: &Self| -> Vec<(i32, String)> {
            table.columns.iter().map(|c| (c.attribute, c.name.clone())).collect()
        };
        names(self) == names(other)
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| same_name(&c.name, name))
    }

    /// The column that a clause names. `None` if IF EXISTS says to let it be.
    fn named(&self, name: &str, if_exists: bool) -> Result<Option<usize>, String> {
        match self.place(name) {
            None if !if_exists => Err(format!(
                "its column {name:?} was altered, which was not known to be there"
            )),
            place => Ok(place),
        }
    }

    fn is_key(&self, column: &KnownColumn) -> bool {
        self.key.contains(&column.attribute)
    }

    fn after(&self, alter: &Alter, session: &Session) -> Result<Self, String> {
        self.check_key(&alter.changes)?;
        let mut after = Self {
            columns: Vec::with_capacity(self.columns.len() + 1),
            ..self.clone()
        };
        let mut convert = None;
        for change in &alter.changes {
            match change {
                Change::Charset(Some(charset)) => after.charset.clone_from(charset),
                Change::Convert(Some(charset)) => {
                    after.charset.clone_from(charset);
                    convert = Some(charset.as_str());
                }
                Change::Charset(None) | Change::Convert(None) => {
                    return Err("its charset became that of its schema".into());
                }
                Change::Other(reason) => return Err(reason.clone()),
                Change::Add { column, .. } if column.generated => after.computed = true,
                _ => {}
            }
        }
        if convert.is_some() && self.computed {
            return Err("its text was converted, so values that are computed from it may have changed".into());
        }
        let context = Context {
            charset: after.charset.clone(),
            convert,
            strict: alter.strict,
            session,
        };
        let kept = self.kept(&alter.changes, &context)?;
        after.columns.extend(kept.into_iter().flatten());
        for change in &alter.changes {
            match change {
                Change::Add {
                    column,
                    position,
                    unless_exists,
                } => {
                    let there = self.place(&column.name).is_some() || after.place(&column.name).is_some();
                    if *unless_exists && there {
                        continue;
                    }
                    if column.fills {
                        return Err(format!("its new column {:?} has values in old rows", column.name));
                    }
                    context.check_convert(column)?;
                    after.attribute_max += 1;
                    let column = column.known(after.attribute_max, &context.charset, session);
                    after.insert(column, position)?;
                }
                // It has its old place until its turn comes.
                Change::Modify { from, position, .. } if *position != Position::Last => {
                    let attribute = self.place(from).map(|place| self.columns[place].attribute);
                    if let Some(place) = after.columns.iter().position(|c| Some(c.attribute) == attribute) {
                        let column = after.columns.remove(place);
                        after.insert(column, position)?;
                    }
                }
                _ => {}
            }
        }
        let twice =
            |(at, c): (usize, &KnownColumn)| after.columns[..at].iter().any(|own| same_name(&own.name, &c.name));
        if after.columns.iter().enumerate().any(twice) {
            return Err("two of its columns would have one name".into());
        }
        if after.columns.is_empty() {
            return Err("none of its columns is left".into());
        }
        Ok(after)
    }

    fn insert(&mut self, column: KnownColumn, position: &Position) -> Result<(), String> {
        let place = match position {
            Position::Last => self.columns.len(),
            Position::First => 0,
            Position::After(name) => match self.place(name) {
                Some(place) => place + 1,
                None => {
                    return Err(format!(
                        "a column was put after its column {name:?}, which was not known to be there"
                    ));
                }
            },
        };
        self.columns.insert(place, column);
        Ok(())
    }

    /// Each column that is there as the clauses leave it, before any is moved;
    /// `None` if it is dropped.
    fn kept(&self, changes: &[Change], context: &Context<'_>) -> Result<Vec<Option<KnownColumn>>, String> {
        let mut kept: Vec<Option<KnownColumn>> = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            kept.push(Some(context.converted(column.clone())?));
        }
        let mut altered = vec![false; self.columns.len()];
        for change in changes {
            let (name, if_exists) = match change {
                Change::Drop { name, if_exists }
                | Change::Rename {
                    from: name, if_exists, ..
                }
                | Change::Modify {
                    from: name, if_exists, ..
                } => (name, *if_exists),
                _ => continue,
            };
            let Some(place) = self.named(name, if_exists)? else {
                continue;
            };
            if std::mem::replace(&mut altered[place], true) {
                return Err(format!("its column {name:?} was altered twice at once"));
            }
            match change {
                Change::Drop { .. } if self.is_key(&self.columns[place]) => {
                    return Err(format!("its key column {name:?} was dropped"));
                }
                Change::Drop { .. } => kept[place] = None,
                Change::Rename { to, .. } => {
                    if let Some(column) = &mut kept[place] {
                        column.name.clone_from(to);
                    }
                }
                Change::Modify { column, .. } => {
                    context.check_convert(column)?;
                    kept[place] = Some(self.modified(&self.columns[place], column, context)?);
                }
                _ => {}
            }
        }
        Ok(kept)
    }

    /// A column under a new definition, if its values stay what they are.
    fn modified(&self, own: &KnownColumn, new: &Definition, context: &Context<'_>) -> Result<KnownColumn, String> {
        let session = context.session;
        let refuse = |what: &str| {
            Err(format!(
                "{what} of its column {:?} changed, so values may have",
                own.name
            ))
        };
        let mut column = new.known(own.attribute, &context.charset, session);
        if self.is_key(own) {
            if self.key_name == PRIMARY {
                column.nullable = false;
            } else if column.nullable && !own.nullable {
                return Err(KEY_CHANGED.into());
            }
        }
        if new.generated {
            return refuse("the expression");
        }
        if self.computed {
            return Err(format!(
                "its column {:?} was altered, so values that are computed from it may have changed",
                own.name
            ));
        }
        if new.auto_increment && !own.auto_increment {
            return Err(format!(
                "its column {:?} became AUTO_INCREMENT, so zeros may be numbers",
                own.name
            ));
        }
        // Strict mode refuses to make another value of a NULL, but a TIMESTAMP
        // may take the time instead.
        let refused = context.strict && new.column_type.base != "timestamp";
        if own.nullable && (!column.nullable || new.maybe_required) && !refused {
            return Err(format!(
                "its column {:?} became NOT NULL, so values may have changed",
                own.name
            ));
        }
        let same_charset = match (own.charset.as_deref(), column.charset.as_deref()) {
            (Some(own), Some(new)) => keeps_text(own, new),
            (own, new) => own == new,
        };
        let types = (
            ColumnType::parse(&own.column_type, session),
            ColumnType::parse(&column.column_type, session),
        );
        let pads = session.has(mode::PAD_CHAR_TO_FULL_LENGTH);
        match types {
            _ if !same_charset => refuse("the charset"),
            (Some(before), Some(after)) if before.widens_to(&after, own.charset.as_deref(), pads) => Ok(column),
            _ => refuse("the type"),
        }
    }

    /// Whether the key is still the same one.
    fn check_key(&self, changes: &[Change]) -> Result<(), String> {
        let keys = || {
            changes.iter().filter_map(|c| match c {
                Change::Key(key) => Some(key),
                _ => None,
            })
        };
        let primary = self.key_name == PRIMARY;
        let dropped = keys().any(|key| *key == KeyChange::DropPrimary);
        for key in keys() {
            let same = match key {
                KeyChange::AddPrimary(columns) => {
                    let column = |name: &String| self.place(name).map(|place| self.columns[place].attribute);
                    let same = columns.iter().map(column).collect::<Option<Vec<i32>>>().as_ref() == Some(&self.key);
                    // Without DROP it says nothing new, as IF NOT EXISTS.
                    primary && (!dropped || same)
                }
                KeyChange::DropPrimary => !primary || keys().any(|key| matches!(key, KeyChange::AddPrimary(_))),
                KeyChange::AddUnique => primary,
                KeyChange::Index(name) => primary || !same_name(name, &self.key_name),
            };
            if !same {
                return Err(KEY_CHANGED.into());
            }
        }
        Ok(())
    }
}

/// The primary key's name.
const PRIMARY: &str = "PRIMARY";

/// What an ALTER says of all columns.
struct Context<'a> {
    /// Of columns that are defined without one.
    charset: String,
    convert: Option<&'a str>,
    strict: bool,
    session: &'a Session,
}

impl Context<'_> {
    /// CONVERT TO CHARACTER SET overrules what a clause says of its column.
    fn check_convert(&self, column: &Definition) -> Result<(), String> {
        if self.convert.is_some() && column.column_type.is_text() {
            return Err(format!(
                "its column {:?} was defined and converted at once",
                column.name
            ));
        }
        Ok(())
    }

    /// A column after CONVERT TO CHARACTER SET.
    fn converted(&self, column: KnownColumn) -> Result<KnownColumn, String> {
        let (Some(from), Some(to)) = (column.charset.as_deref(), self.convert) else {
            return Ok(column);
        };
        if from == to {
            return Ok(column);
        }
        let ty = ColumnType::parse(&column.column_type, self.session).filter(|_| keeps_text(from, to));
        let Some(ty) = ty else {
            return Err(format!("its column {:?} was converted to another charset", column.name));
        };
        let column_type = ty.widened(from, to).display(self.session);
        let charset = Some(to.to_owned());
        Ok(KnownColumn {
            column_type,
            charset,
            ..column
        })
    }
}

impl Definition {
    fn known(&self, attribute: i32, table_charset: &str, session: &Session) -> KnownColumn {
        let charset = self
            .column_type
            .is_text()
            .then(|| self.charset.as_deref().unwrap_or(table_charset));
        let ty = self.column_type.clone().with_charset(charset);
        // MySQL doesn't tell that of an enum.
        let told = |charset: &str| charset != "binary" || session.flavor == Flavor::MariaDb;
        KnownColumn {
            name: self.name.clone(),
            column_type: ty.display(session),
            charset: charset.filter(|c| ty.is_text() && told(c)).map(str::to_owned),
            attribute,
            nullable: self.nullable,
            auto_increment: self.auto_increment,
        }
    }
}

/// Whether text of one charset is the same in another whatever it says.
fn keeps_text(from: &str, to: &str) -> bool {
    from == to || (from == "utf8mb3" && to == "utf8mb4")
}

/// Names of columns differ by more than case.
fn same_name(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}
