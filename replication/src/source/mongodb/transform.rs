//! Fields that the lake gets in another form than the collection has them, or
//! not at all. Pure: documents and updates in, documents and updates out.
//!
//! This is where every document and every update comes in, before anything
//! looks at its fields: columns are inferred from what leaves here, and so is
//! what is left over. So a hashed or masked field is a field of strings, and
//! nobody past this room knows a value that was there before.
//!
//! What becomes of a field depends on its name up to the first dot alone: so a
//! path into it, and a name with dots that looks like one, go the same way.

use std::collections::HashMap;
use std::sync::Arc;

use super::columns::append_plain;
use super::infer;
use super::json;
use super::raw::{self, Malformed, Result, Value, tag};
use crate::schema::{MongoKind as Kind, TableId};
use crate::source::Refusal;
use crate::transform::{Action, Form, HASH_DIGITS, HashKey, Rules, timestamp};

/// Names whose action is kept at hand.
const NAMES_MAX: usize = 4096;

/// How the documents of a collection are transformed.
#[derive(Debug)]
pub struct Transform {
    rules: Rules,
    form: Form,
}

impl Transform {
    /// `None` if the rules leave documents as they are. Errors: they ask for
    /// what can't be done.
    pub fn of(table: &TableId, rules: Rules) -> std::result::Result<Option<Arc<Self>>, Refusal> {
        if let Some(refusal) = rules.refuse_key(table, "_id") {
            return Err(refusal);
        }
        let form = rules.document_form();
        Ok(form.map(|form| Arc::new(Self { rules, form })))
    }

    pub fn form(&self) -> &Form {
        &self.form
    }
}

/// Transforms documents of a collection, one after the other.
#[derive(Debug)]
pub struct Transformer(Option<Fields>);

#[derive(Debug)]
struct Fields {
    transform: Arc<Transform>,
    /// What becomes of names that came lately.
    actions: HashMap<Box<[u8]>, Action>,
    out: Vec<u8>,
    /// What is hashed.
    plain: Vec<u8>,
}

/// An update as it is for the lake's rows.
pub struct Update<'a> {
    /// Its description, without what changes nothing there.
    pub description: &'a [u8],
    /// Whether it does not tell all, so that the document has to be read.
    pub unsure: bool,
    /// Whether it changes nothing there.
    pub idle: bool,
}

/// What of a field a path leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Whole,
    Inside,
    /// The server does not say.
    Either,
}

impl Transformer {
    pub fn new(transform: Option<Arc<Transform>>) -> Self {
        Self(transform.map(|transform| Fields {
            transform,
            actions: HashMap::new(),
            out: Vec::new(),
            plain: Vec::new(),
        }))
    }

    /// A whole document.
    pub fn document<'a>(&'a mut self, document: &'a [u8]) -> Result<&'a [u8]> {
        match &mut self.0 {
            Some(fields) => fields.document(document),
            None => Ok(document),
        }
    }

    /// Gives back what a large document took.
    pub fn release(&mut self) {
        if let Some(fields) = &mut self.0 {
            (fields.out, fields.plain) = (Vec::new(), Vec::new());
        }
    }

    /// What an update changes, as its event describes it.
    pub fn update<'a>(&'a mut self, description: &'a [u8]) -> Result<Update<'a>> {
        match &mut self.0 {
            Some(fields) => fields.update(description),
            None => Ok(Update {
                description,
                unsure: false,
                idle: false,
            }),
        }
    }
}

impl Fields {
    fn document(&mut self, document: &[u8]) -> Result<&[u8]> {
        self.out.clear();
        let begun = raw::begin(&mut self.out);
        for element in raw::document(document)? {
            let (name, value) = element?;
            self.write(name, value)?;
        }
        raw::end(&mut self.out, begun);
        Ok(&self.out)
    }

