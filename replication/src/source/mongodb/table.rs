//! A collection as a table.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};

use super::columns::{ColumnBuilder, malformed, read_back};
use super::infer::{self, Sample};
use super::json;
use super::raw::{self, Value, tag};
use super::rows::Fields;
use super::transform::Transform;
use crate::config::{Documents, Mode};
use crate::error::{Error, Result};
use crate::lake::{Normal, Origin, Shape};
use crate::schema::{Column, MongoKind as Kind, MongoType, SourceType, TableId, TableSchema};
use crate::source::{Part, Verdict};

/// Why a table is copied anew whose keys are not all of one kind.
const OTHER_KIND: &str = "it has an _id of another kind";

/// The column of what has no column.
pub const EXTRA: &str = "_extra";
/// The column of the whole document, where there are no others.
const DOCUMENT: &str = "document";

/// Collections whose keys are of several kinds, by relation, as far as that
/// has shown.
#[derive(Clone, Debug, Default)]
pub struct MixedKeys(Arc<Mutex<HashSet<u32>>>);

impl MixedKeys {
    pub fn note(&self, relation: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(relation);
    }

    pub fn has(&self, relation: u32) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&relation)
    }
}

#[derive(Clone, Debug)]
pub struct SourceTable {
    pub id: TableId,
    /// Of the collection.
    pub uuid: [u8; 16],
    pub relation: u32,
    pub schema: Arc<TableSchema>,
    pub fields: Arc<Fields>,
    pub parts: Vec<Part>,
    pub mixed: MixedKeys,
    /// What becomes of documents before all else; `None` if they stay as they are.
    pub transform: Option<Arc<Transform>>,
    /// The last number that a column got.
    pub attribute_max: i32,
    /// What the lake keeps of it.
    pub mode: Mode,
}

impl SourceTable {
    /// A collection of which nothing is known yet.
    pub fn new(id: TableId, uuid: [u8; 16], bytes: u64, mixed: MixedKeys) -> Result<Self> {
        let relation = relation(&uuid);
        let part = Part {
            id: id.clone(),
            relation,
            bytes,
        };
        let schema = schema(Documents::Fixed, Kind::ObjectId, Vec::new());
        Ok(Self {
            id,
            uuid,
            relation,
            fields: Arc::new(Fields::of(&schema)?),
            attribute_max: attribute_max(&schema),
            mode: Mode::Mirror,
            schema: Arc::new(schema),
            parts: vec![part],
            mixed,
            transform: None,
        })
    }

    pub fn with_transform(self, transform: Option<Arc<Transform>>) -> Self {
        Self { transform, ..self }
    }

    /// The table with the columns that a sample suggests.
    pub fn inferred(&self, documents: Documents, sample: &Sample) -> Result<Self> {
        let key = match self.mixed.has(self.relation) {
            true => Kind::Json,
            false => sample.key(),
        };
        let columns = match documents {
            Documents::Json => Vec::new(),
            Documents::Evolve | Documents::Fixed => sample.columns(self.mode),
        };
        self.clone().with_schema(schema(documents, key, columns))
    }

    /// The table with the columns that the lake has of it.
    pub fn as_recorded(&self, shape: &Shape) -> Result<Option<Self>> {
        let mut columns = Vec::with_capacity(shape.columns.len());
        for own in &shape.columns {
            let SourceType::Mongo(ty) = &own.source else {
                return Ok(None);
            };
            columns.push(Column {
                name: own.name.clone(),
                ty: ty.bson.lake_type(),
                attribute: own.attribute,
                source: own.source.clone(),
            });
        }
        let mut table = self.clone().with_schema(TableSchema { columns, key: vec![0] })?;
        table.attribute_max = table.attribute_max.max(shape.origin.attribute_max);
        Ok(Some(table))
    }

    /// The table with more columns, before that of what is left over.
    pub fn with_fields(&self, new: &[(String, Kind)]) -> Result<Self> {
        let mut table = self.clone();
        let mut columns = self.schema.columns.clone();
        let place = self.fields.rest;
        for (name, kind) in new.iter().rev() {
            columns.insert(place, column(name, kind, 0));
        }
        for column in &mut columns[place..place + new.len()] {
            table.attribute_max += 1;
            column.attribute = table.attribute_max;
        }
        table.with_schema(TableSchema { columns, key: vec![0] })
    }

