//! Updates as a change stream tells them, applied to the documents that the
//! lake has. Spec: MongoDB manual, "update Event", `updateDescription`.
//!
//! A path names fields and places in arrays with dots between. Where the
//! server does not say which part is what (`disambiguatedPaths`), the document
//! does: every part but the last is there already, so a path whose parts are
//! not is one name with dots in it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::interleave;

use super::columns::{ColumnBuilder, malformed, read_back};
use super::json;
use super::raw::{self, DEPTH_MAX, Malformed, Value, tag};
use super::rows::Fields;
use crate::batch::{Patch, Patched, RowChanges};
use crate::error::{Error, Result};
use crate::schema::MongoKind as Kind;

/// Values that an array grows by at most where nothing is known between.
const PADDING_MAX: usize = 1 << 20;

/// A value that is taken apart as far as a change goes into it.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Raw(u8, Vec<u8>),
    Document(Vec<(Vec<u8>, Node)>),
    Array(Vec<Node>),
}

/// A part of a path.
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Field(&'a [u8]),
    Index(usize),
}

/// What to do at the end of a path.
enum Action<'a> {
    Set(Value<'a>),
    Remove,
    Truncate(usize),
}

impl Node {
    fn of(value: Value<'_>) -> Self {
        Node::Raw(value.tag, value.bytes.to_vec())
    }

    /// The whole document of some bytes.
    pub fn document(bytes: &[u8]) -> raw::Result<Self> {
        let mut node = Node::Raw(tag::DOCUMENT, bytes.to_vec());
        node.open()?;
        Ok(node)
    }

    /// Takes a document or an array apart.
    fn open(&mut self) -> raw::Result<()> {
        let Node::Raw(own, bytes) = self else { return Ok(()) };
        let opened = match *own {
            tag::DOCUMENT => {
                let fields = raw::document(bytes)?.map(|e| e.map(|(name, value)| (name.to_vec(), Node::of(value))));
                Node::Document(fields.collect::<raw::Result<_>>()?)
            }
            tag::ARRAY => {
                let elements = raw::document(bytes)?.map(|e| e.map(|(_, value)| Node::of(value)));
                Node::Array(elements.collect::<raw::Result<_>>()?)
            }
            _ => return Ok(()),
        };
        *self = opened;
        Ok(())
    }

    /// Appends the value's bytes; returns its tag.
    pub fn write(&self, out: &mut Vec<u8>, depth: usize) -> raw::Result<u8> {
        if depth > DEPTH_MAX {
            return Err(Malformed("documents less deep in each other"));
        }
        Ok(match self {
            Node::Raw(tag, bytes) => {
                out.extend_from_slice(bytes);
                *tag
            }
            Node::Document(fields) => {
                let begun = raw::begin(out);
                for (name, node) in fields {
                    node.write_element(name, out, depth + 1)?;
                }
                raw::end(out, begun);
                tag::DOCUMENT
            }
            Node::Array(elements) => {
                let begun = raw::begin(out);
                for (place, node) in elements.iter().enumerate() {
                    node.write_element(place.to_string().as_bytes(), out, depth + 1)?;
                }
                raw::end(out, begun);
                tag::ARRAY
            }
        })
    }

    fn write_element(&self, name: &[u8], out: &mut Vec<u8>, depth: usize) -> raw::Result<()> {
        let place = out.len();
        raw::name(out, tag::NULL, name);
        let tag = self.write(out, depth)?;
        out[place] = tag;
        Ok(())
    }

    fn fields(&mut self) -> Option<&mut Vec<(Vec<u8>, Node)>> {
        match self {
            Node::Document(fields) => Some(fields),
            _ => None,
        }
    }

