//! Columns from documents: what a sample of a collection looks like.

use std::collections::HashMap;

use super::columns::{GENERIC, UUID, decimal_parts};
use super::raw::{self, Result, Value, tag};
use super::table::EXTRA;
use crate::config::Mode;
use crate::schema::MongoKind as Kind;

/// Fields of a table that get columns at most; the others are left over.
pub const COLUMNS_MAX: usize = 500;
/// The fields of a regular document at most, and how deep they lie.
const STRUCT_FIELDS_MAX: usize = 40;
const STRUCT_DEPTH_MAX: usize = 4;
/// How many values make a regular one, and in which share of documents each of
/// its fields is at least.
const REGULAR_VALUES: usize = 10;
const REGULAR_SHARE: usize = 10;
/// What a decimal column has at least after the point.
const DECIMAL_SCALE: i8 = 10;

/// The columns that are not of a field.
const RESERVED: [&str; 2] = ["_id", EXTRA];

/// Characters that not every reader takes in a column's name.
const UNUSABLE: [char; 11] = [' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '=', '.'];

/// What was seen of one field.
#[derive(Debug, Default)]
struct Seen {
    /// Values that are not null.
    values: usize,
    kind: Option<Kind>,
    /// Values are not of one kind.
    mixed: bool,
    /// The elements of arrays.
    elements: Option<Box<Seen>>,
    /// The fields of documents, as they came first.
    fields: Fields,
}

#[derive(Debug, Default)]
struct Fields {
    order: Vec<(Vec<u8>, Seen)>,
    places: HashMap<Vec<u8>, usize>,
}

impl Fields {
    fn entry(&mut self, name: &[u8]) -> &mut Seen {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => {
                self.places.insert(name.to_vec(), self.order.len());
                self.order.push((name.to_vec(), Seen::default()));
                self.order.len() - 1
            }
        };
        &mut self.order[place].1
    }
}

/// What documents of a collection look like.
#[derive(Debug, Default)]
pub struct Sample {
    fields: Fields,
}

impl Sample {
    pub fn add(&mut self, document: &[u8]) -> Result<()> {
        for element in raw::document(document)? {
            let (name, value) = element?;
            let seen = self.fields.entry(name);
            // NULL is a key like any other.
            seen.mixed |= name == b"_id" && value.tag == tag::NULL;
            seen.add(value, 0)?;
        }
        Ok(())
    }

    /// The kind of the key, if all are of one.
    pub fn key(&self) -> Kind {
        let id = self
            .fields
            .places
            .get(b"_id".as_slice())
            .map(|place| &self.fields.order[*place].1);
        let kind = id.and_then(|seen| {
            if seen.mixed {
                Some(Kind::Json)
            } else {
                seen.kind.clone()
            }
        });
        match kind {
            // Nothing was seen, so what is most likely.
            None => Kind::ObjectId,
            Some(kind @ (Kind::ObjectId | Kind::Uuid | Kind::String | Kind::Long | Kind::Date | Kind::Bool)) => kind,
            Some(_) => Kind::Json,
        }
    }

    /// The columns of the fields, the most frequent ones if there are many; none
    /// that the lake adds by itself.
    pub fn columns(&self, mode: Mode) -> Vec<(String, Kind)> {
        let system: Vec<&str> = mode.columns().into_iter().map(|(name, _)| name).collect();
        let mut wanted: Vec<(usize, usize, String, Kind)> = Vec::new();
        for (place, (name, seen)) in self.fields.order.iter().enumerate() {
            let Some(name) = usable(name).filter(|name| !RESERVED.contains(name)) else {
                continue;
            };
            if let Some(kind) = seen.kind() {
                wanted.push((seen.values, place, name.to_owned(), kind));
            }
        }
        wanted.sort_by_key(|(values, place, ..)| (std::cmp::Reverse(*values), *place));
        let mut taken: Vec<(usize, String, Kind)> = Vec::new();
        for (_, place, name, kind) in wanted {
            let others = taken.iter().map(|(_, name, _)| name.as_str());
            if taken.len() < COLUMNS_MAX && is_new(others.chain(RESERVED).chain(system.iter().copied()), &name) {
                taken.push((place, name, kind));
            }
        }
        taken.sort_by_key(|(place, ..)| *place);
        taken.into_iter().map(|(_, name, kind)| (name, kind)).collect()
    }
}