    fn with_schema(mut self, schema: TableSchema) -> Result<Self> {
        self.fields = Arc::new(Fields::of(&schema)?);
        self.attribute_max = attribute_max(&schema).max(self.attribute_max);
        self.schema = Arc::new(schema);
        Ok(self)
    }

    /// Fields of a document that could have a column and have none.
    pub fn new_fields(&self, document: &[u8]) -> raw::Result<Vec<(String, Kind)>> {
        let mut new: Vec<(String, Kind)> = Vec::new();
        let mut near = 0;
        let system = self.mode.columns();
        for element in raw::document(document)? {
            let (name, value) = element?;
            if let Some(column) = self.fields.column(name, near) {
                near = column + 1;
                continue;
            }
            if value.tag == tag::NULL {
                continue;
            }
            let Some(name) = infer::usable(name) else { continue };
            let names = new.iter().map(|(name, _)| name.as_str());
            let names = names.chain(system.iter().map(|(name, _)| *name));
            // Beside the key and what is left over.
            let fields = self.schema.columns.len() - 2 + new.len();
            if fields < infer::COLUMNS_MAX && !self.fields.has_like(name) && infer::is_new(names, name) {
                new.push((name.to_owned(), infer::kind_of(value)));
            }
        }
        Ok(new)
    }

    /// Notes that a key is of another kind than the table's. Returns what that
    /// means for it.
    pub fn other_kind(&self) -> &'static str {
        self.mixed.note(self.relation);
        OTHER_KIND
    }

    /// Rows in a form that is the same for equal documents: what is left over
    /// has no field that its column could hold, and no order.
    pub fn normal(fields: &Fields, rows: &RecordBatch) -> Result<RecordBatch> {
        let mut arrays: Vec<ArrayRef> = rows.columns().to_vec();
        if !fields.whole {
            move_to_columns(fields, &mut arrays, rows.num_rows())?;
        }
        for (kind, array) in fields.kinds.iter().zip(&mut arrays) {
            if matches!(kind, Kind::Json | Kind::Extra | Kind::Document) {
                *array = Arc::new(sorted(array)?);
            }
        }
        RecordBatch::try_new(rows.schema(), arrays)
            .map_err(|e| Error::bug("columns of different lengths").with_source(e))
    }
}

/// Moves what columns can hold out of what is left over.
fn move_to_columns(fields: &Fields, arrays: &mut [ArrayRef], rows: usize) -> Result<()> {
    let rest = arrays[fields.rest].clone();
    let texts = rest.as_string::<i32>();
    // What is left over of each row, and the columns that get some of it.
    let mut documents: Vec<Vec<u8>> = vec![Vec::new(); rows];
    let mut columns: BTreeMap<usize, ColumnBuilder> = BTreeMap::new();
    let place = |name: &[u8], value: Value<'_>, row: usize| {
        let column = fields.column(name, usize::MAX)?;
        let fits = value.tag != tag::NULL && fields.kinds[column].holds(value) && arrays[column].is_null(row);
        fits.then_some(column)
    };
    for row in (0..rows).filter(|row| texts.is_valid(*row)) {
        json::read(texts.value(row).as_bytes(), &mut documents[row]).map_err(malformed)?;
        for element in raw::document(&documents[row]).map_err(malformed)? {
            let (name, value) = element.map_err(malformed)?;
            if let Some(column) = place(name, value, row) {
                let builder = || ColumnBuilder::new(&fields.kinds[column]);
                columns.entry(column).or_insert_with(builder);
            }
        }
    }
    if columns.is_empty() {
        return Ok(());
    }
    let mut left = ColumnBuilder::new(&Kind::Extra);
    let (mut text, mut scratch) = (Vec::new(), Vec::new());
    for (row, document) in documents.iter().enumerate() {
        text.clear();
        if texts.is_valid(row) {
            for element in raw::document(document).map_err(malformed)? {
                let (name, value) = element.map_err(malformed)?;
                let builder = place(name, value, row).and_then(|column| columns.get_mut(&column));
                // A second field of the name stays.
                if let Some(builder) = builder.filter(|builder| builder.len() == row) {
                    builder.append(value)?;
                    continue;
                }
                text.push(if text.is_empty() { b'{' } else { b',' });
                json::write_name(name, &mut text);
                json::write(value, &mut text).map_err(malformed)?;
            }
        }
        match text.is_empty() {
            true => left.append_null(),
            false => {
                text.push(b'}');
                left.append_text(&text)?;
            }
        }
        for (column, builder) in columns.iter_mut().filter(|(_, builder)| builder.len() == row) {
            scratch.clear();
            match read_back(&fields.kinds[*column], arrays[*column].as_ref(), row, &mut scratch)? {
                Some(tag) => {
                    builder.append(Value { tag, bytes: &scratch })?;
                }
                None => builder.append_null(),
            }
        }
    }
    for (column, mut builder) in columns {
        arrays[column] = builder.finish()?;
    }
    arrays[fields.rest] = left.finish()?;
    Ok(())
}

