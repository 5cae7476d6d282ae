//! QUERY: statements that were logged as text.

use std::borrow::Cow;

use super::reader::Reader;
use super::{Result, compressed, event_type};

#[derive(Clone, Debug, PartialEq)]
pub struct Query<'a> {
    /// The default database; may be empty.
    pub schema: &'a [u8],
    /// Not 0 if the statement failed half-way.
    pub error_code: u16,
    pub sql_mode: Option<u64>,
    pub charset: Option<QueryCharset>,
    event: &'static str,
    compressed: bool,
    text: &'a [u8],
}

/// Collation ids of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryCharset {
    /// Of the text.
    pub client: u16,
    pub connection: u16,
    pub server: u16,
}

/// What a statement does to a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    Begin,
    Commit,
    Rollback,
    Savepoint,
    RollbackToSavepoint,
    XaStart,
    XaEnd,
    XaPrepare,
    XaCommit,
    XaRollback,
    /// Nothing, or it is one by itself.
    Other,
}

impl<'a> Query<'a> {
    /// The text, in the charset of the client that sent it.
    pub fn sql(&self) -> Result<Cow<'a, [u8]>> {
        if self.compressed {
            compressed::inflate(self.text, self.event).map(Cow::Owned)
        } else {
            Ok(Cow::Borrowed(self.text))
        }
    }

    /// Looks at the first words of the text.
    pub fn statement(&self) -> Result<Statement> {
        // Servers don't compress what is as short as this.
        if self.compressed {
            return Ok(Statement::Other);
        }
        let mut words = self
            .text
            .split(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b';' | b'`' | b'\''))
            .filter(|word| !word.is_empty());
        let mut next = || words.next().unwrap_or_default().to_ascii_uppercase();
        // The servers write these themselves, without comments.
        let statement = match next().as_slice() {
            b"BEGIN" => Statement::Begin,
            b"START" if next() == b"TRANSACTION" => Statement::Begin,
            b"COMMIT" => Statement::Commit,
            b"SAVEPOINT" => Statement::Savepoint,
            b"ROLLBACK" if next() == b"TO" => Statement::RollbackToSavepoint,
            b"ROLLBACK" => Statement::Rollback,
            b"XA" => match next().as_slice() {
                b"START" | b"BEGIN" => Statement::XaStart,
                b"END" => Statement::XaEnd,
                b"PREPARE" => Statement::XaPrepare,
                b"COMMIT" => Statement::XaCommit,
                b"ROLLBACK" => Statement::XaRollback,
                _ => Statement::Other,
            },
            _ => Statement::Other,
        };
        Ok(statement)
    }
}

pub(super) fn read<'a>(r: &mut Reader<'a>, ty: u8) -> Result<Query<'a>> {
    r.skip(8, "a thread id and a run time")?;
    let schema_len = r.u8("the length of a schema name")?;
    let error_code = r.u16("an error code")?;
    let variables_len = r.u16("the length of status variables")?;
    if ty == event_type::EXECUTE_LOAD_QUERY {
        r.skip(13, "a file id and where its name is")?;
    }
    let variables = r.sub(variables_len.into(), "status variables")?;
    let mut query = Query {
        schema: r.take(schema_len.into(), "a schema name")?,
        error_code,
        sql_mode: None,
        charset: None,
        event: r.event(),
        compressed: ty == event_type::QUERY_COMPRESSED,
        text: &[],
    };
    r.skip(1, "a zero byte")?;
    query.text = r.rest();
    query.read_variables(variables)?;
    Ok(query)
}

impl Query<'_> {
    /// The variables come in the order of their codes, more or less; all that
    /// matter come before the first that is not known here.
    fn read_variables(&mut self, mut r: Reader<'_>) -> Result<()> {
        while !r.is_empty() {
            match r.u8("a status variable")? {
                // Flags.
                0 => r.skip(4, "flags")?,
                1 => self.sql_mode = Some(r.u64("an SQL mode")?),
                // Catalogue, with a zero byte.
                2 => {
                    let len = r.u8("the length of a catalogue name")?;
                    r.skip(usize::from(len) + 1, "a catalogue name")?;
                }
                // Auto-increment.
                3 => r.skip(4, "an increment and offset")?,
                4 => {
                    self.charset = Some(QueryCharset {
                        client: r.u16("a client charset")?,
                        connection: r.u16("a connection collation")?,
                        server: r.u16("a server collation")?,
                    });
                }
                // Time zone, catalogue.
                5 | 6 => {
                    let len = r.u8("the length of a name")?;
                    r.skip(len.into(), "a name")?;
                }
                _ => break,
            }
        }
        Ok(())
    }
}