impl Seen {
    fn add(&mut self, value: Value<'_>, depth: usize) -> Result<()> {
        if value.tag == tag::NULL {
            return Ok(());
        }
        self.values += 1;
        let kind = kind_of(value);
        if kind == Kind::Json {
            match value.tag {
                _ if depth >= STRUCT_DEPTH_MAX => {}
                tag::ARRAY => {
                    let elements = self.elements.get_or_insert_default();
                    for element in value.elements()? {
                        elements.add(element?.1, depth + 1)?;
                    }
                }
                tag::DOCUMENT => {
                    for element in value.elements()? {
                        let (name, value) = element?;
                        self.fields.entry(name).add(value, depth + 1)?;
                        if self.fields.order.len() > STRUCT_FIELDS_MAX {
                            (self.mixed, self.kind) = (true, Some(Kind::Json));
                            return Ok(());
                        }
                    }
                }
                _ => {}
            }
        }
        let own = match (self.kind.take(), value.tag) {
            // What kind of nested value it is, shows in what was gathered.
            (None | Some(Kind::Json), _) if kind == Kind::Json => {
                let other = match value.tag {
                    tag::ARRAY => !self.fields.order.is_empty(),
                    tag::DOCUMENT => self.elements.is_some(),
                    _ => true,
                };
                self.mixed |= other;
                Kind::Json
            }
            (None, _) => kind,
            (Some(own), _) => match wider(own, kind) {
                Some(kind) => kind,
                None => {
                    self.mixed = true;
                    Kind::Json
                }
            },
        };
        self.kind = Some(own);
        Ok(())
    }

    /// The kind of column that holds what was seen; `None` if that was nothing.
    fn kind(&self) -> Option<Kind> {
        let kind = self.kind.clone()?;
        if kind != Kind::Json || self.mixed || self.values < REGULAR_VALUES {
            return Some(kind);
        }
        if let Some(elements) = &self.elements {
            let element = elements.kind_inside();
            return Some(element.map_or(Kind::Json, |kind| Kind::Array(Box::new(kind))));
        }
        let mut fields = Vec::new();
        for (name, seen) in &self.fields.order {
            let regular = seen.values * REGULAR_SHARE >= self.values;
            match (usable(name), seen.kind_inside()) {
                (Some(name), Some(kind))
                    if regular && is_new(fields.iter().map(|(n, _): &(String, _)| n.as_str()), name) =>
                {
                    fields.push((name.to_owned(), kind));
                }
                _ => return Some(Kind::Json),
            }
        }
        Some(if fields.is_empty() {
            Kind::Json
        } else {
            Kind::Struct(fields)
        })
    }

    /// The same inside of a regular value: nothing in it is without a kind.
    fn kind_inside(&self) -> Option<Kind> {
        match self.kind.as_ref()? {
            Kind::Json if self.mixed => None,
            _ => self.kind(),
        }
    }
}

/// A name that a column can have.
pub fn usable(name: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(name).ok()?;
    let plain = !name.is_empty() && !name.contains(UNUSABLE) && !name.chars().any(char::is_control);
    plain.then_some(name)
}

/// Whether no column has the name, in any case: readers may not tell them apart.
pub fn is_new<'a>(names: impl IntoIterator<Item = &'a str>, name: &str) -> bool {
    let lower = name.to_lowercase();
    names.into_iter().all(|own| own.to_lowercase() != lower)
}

/// What one value would be a column of. Documents and arrays are JSON.
pub fn kind_of(value: Value<'_>) -> Kind {
    match value.tag {
        tag::OBJECT_ID => Kind::ObjectId,
        tag::STRING => Kind::String,
        tag::BOOLEAN => Kind::Bool,
        tag::INT32 | tag::INT64 => Kind::Long,
        tag::DOUBLE => Kind::Double,
        tag::DATE => Kind::Date,
        tag::DECIMAL128 => {
            let scale = value
                .decimal()
                .and_then(decimal_parts)
                .map_or(0, |(_, exponent, _)| -exponent);
            Kind::Decimal(scale.clamp(i32::from(DECIMAL_SCALE), 34) as i8)
        }
        tag::BINARY => match value.binary() {
            Some((GENERIC, _)) => Kind::Binary,
            Some((UUID, bytes)) if bytes.len() == 16 => Kind::Uuid,
            _ => Kind::Json,
        },
        _ => Kind::Json,
    }
}

/// The kind that has all values of both.
fn wider(a: Kind, b: Kind) -> Option<Kind> {
    match (a, b) {
        (Kind::Long, Kind::Double) | (Kind::Double, Kind::Long) => Some(Kind::Double),
        (Kind::Long, Kind::Decimal(scale)) | (Kind::Decimal(scale), Kind::Long) => Some(Kind::Decimal(scale)),
        (Kind::Decimal(a), Kind::Decimal(b)) => Some(Kind::Decimal(a.max(b))),
        (a, b) => (a == b).then_some(a),
    }
}