/// JSON texts with the fields of documents in the order of their names.
fn sorted(array: &ArrayRef) -> Result<StringArray> {
    let (mut bytes, mut text) = (Vec::new(), Vec::new());
    let values = array.as_string::<i32>().iter().map(|value| {
        let Some(value) = value else { return Ok(None) };
        if !value.contains('{') {
            return Ok(Some(value.to_owned()));
        }
        bytes.clear();
        text.clear();
        // What is no JSON of ours equals nothing but itself.
        let Ok(tag) = json::read(value.as_bytes(), &mut bytes) else {
            return Ok(Some(value.to_owned()));
        };
        json::write_sorted(Value { tag, bytes: &bytes }, &mut text).map_err(malformed)?;
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    });
    values.collect()
}

fn column(name: &str, kind: &Kind, attribute: i32) -> Column {
    Column {
        name: name.to_owned(),
        ty: kind.lake_type(),
        attribute,
        source: SourceType::Mongo(MongoType { bson: kind.clone() }),
    }
}

fn schema(documents: Documents, key: Kind, fields: Vec<(String, Kind)>) -> TableSchema {
    let rest = match documents {
        Documents::Json => (DOCUMENT, Kind::Document),
        _ => (EXTRA, Kind::Extra),
    };
    let mut columns = vec![column("_id", &key, 1)];
    for (name, kind) in fields {
        columns.push(column(&name, &kind, columns.len() as i32 + 1));
    }
    columns.push(column(rest.0, &rest.1, columns.len() as i32 + 1));
    TableSchema { columns, key: vec![0] }
}

fn attribute_max(schema: &TableSchema) -> i32 {
    let attributes = schema.columns.iter().map(|column| column.attribute);
    attributes.max().unwrap_or(0)
}

/// What identifies a collection whatever its name: FNV-1a of its UUID.
pub fn relation(uuid: &[u8; 16]) -> u32 {
    uuid.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
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
            form: self.transform.as_ref().map(|transform| transform.form().clone()),
            ..Origin::default()
        }
    }

    fn with_id(self, id: TableId) -> Self {
        Self { id, ..self }
    }

    fn with_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    fn with_parts(&self, parts: Vec<Part>) -> Self {
        Self { parts, ..self.clone() }
    }

    fn decodes_like(&self, other: &Self) -> bool {
        self.schema == other.schema
    }

    /// Documents have no columns that anybody declared.
    fn judge_now(&self, now: &Self) -> Verdict<Self> {
        match self.mixed.has(self.relation) && *self.fields.key() != Kind::Json {
            true => Verdict::Copy(OTHER_KIND.to_owned()),
            false => Verdict::Same(self.with_parts(now.parts.clone())),
        }
    }

    fn differs(&self, other: &Self) -> bool {
        self.relation != other.relation
    }

    fn normal(&self) -> Option<Normal> {
        let fields = self.fields.clone();
        Some(Arc::new(move |rows| SourceTable::normal(&fields, rows)))
    }
}