    /// Carries out a change at the end of a path whose parts are known.
    fn follow(&mut self, steps: &[Step<'_>], action: Action<'_>) -> raw::Result<()> {
        self.open()?;
        let [step, rest @ ..] = steps else {
            if let (Node::Array(elements), Action::Truncate(size)) = (self, action) {
                elements.truncate(size);
            }
            return Ok(());
        };
        let inner = match (&mut *self, *step) {
            (Node::Document(fields), step) => {
                let number;
                let name = match step {
                    Step::Field(name) => name,
                    Step::Index(index) => {
                        number = index.to_string();
                        number.as_bytes()
                    }
                };
                let place = fields.iter().position(|(own, _)| own == name);
                match (rest.is_empty(), action) {
                    (true, Action::Remove) => {
                        fields.retain(|(own, _)| own != name);
                        return Ok(());
                    }
                    (true, Action::Set(value)) => {
                        match place {
                            Some(place) => fields[place].1 = Node::of(value),
                            None => fields.push((name.to_vec(), Node::of(value))),
                        }
                        return Ok(());
                    }
                    (_, action) => place.map(|place| (&mut fields[place].1, action)),
                }
            }
            (Node::Array(elements), step) => {
                let index = match step {
                    Step::Index(index) => Some(index),
                    Step::Field(name) => std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()),
                };
                let Some(index) = index else { return Ok(()) };
                match (rest.is_empty(), action) {
                    (true, Action::Set(value)) => {
                        if index >= elements.len() + PADDING_MAX {
                            return Ok(());
                        }
                        while elements.len() <= index {
                            elements.push(Node::Raw(tag::NULL, Vec::new()));
                        }
                        elements[index] = Node::of(value);
                        return Ok(());
                    }
                    (_, action) => elements.get_mut(index).map(|node| (node, action)),
                }
            }
            (Node::Raw(..), _) => None,
        };
        // What is not there any more, a later change has taken away.
        match inner {
            Some((node, action)) => node.follow(rest, action),
            None => Ok(()),
        }
    }

    /// Takes a path apart by what is there; `None` if it may be several.
    fn steps<'a>(&mut self, path: &'a [u8], later: bool) -> raw::Result<Option<Vec<Step<'a>>>> {
        let mut steps = Vec::new();
        let (mut node, mut rest) = (self, path);
        loop {
            node.open()?;
            let dots = || {
                rest.iter()
                    .enumerate()
                    .filter(|(_, byte)| **byte == b'.')
                    .map(|(place, _)| place)
            };
            match node {
                Node::Document(fields) => {
                    let whole = fields.iter().any(|(own, _)| own == rest);
                    let mut inner = dots().filter_map(|dot| {
                        let next = rest[dot + 1..].split(|byte| *byte == b'.').next().unwrap_or_default();
                        let leads = |node: &Node| match node.nested() {
                            Some(tag::ARRAY) => next.iter().all(u8::is_ascii_digit) && !next.is_empty(),
                            nested => nested.is_some(),
                        };
                        let place = fields
                            .iter()
                            .position(|(own, node)| *own == rest[..dot] && leads(node))?;
                        Some((place, dot))
                    });
                    let (first, second) = (inner.next(), inner.next());
                    let several = usize::from(whole) + usize::from(first.is_some()) + usize::from(second.is_some());
                    // A row that may be newer than the change may have lost
                    // what the path led to.
                    let lost = several == 0 && later && dots().next().is_some();
                    if several > 1 || lost {
                        return Ok(None);
                    }
                    let Some((place, dot)) = first else {
                        steps.push(Step::Field(rest));
                        return Ok(Some(steps));
                    };
                    steps.push(Step::Field(&rest[..dot]));
                    (node, rest) = (&mut fields[place].1, &rest[dot + 1..]);
                }
                Node::Array(elements) => {
                    let dot = dots().next();
                    let part = &rest[..dot.unwrap_or(rest.len())];
                    let index = std::str::from_utf8(part)
                        .ok()
                        .and_then(|part| part.parse::<usize>().ok());
                    let Some(index) = index else {
                        return Ok(Some(Vec::new()));
                    };
                    steps.push(Step::Index(index));
                    match (dot, elements.get_mut(index)) {
                        (None, _) => return Ok(Some(steps)),
                        (Some(dot), Some(element)) => (node, rest) = (element, &rest[dot + 1..]),
                        (Some(_), None) => return Ok(Some(Vec::new())),
                    }
                }
                Node::Raw(..) => return Ok(Some(Vec::new())),
            }
        }
    }

    /// The type of a document or an array.
    fn nested(&self) -> Option<u8> {
        match self {
            Node::Raw(own, _) => [tag::DOCUMENT, tag::ARRAY].contains(own).then_some(*own),
            Node::Document(_) => Some(tag::DOCUMENT),
            Node::Array(_) => Some(tag::ARRAY),
        }
    }
}

