//! The one error of the library: what failed, on what, and what to do.
//!
//! The class is chosen where the error is made; nothing later guesses it from
//! the text. Messages never hold row values or passwords.

use std::error::Error as StdError;
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who can do something about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Passes by itself: the pipeline starts again from the lake's watermarks.
    Transient,
    /// A person has to change something; the hint says what.
    NeedsOperator,
    /// Our own mistake.
    Bug,
}

/// Lower case, names the object, says what was expected. The cause is in
/// [`StdError::source`], the way out in [`Error::hint`].
pub struct Error(Box<Inner>);

struct Inner {
    class: Class,
    message: String,
    hint: Option<String>,
    code: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    fn new(class: Class, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            class,
            message: message.into(),
            hint: None,
            code: None,
            source: None,
        }))
    }

    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(Class::Transient, message)
    }

    pub fn operator(message: impl Into<String>) -> Self {
        Self::new(Class::NeedsOperator, message)
    }

    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Class::Bug, message)
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Keeps what the other side calls the error, for callers that know it.
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.0.code = Some(code.into());
        self
    }

    /// Says where it was.
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    pub fn class(&self) -> Class {
        self.0.class
    }

    /// The cause's text, for a log field.
    pub fn cause(&self) -> Option<String> {
        self.0.source.as_ref().map(ToString::to_string)
    }

    /// Something to do, or nothing if there is nothing but to wait.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("class", &self.0.class)
            .field("message", &self.0.message)
            .field("hint", &self.0.hint)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}