    fn update(&mut self, description: &[u8]) -> Result<Update<'_>> {
        let paths = raw::field(description, "disambiguatedPaths")?.filter(|paths| paths.tag == tag::DOCUMENT);
        let known = paths.map(|paths| paths.elements()?.collect::<Result<HashMap<_, _>>>());
        let known = known.transpose()?;
        let (mut unsure, mut left) = (false, 0);
        self.out.clear();
        let begun = raw::begin(&mut self.out);
        for element in raw::document(description)? {
            let (name, parts) = element?;
            if !matches!(
                name,
                b"updatedFields" | b"removedFields" | b"truncatedArrays" | b"disambiguatedPaths"
            ) || !matches!(parts.tag, tag::DOCUMENT | tag::ARRAY)
            {
                continue;
            }
            raw::name(&mut self.out, parts.tag, name);
            let inside = raw::begin(&mut self.out);
            let mut number = 0_usize;
            for element in parts.elements()? {
                let (own, value) = element?;
                if name == b"disambiguatedPaths" {
                    if *self.action(own) != Action::Exclude {
                        copy(own, value, &mut self.out);
                    }
                    continue;
                }
                let path = match name {
                    b"updatedFields" => Some(own),
                    b"removedFields" => value.text(),
                    _ => raw::field(value.bytes, "field")?.and_then(Value::text),
                };
                let path = path.ok_or(Malformed("a path"))?;
                // An array that is cut has changed inside.
                let place = match place(path, known.as_ref())? {
                    Place::Whole if name == b"truncatedArrays" => Place::Inside,
                    place => place,
                };
                let changes = match (self.action(path), place) {
                    (Action::Keep, _) => true,
                    (Action::Exclude, _) => false,
                    (_, Place::Whole) => true,
                    // It is not null before nor after, so its text stays.
                    (Action::Mask(_), Place::Inside) => false,
                    (Action::Mask(_), Place::Either) | (Action::Hash, _) => {
                        unsure = true;
                        false
                    }
                };
                if !changes {
                    continue;
                }
                left += 1;
                if name == b"updatedFields" {
                    self.write(own, value)?;
                } else {
                    copy(number.to_string().as_bytes(), value, &mut self.out);
                    number += 1;
                }
            }
            raw::end(&mut self.out, inside);
        }
        raw::end(&mut self.out, begun);
        Ok(Update {
            description: &self.out,
            unsure,
            idle: left == 0 && !unsure,
        })
    }

    /// Appends a field as the lake gets it.
    fn write(&mut self, name: &[u8], value: Value<'_>) -> Result<()> {
        let action = action(&self.transform.rules, &mut self.actions, name);
        match action {
            Action::Exclude => {}
            Action::Keep => copy(name, value, &mut self.out),
            _ if value.tag == tag::NULL => copy(name, value, &mut self.out),
            Action::Mask(text) => {
                raw::name(&mut self.out, tag::STRING, name);
                raw::string(&mut self.out, text.as_bytes());
            }
            Action::Hash => {
                let key = self.transform.rules.key().ok_or(Malformed("a key of hashes"))?;
                let mut digits = [0; HASH_DIGITS];
                let hash = hashed(value, key, &mut self.plain, &mut digits)?;
                raw::name(&mut self.out, tag::STRING, name);
                raw::string(&mut self.out, hash.as_bytes());
            }
        }
        Ok(())
    }

    fn action(&mut self, path: &[u8]) -> &Action {
        action(&self.transform.rules, &mut self.actions, path)
    }
}

/// What becomes of the field that a name or a path begins with.
fn action<'a>(rules: &Rules, known: &'a mut HashMap<Box<[u8]>, Action>, path: &[u8]) -> &'a Action {
    let name = path.split(|byte| *byte == b'.').next().unwrap_or_default();
    if !known.contains_key(name) {
        if known.len() >= NAMES_MAX {
            known.clear();
        }
        known.insert(name.into(), rules.action(&String::from_utf8_lossy(name)));
    }
    &known[name]
}

fn copy(name: &[u8], value: Value<'_>, out: &mut Vec<u8>) {
    raw::name(out, value.tag, name);
    out.extend_from_slice(value.bytes);
}

/// Servers from 7.0 on tell of each path whose parts are not those between its
/// dots, and those before tell nothing.
fn place(path: &[u8], known: Option<&HashMap<&[u8], Value<'_>>>) -> Result<Place> {
    if !path.contains(&b'.') {
        return Ok(Place::Whole);
    }
    let Some(known) = known else { return Ok(Place::Either) };
    let Some(parts) = known.get(path) else {
        return Ok(Place::Inside);
    };
    Ok(match parts.elements()?.count() {
        1 => Place::Whole,
        _ => Place::Inside,
    })
}

fn hashed<'a>(
    value: Value<'_>,
    key: &HashKey,
    plain: &mut Vec<u8>,
    digits: &'a mut [u8; HASH_DIGITS],
) -> Result<&'a str> {
    plain.clear();
    match (infer::kind_of(value), value.tag) {
        // As their columns would have them.
        (kind @ (Kind::String | Kind::ObjectId | Kind::Uuid | Kind::Binary), _) => append_plain(&kind, value, plain)?,
        (_, tag::DATE) => {
            let date = value.date().ok_or(Malformed("a date as long as its type"))?;
            let mut text = String::new();
            timestamp(date.div_euclid(1000), date.rem_euclid(1000) * 1000, "Z", &mut text);
            plain.extend_from_slice(text.as_bytes());
        }
        _ => json::write_by_value(value, plain)?,
    }
    Ok(key.hex(plain, digits))
}