/// An update's description, by its parts.
#[derive(Clone, Copy, Default)]
pub struct Description<'a> {
    updated: Option<Value<'a>>,
    removed: Option<Value<'a>>,
    truncated: Option<Value<'a>>,
    paths: Option<Value<'a>>,
}

impl<'a> Description<'a> {
    pub fn of(bytes: &'a [u8]) -> raw::Result<Self> {
        let mut description = Self::default();
        for element in raw::document(bytes)? {
            let (name, value) = element?;
            match name {
                b"updatedFields" => description.updated = Some(value),
                b"removedFields" => description.removed = Some(value),
                b"truncatedArrays" => description.truncated = Some(value),
                b"disambiguatedPaths" => description.paths = Some(value),
                _ => {}
            }
        }
        Ok(description)
    }

    /// The fields that are set, by their paths.
    pub fn updated(&self) -> Option<&'a [u8]> {
        self.updated.map(|value| value.bytes)
    }

    /// Calls for every path that the update changes.
    fn each(&self, mut change: impl FnMut(&'a [u8], Action<'a>) -> raw::Result<()>) -> raw::Result<()> {
        for element in self.removed.iter().flat_map(|value| value.elements()).flatten() {
            change(element?.1.text().ok_or(Malformed("a path"))?, Action::Remove)?;
        }
        for element in self.truncated.iter().flat_map(|value| value.elements()).flatten() {
            let value = element?.1;
            let path = raw::field(value.bytes, "field")?.and_then(Value::text);
            let size = raw::field(value.bytes, "newSize")?.and_then(Value::integer);
            let size = size.and_then(|size| usize::try_from(size).ok());
            let (path, size) = path.zip(size).ok_or(Malformed("a field and its new size"))?;
            change(path, Action::Truncate(size))?;
        }
        for element in self.updated.iter().flat_map(|value| value.elements()).flatten() {
            let (path, value) = element?;
            change(path, Action::Set(value))?;
        }
        Ok(())
    }

    /// The paths whose parts the server tells.
    fn known_paths(&self) -> raw::Result<HashMap<&'a [u8], Value<'a>>> {
        let paths = self.paths.iter().flat_map(|value| value.elements()).flatten();
        paths.collect()
    }

    /// Applies the update to a document. `later`: the document may have this
    /// and later updates already. False if it may mean several things.
    pub fn apply(&self, document: &mut Node, later: bool) -> raw::Result<bool> {
        let mut sure = true;
        let known = self.known_paths()?;
        self.each(|path, action| {
            let steps = match known.get(path) {
                Some(parts) => Some(known_steps(*parts)?),
                None => document.steps(path, later)?,
            };
            sure &= steps.is_some();
            match steps.unwrap_or_default().as_slice() {
                [] => Ok(()),
                steps => document.follow(steps, action),
            }
        })?;
        Ok(sure)
    }
}

/// The parts of a path, as the server tells them.
fn known_steps(parts: Value<'_>) -> raw::Result<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    for element in parts.elements()? {
        let value = element?.1;
        let index = value.integer().and_then(|index| usize::try_from(index).ok());
        steps.push(match (value.text(), index) {
            (Some(name), _) => Step::Field(name),
            (None, Some(index)) => Step::Index(index),
            _ => return Err(Malformed("a name or a place in an array")),
        });
    }
    Ok(steps)
}

/// Applies updates to rows of a table.
#[derive(Debug)]
pub struct Updates(pub Arc<Fields>);

