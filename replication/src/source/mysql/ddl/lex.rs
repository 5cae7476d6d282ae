//! Statement text to tokens, and a cursor over them.
//!
//! The lexer is sqlparser's. What it doesn't do the server's way is done
//! before: comments are taken out, and those that this server executes are
//! opened. Literals are left as written and unescaped here.

use std::any::TypeId;

use sqlparser::ast::ColumnOption;
use sqlparser::dialect::{Dialect, MySqlDialect};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace};

use super::{Flavor, Session, mode};
use crate::schema::TableId;

/// MySQL's dialect under a session's SQL mode.
#[derive(Debug)]
pub struct SessionDialect {
    base: MySqlDialect,
    ansi_quotes: bool,
    backslash_escapes: bool,
}

impl SessionDialect {
    pub fn new(session: &Session) -> Self {
        Self {
            base: MySqlDialect {},
            ansi_quotes: session.has(mode::ANSI_QUOTES),
            backslash_escapes: !session.has(mode::NO_BACKSLASH_ESCAPES),
        }
    }
}

impl Dialect for SessionDialect {
    fn dialect(&self) -> TypeId {
        self.base.dialect()
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '`' || (ch == '"' && self.ansi_quotes)
    }

    fn supports_string_literal_backslash_escape(&self) -> bool {
        self.backslash_escapes
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        self.base.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        self.base.is_identifier_part(ch)
    }

    fn supports_string_literal_concatenation(&self) -> bool {
        self.base.supports_string_literal_concatenation()
    }

    fn supports_numeric_prefix(&self) -> bool {
        self.base.supports_numeric_prefix()
    }

    fn supports_literal_prefix_in_qualified_name(&self) -> bool {
        self.base.supports_literal_prefix_in_qualified_name()
    }

    fn supports_bitwise_shift_operators(&self) -> bool {
        self.base.supports_bitwise_shift_operators()
    }

    fn require_interval_qualifier(&self) -> bool {
        self.base.require_interval_qualifier()
    }
}

/// The tokens of a statement; those before the place where it can't be read,
/// and whether that is its end.
pub fn tokens(sql: &str, session: &Session) -> (Vec<Token>, bool) {
    let dialect = SessionDialect::new(session);
    let text = open_comments(sql, session);
    let mut tokens: Vec<TokenWithSpan> = Vec::new();
    let whole = Tokenizer::new(&dialect, &text)
        .with_unescape(false)
        .tokenize_with_location_into_buf(&mut tokens)
        .is_ok();
    let mut tokens: Vec<Token> = tokens
        .into_iter()
        .map(|t| t.token)
        .filter(|token| {
            !matches!(
                token,
                Token::Whitespace(Whitespace::Space | Whitespace::Newline | Whitespace::Tab)
            )
        })
        .collect();
    while tokens.last() == Some(&Token::SemiColon) {
        tokens.pop();
    }
    (tokens, whole)
}

/// The text without its comments, but with what is in those that the server
/// executes: `/*! … */`, `/*!80000 … */`, MariaDB's `/*M!100301 … */`.
fn open_comments(sql: &str, session: &Session) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    let mut open = false;
    while let Some(ch) = rest.chars().next() {
        let skip = match ch {
            '\'' | '"' | '`' => {
                let end = quoted_len(rest, ch, session);
                out.push_str(&rest[..end]);
                end
            }
            '#' => line_len(rest),
            '-' if rest.starts_with("--") && rest[2..].chars().next().is_none_or(|c| c <= ' ') => line_len(rest),
            '*' if open && rest.starts_with("*/") => {
                open = false;
                out.push(' ');
                2
            }
            '/' if rest.starts_with("/*") => {
                out.push(' ');
                match executed(rest, session) {
                    Some(marker) if !open => {
                        open = true;
                        marker
                    }
                    _ => comment_len(rest),
                }
            }
            _ => {
                out.push(ch);
                ch.len_utf8()
            }
        };
        rest = &rest[skip..];
    }
    out
}

/// The length of a comment's marker if what follows is executed.
fn executed(comment: &str, session: &Session) -> Option<usize> {
    let (body, own) = match comment.strip_prefix("/*M!") {
        Some(body) if session.flavor == Flavor::MariaDb => (body, true),
        _ => (comment.strip_prefix("/*!")?, false),
    };
    let digits = body.bytes().take(6).take_while(u8::is_ascii_digit).count();
    if digits < 5 {
        return Some(comment.len() - body.len());
    }
    let version: u32 = body[..digits].parse().ok()?;
    // MariaDB leaves to MySQL what that has had since they parted.
    let theirs = session.flavor == Flavor::MariaDb && !own && (50_700..=99_999).contains(&version);
    (version <= session.version && !theirs).then_some(comment.len() - body.len() + digits)
}

/// The length of a comment that isn't executed. One in it is part of it if
/// it is a versioned one.
fn comment_len(comment: &str) -> usize {
    let mut at = 2;
    if comment[at..].starts_with('!') || comment[at..].starts_with("M!") {
        while let (Some(inner), Some(end)) = (comment[at..].find("/*"), comment[at..].find("*/")) {
            if inner > end {
                break;
            }
            match comment[at + inner + 2..].find("*/") {
                Some(end) => at += inner + 2 + end + 2,
                None => return comment.len(),
            }
        }
    }
    comment[at..].find("*/").map_or(comment.len(), |end| at + end + 2)
}

fn line_len(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

/// The length of a literal or quoted name, its quotes with it.
fn quoted_len(text: &str, quote: char, session: &Session) -> usize {
    let name = quote == '`' || (quote == '"' && session.has(mode::ANSI_QUOTES));
    let escapes = !name && !session.has(mode::NO_BACKSLASH_ESCAPES);
    let mut chars = text.char_indices().skip(1);
    while let Some((at, ch)) = chars.next() {
        if ch == '\\' && escapes {
            chars.next();
        } else if ch == quote {
            // A doubled quote begins the next part at once.
            return at + 1;
        }
    }
    text.len()
}

/// What a string literal stands for.
pub fn unescape(raw: &str, quote: char, escapes: bool) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars().peekable();
    while let Some(ch) = chars.next() {
        if ch == quote && chars.peek() == Some(&quote) {
            chars.next();
            out.push(quote);
        } else if ch == '\\' && escapes {
            match chars.next() {
                Some('0') => out.push('\0'),
                Some('b') => out.push('\u{8}'),
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('t') => out.push('\t'),
                Some('Z') => out.push('\u{1a}'),
                Some(wild @ ('%' | '_')) => out.extend(['\\', wild]),
                Some(other) => out.push(other),
                None => out.push('\\'),
            }
        } else {
            out.push(ch);
        }
    }
    out
}

/// A place in a statement's tokens.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    tokens: &'a [Token],
    pub session: &'a Session,
}

impl<'a> Cursor<'a> {
    pub fn new(tokens: &'a [Token], session: &'a Session) -> Self {
        Self { tokens, session }
    }

    pub fn is_done(&self) -> bool {
        self.tokens.is_empty()
    }