impl Patch for Updates {
    fn apply(&self, base: &RecordBatch, changes: &[RowChanges<'_>]) -> Result<Patched> {
        let fields = &self.0;
        let mut built = Built::new(base);
        let mut unsure = Vec::new();
        for (row, changes) in changes.iter().enumerate() {
            if changes.patches.is_empty() {
                continue;
            }
            let mut updates = Vec::with_capacity(changes.patches.len());
            for bytes in &changes.patches {
                updates.push(Description::of(bytes).map_err(malformed)?);
            }
            if set_columns(fields, base, row, &updates, &mut built)? {
                continue;
            }
            let mut changed = Row {
                fields,
                base,
                row,
                document: Node::Document(Vec::new()),
                columns: Vec::new(),
            };
            changed.load(&updates)?;
            let mut sure = true;
            for update in &updates {
                sure &= update.apply(&mut changed.document, changes.later).map_err(malformed)?;
            }
            if !(sure && changed.store(&mut built)?) {
                unsure.push(row);
            }
        }
        Ok(Patched {
            rows: built.finish()?,
            unsure,
        })
    }
}

/// Sets columns of a row, if that is all that the updates do. False if nothing
/// was done.
fn set_columns(
    fields: &Fields,
    base: &RecordBatch,
    row: usize,
    updates: &[Description<'_>],
    built: &mut Built<'_>,
) -> Result<bool> {
    if fields.whole || base.column(fields.rest).is_valid(row) {
        return Ok(false);
    }
    let mut values: Vec<(usize, Value<'_>)> = Vec::new();
    for update in updates {
        let others = [update.removed, update.truncated, update.paths];
        if others.iter().flatten().any(|value| value.bytes.len() > raw::EMPTY) {
            return Ok(false);
        }
        let mut near = 0;
        for element in update.updated.iter().flat_map(|value| value.elements()).flatten() {
            let (name, value) = element.map_err(malformed)?;
            // No column's name has a dot.
            let column = fields.column(name, near).filter(|column| *column > 0);
            let Some(column) = column.filter(|column| value.tag != tag::NULL && fields.kinds[*column].holds(value))
            else {
                return Ok(false);
            };
            near = column + 1;
            match values.iter_mut().find(|(own, _)| *own == column) {
                Some((_, own)) => *own = value,
                None => values.push((column, value)),
            }
        }
    }
    for (column, value) in values {
        built.column(column, row, &fields.kinds[column])?.append(value)?;
    }
    Ok(true)
}

/// The part of a document that updates are about.
struct Row<'a> {
    fields: &'a Fields,
    base: &'a RecordBatch,
    row: usize,
    document: Node,
    /// The columns whose fields are in the document, or may come to be.
    columns: Vec<usize>,
}

impl Row<'_> {
    fn load(&mut self, updates: &[Description<'_>]) -> Result<()> {
        let rest = self.base.column(self.fields.rest).clone();
        if !rest.is_null(self.row) {
            let mut bytes = Vec::new();
            json::read(rest.as_string::<i32>().value(self.row).as_bytes(), &mut bytes).map_err(malformed)?;
            self.document = Node::document(&bytes).map_err(malformed)?;
        }
        if self.fields.whole {
            return Ok(());
        }
        // What got a column since the row was written moves there.
        let names: Vec<Vec<u8>> = match &self.document {
            Node::Document(fields) => fields.iter().map(|(name, _)| name.clone()).collect(),
            _ => Vec::new(),
        };
        for name in names {
            self.take_column(&name)?;
        }
        for update in updates {
            let mut error = None;
            update
                .each(|path, _| {
                    let dot = path.iter().position(|byte| *byte == b'.');
                    let top = &path[..dot.unwrap_or(path.len())];
                    if let Err(failed) = self.take_column(top) {
                        error.get_or_insert(failed);
                    }
                    Ok(())
                })
                .map_err(malformed)?;
            if let Some(error) = error {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Adds a column's value to the document.
    fn take_column(&mut self, name: &[u8]) -> Result<()> {
        let Some(column) = self.fields.column(name, usize::MAX).filter(|column| *column > 0) else {
            return Ok(());
        };
        if self.columns.contains(&column) {
            return Ok(());
        }
        self.columns.push(column);
        let mut bytes = Vec::new();
        let array = self.base.column(column);
        let value = read_back(&self.fields.kinds[column], array.as_ref(), self.row, &mut bytes)?;
        if let (Some(tag), Some(fields)) = (value, self.document.fields()) {
            // Before another one of the name that is left over.
            fields.insert(0, (name.to_vec(), Node::Raw(tag, bytes)));
        }
        Ok(())
    }

    /// Puts the document into columns. False if a part of it that a column had
    /// does not fit it any more: of its numbers the column had the values alone.
    fn store(mut self, built: &mut Built<'_>) -> Result<bool> {
        let mut bytes = Vec::new();
        let rest = self.fields.rest;
        if self.fields.whole {
            self.document.write(&mut bytes, 0).map_err(malformed)?;
            let mut text = Vec::new();
            let value = Value {
                tag: tag::DOCUMENT,
                bytes: &bytes,
            };
            json::write(value, &mut text).map_err(malformed)?;
            built.column(rest, self.row, &Kind::Document)?.append_text(&text)?;
            return Ok(true);
        }
        let columns = std::mem::take(&mut self.columns);
        let mut fields = match self.document {
            Node::Document(fields) => fields,
            _ => Vec::new(),
        };
        for column in columns {
            let kind = &self.fields.kinds[column];
            let place = fields
                .iter()
                .position(|(name, _)| name.as_slice() == self.fields.name(column).as_bytes());
            let builder = built.column(column, self.row, kind)?;
            let Some(place) = place else {
                builder.append_null();
                continue;
            };
            bytes.clear();
            let tag = fields[place].1.write(&mut bytes, 0).map_err(malformed)?;
            if tag != tag::NULL && builder.append(Value { tag, bytes: &bytes })? {
                fields.remove(place);
                continue;
            }
            builder.append_null();
            if !matches!(fields[place].1, Node::Raw(..)) && self.base.column(column).is_valid(self.row) {
                return Ok(false);
            }
        }
        if fields.is_empty() && self.base.column(rest).is_null(self.row) {
            return Ok(true);
        }
        let builder = built.column(rest, self.row, &Kind::Extra)?;
        if fields.is_empty() {
            builder.append_null();
            return Ok(true);
        }
        bytes.clear();
        let tag = Node::Document(fields).write(&mut bytes, 0).map_err(malformed)?;
        let mut text = Vec::new();
        json::write(Value { tag, bytes: &bytes }, &mut text).map_err(malformed)?;
        builder.append_text(&text)?;
        Ok(true)
    }
}

/// Columns of which some rows are new.
struct Built<'a> {
    base: &'a RecordBatch,
    /// By column: its new values, and the rows that they are of.
    columns: Vec<Option<(ColumnBuilder, Vec<usize>)>>,
}

impl<'a> Built<'a> {
    fn new(base: &'a RecordBatch) -> Self {
        Self {
            base,
            columns: (0..base.num_columns()).map(|_| None).collect(),
        }
    }

    /// Where the new value of a row goes. It must get one.
    fn column(&mut self, column: usize, row: usize, kind: &Kind) -> Result<&mut ColumnBuilder> {
        let slot = self
            .columns
            .get_mut(column)
            .ok_or_else(|| Error::bug("no such column"))?;
        let (builder, rows) = slot.get_or_insert_with(|| (ColumnBuilder::new(kind), Vec::new()));
        rows.push(row);
        Ok(builder)
    }

    fn finish(self) -> Result<RecordBatch> {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for (base, built) in self.base.columns().iter().zip(self.columns) {
            let Some((mut builder, rows)) = built else {
                arrays.push(base.clone());
                continue;
            };
            let new = builder.finish()?;
            let mut places: Vec<(usize, usize)> = (0..base.len()).map(|row| (0, row)).collect();
            for (place, row) in rows.into_iter().enumerate() {
                places[row] = (1, place);
            }
            let array = interleave(&[base.as_ref(), new.as_ref()], &places);
            arrays.push(array.map_err(|e| Error::bug("cannot put a column together").with_source(e))?);
        }
        RecordBatch::try_new(self.base.schema(), arrays)
            .map_err(|e| Error::bug("columns of different lengths").with_source(e))
    }
}