    pub fn peek(&self) -> Option<&'a Token> {
        self.tokens.first()
    }

    pub fn bump(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    /// Whether these keywords come next; a quoted word is none.
    pub fn is(&self, words: &[&str]) -> bool {
        let same = |(token, word): (&Token, &&str)| is_word(token, word);
        self.tokens.len() >= words.len() && self.tokens.iter().zip(words).all(same)
    }

    pub fn is_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(&[word]))
    }

    /// Takes these keywords if all of them come next.
    pub fn take(&mut self, words: &[&str]) -> bool {
        let found = self.is(words);
        if found {
            self.tokens = &self.tokens[words.len()..];
        }
        found
    }

    pub fn take_any(&mut self, words: &[&str]) -> bool {
        let found = self.is_any(words);
        if found {
            self.bump();
        }
        found
    }

    pub fn symbol(&mut self, symbol: &Token) -> bool {
        let found = self.peek() == Some(symbol);
        if found {
            self.bump();
        }
        found
    }

    /// A name, quoted or not.
    pub fn name(&mut self) -> Option<String> {
        let Some(Token::Word(word)) = self.peek() else {
            return None;
        };
        self.bump();
        Some(match word.quote_style {
            Some(quote) => unescape(&word.value, quote, false),
            None => word.value.clone(),
        })
    }

    /// A word or a string literal, as names of charsets, engines and the like.
    pub fn word_or_string(&mut self) -> Option<String> {
        self.string().or_else(|| self.name())
    }

    /// A string literal, whatever its charset; the parts of one in several.
    pub fn string(&mut self) -> Option<String> {
        let mut value: Option<String> = None;
        loop {
            let (raw, quote) = match self.peek() {
                Some(Token::SingleQuotedString(raw) | Token::NationalStringLiteral(raw)) => (raw, '\''),
                Some(Token::DoubleQuotedString(raw)) => (raw, '"'),
                _ => return value,
            };
            self.bump();
            let escapes = !self.session.has(mode::NO_BACKSLASH_ESCAPES);
            value.get_or_insert_default().push_str(&unescape(raw, quote, escapes));
        }
    }

    pub fn number(&mut self) -> Option<u32> {
        let Some(Token::Number(digits, _)) = self.peek() else {
            return None;
        };
        let value = digits.parse().ok()?;
        self.bump();
        Some(value)
    }

    /// A table's name; without a schema it is in the default one.
    pub fn table(&mut self, default_schema: &str) -> Option<TableId> {
        let fold = |name: String| match self.session.fold_names {
            true => name.to_lowercase(),
            false => name,
        };
        let mut ahead = *self;
        let first = match ahead.symbol(&Token::Period) {
            true => None,
            false => Some(ahead.name()?),
        };
        let id = match first {
            Some(name) if !ahead.symbol(&Token::Period) => TableId::new(fold(default_schema.to_owned()), fold(name)),
            schema => {
                let schema = schema.unwrap_or_else(|| default_schema.to_owned());
                TableId::new(fold(schema), fold(ahead.name()?))
            }
        };
        *self = ahead;
        Some(id)
    }

    /// What is in the parentheses that come next.
    pub fn group(&mut self) -> Option<Cursor<'a>> {
        if self.peek() != Some(&Token::LParen) {
            return None;
        }
        let mut depth = 0usize;
        for (at, token) in self.tokens.iter().enumerate() {
            match token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                let inner = Cursor::new(&self.tokens[1..at], self.session);
                self.tokens = &self.tokens[at + 1..];
                return Some(inner);
            }
        }
        None
    }

    /// What is in the first parentheses from here on.
    pub fn next_group(&mut self) -> Option<Cursor<'a>> {
        while !self.is_done() && self.peek() != Some(&Token::LParen) {
            self.bump();
        }
        self.group()
    }

    /// The parts between commas, but for commas in parentheses.
    pub fn parts(&self) -> Vec<Cursor<'a>> {
        let mut parts = Vec::new();
        let mut depth = 0usize;
        let mut start = 0;
        for (at, token) in self.tokens.iter().enumerate() {
            match token {
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.saturating_sub(1),
                Token::Comma if depth == 0 => {
                    parts.push(Cursor::new(&self.tokens[start..at], self.session));
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(Cursor::new(&self.tokens[start..], self.session));
        parts
    }

    /// Cuts off the rest from where these keywords come outside parentheses.
    pub fn cut(&mut self, words: &[&str]) -> Option<Cursor<'a>> {
        let mut depth = 0usize;
        for (at, token) in self.tokens.iter().enumerate() {
            match token {
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.saturating_sub(1),
                _ if depth > 0 => {}
                _ => {
                    let rest = Cursor::new(&self.tokens[at..], self.session);
                    if rest.is(words) {
                        self.tokens = &self.tokens[..at];
                        return Some(rest);
                    }
                }
            }
        }
        None
    }

    /// A column option that the parser knows: DEFAULT, ON UPDATE, REFERENCES…
    pub fn column_option(&mut self) -> Option<ColumnOption> {
        let dialect = SessionDialect::new(self.session);
        let mut parser = Parser::new(&dialect).with_tokens(self.tokens.to_vec());
        let option = parser.parse_optional_column_option().ok()??;
        self.tokens = self.tokens.get(parser.index()..)?;
        Some(option)
    }
}

fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(own) if own.quote_style.is_none() && own.value.eq_ignore_ascii_case(word))
}
