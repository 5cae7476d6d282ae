//! The shape of a lake table: what each column is called in readers' eyes and
//! in data files, and how both change without touching a file.
//!
//! A column of the source keeps its place by attribute number. In data files
//! it has a physical name that never changes and is never given again, so
//! files of all shapes stay readable: a column that a file lacks is NULL there.
//! As long as both names are the same the table needs no column mapping; the
//! first rename, or the first new column under an old name, turns it on.
//!
//! Spec: Delta protocol, "Column Mapping" and "Schema Serialization Format".

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::feed;
use super::log::now_ms;
use super::partition::PartitionColumn;
use crate::config::Mode;
use crate::error::{Error, Result};
use crate::schema::{Column, LakeType, SourceType, TableSchema};
use crate::transform::Form;

/// The table feature of deletion vectors.
const VECTORS: &str = "deletionVectors";
/// The table feature, and the property, of tables whose rows stay.
const APPEND_ONLY: &str = "appendOnly";
/// Features that are of interest to writers alone.
const WRITERS_ONLY: [&str; 3] = ["domainMetadata", feed::FEATURE, APPEND_ONLY];

/// One column: at the source, for readers, in files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShapeColumn {
    pub attribute: i32,
    pub name: String,
    /// The column's name in data files.
    pub physical: String,
    /// The Parquet field id; the structs inside follow with the next ones.
    pub field: i32,
    /// As Delta's schema spells it.
    #[serde(rename = "type")]
    pub ty: Value,
    pub source: SourceType,
}

/// What a table's `metaData` and `protocol` say, and what the source was then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// `metaData.id`.
    pub id: String,
    /// `metaData.createdTime`.
    pub created: i64,
    pub columns: Vec<ShapeColumn>,
    /// What files are told apart by. A table keeps them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub partitions: Vec<PartitionColumn>,
    /// The key's attributes, in key order.
    pub key: Vec<i32>,
    /// Physical names of columns that are gone.
    pub retired: BTreeSet<String>,
    pub field_max: i32,
    /// Whether column mapping is on; it never goes off again.
    pub mapped: bool,
    /// Table features; they only ever grow.
    pub features: BTreeSet<String>,
    /// Whether versions tell their changes row by row.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub feed: bool,
    pub origin: Origin,
    /// What the lake keeps of the source's table; it never changes.
    #[serde(skip_serializing_if = "Mode::is_mirror", default)]
    pub mode: Mode,
    /// The columns that readers and files have after the source's.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub system: Vec<ShapeColumn>,
}

/// What the source was when it had these columns: signs of changes to rows
/// that no log tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The physical tables and their files. Another file means a rewrite.
    pub storage: Vec<(u32, u32)>,
    /// When each column's definition last changed, by attribute.
    pub stamps: BTreeMap<i32, u32>,
    /// The last attribute number that was given.
    pub attribute_max: i32,
    /// The name of the key, and the default charset of columns to come, where
    /// the log names them (MySQL).
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub key_name: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub charset: String,
    /// What the columns were made by, where they are not the source's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub form: Option<Form>,
}

impl Shape {
    pub fn new(schema: &TableSchema, origin: &Origin) -> Self {
        let mut shape = Self {
            id: uuid::Uuid::new_v4().to_string(),
            created: now_ms(),
            columns: Vec::new(),
            partitions: Vec::new(),
            key: Vec::new(),
            retired: BTreeSet::new(),
            field_max: 0,
            mapped: false,
            features: BTreeSet::from([VECTORS.to_owned(), "domainMetadata".to_owned()]),
            feed: false,
            origin: origin.clone(),
            mode: Mode::Mirror,
            system: Vec::new(),
        };
        shape.take(schema);
        shape
    }

    /// The same in another mode. For new tables alone: their files have other columns.
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        for (place, (name, ty)) in (1..).zip(mode.columns()) {
            self.field_max += 1;
            self.system.push(ShapeColumn {
                attribute: -place,
                name: name.to_owned(),
                physical: name.to_owned(),
                field: self.field_max,
                ty: delta_type(&ty, None),
                source: SourceType::default(),
            });
        }
        if mode.is_history() {
            self.features.insert(APPEND_ONLY.to_owned());
            self = self.without_vectors();
        }
        self
    }

    /// The same for readers that know no deletion vectors. For new tables alone:
    /// features never go.
    pub fn without_vectors(mut self) -> Self {
        self.features.remove(VECTORS);
        self
    }

    /// The same without the feature itself, which another program has dropped.
    pub fn without_feed(mut self) -> Self {
        self.feed = false;
        self.features.remove(feed::FEATURE);
        self
    }

    /// The same with a change data feed, or without.
    pub fn with_feed(mut self, feed: bool) -> Self {
        self.feed = feed;
        if feed {
            self.features.insert(feed::FEATURE.to_owned());
        }
        self
    }

    /// Whether files may have deletion vectors.
    pub fn has_vectors(&self) -> bool {
        self.features.contains(VECTORS)
    }

    /// The shape of new content that is to replace all of a table's. Readers
    /// keep the table: its id, its features, and a mapping once it is on. Its
    /// partitions are still to be found: [`Shape::partitioned_as`].
    pub fn replacing(&self, schema: &TableSchema, origin: &Origin) -> Self {
        let mut shape = Self {
            columns: Vec::new(),
            partitions: Vec::new(),
            retired: BTreeSet::new(),
            origin: origin.clone(),
            ..self.clone()
        };
        shape.take(schema);
        shape
    }

    /// The shape of new content that comes after all of a history's. What is
    /// there keeps its columns; one of another type, or made in another way, is another column. `remade`
    /// is whether another table has its place at the source.
    pub fn continuing(&self, schema: &TableSchema, origin: &Origin, remade: bool) -> Self {
        let mut shape = Self {
            partitions: Vec::new(),
            origin: origin.clone(),
            columns: Vec::new(),
            ..self.clone()
        };
        for column in &schema.columns {
            let own = self.column_before(column, remade);
            // What is to be hidden from now on is not to be read beside it.
            let forms = (self.origin.form.as_ref(), origin.form.as_ref());
            let is_same = |own: &&ShapeColumn| {
                own.ty == delta_type(&column.ty, None) && Form::is_alike(forms, (&own.name, &column.name))
            };
            if let Some(own) = own.filter(is_same) {
                shape.columns.push(ShapeColumn {
                    attribute: column.attribute,
                    ..own.clone()
                });
            }
        }
        for own in &self.columns {
            if shape.columns.iter().all(|kept| kept.physical != own.physical) {
                shape.retired.insert(own.physical.clone());
            }
        }
        shape.take(schema);
        shape
    }

    /// What a column of new content was in this one: by its number where the
    /// source itself gives such, and the table is the same one, else by its name.
    pub fn column_before(&self, column: &Column, remade: bool) -> Option<&ShapeColumn> {
        match column.source {
            SourceType::Postgres(_) if !remade => self.column(column.attribute),
            _ => self.columns.iter().find(|own| own.name == column.name),
        }
    }

    /// Follows the source's columns. Errors: a column that stays changed its
    /// type, or the key changed; such a table has to be copied.
    pub fn evolve(&mut self, schema: &TableSchema, origin: &Origin) -> Result<()> {
        let same_type = |column: &Column| {
            self.column(column.attribute)
                .is_none_or(|own| own.ty == delta_type(&column.ty, None))
        };
        if self.key != schema.key_attributes() || !schema.columns.iter().all(same_type) {
            return Err(Error::bug("a change of types or key is not one of shape alone"));
        }
        self.check_partitions(schema)?;
        origin.clone_into(&mut self.origin);
        self.take(schema);
        Ok(())
    }

    fn take(&mut self, schema: &TableSchema) {
        let before = std::mem::take(&mut self.columns);
        for gone in &before {
            if schema.columns.iter().all(|c| c.attribute != gone.attribute) {
                self.retired.insert(gone.physical.clone());
            }
        }
        for column in &schema.columns {
            let own = before.iter().find(|own| own.attribute == column.attribute);
            let (physical, field) = match own {
                Some(own) => (own.physical.clone(), own.field),
                None => {
                    let field = self.field_max + 1;
                    self.field_max += 1 + struct_fields(&column.ty);
                    // Some readers match names whatever their case.
                    let used = |name: &str| {
                        let given = before.iter().chain(&self.columns).map(|c| &c.physical);
                        given
                            .chain(&self.retired)
                            .any(|g| g.to_lowercase() == name.to_lowercase())
                    };
                    let physical = if used(&column.name) {
                        format!("{}-{field}", column.name)
                    } else {
                        column.name.clone()
                    };
                    (physical, field)
                }
            };
            self.mapped |= physical != column.name;
            if column.ty.has_timestamp_ntz() {
                self.features.insert("timestampNtz".to_owned());
            }
            self.columns.push(ShapeColumn {
                attribute: column.attribute,
                name: column.name.clone(),
                physical,
                field,
                ty: delta_type(&column.ty, None),
                source: column.source.clone(),
            });
        }
        if self.mapped {
            self.features.insert("columnMapping".to_owned());
        }
        self.key = schema.key_attributes();
    }

    /// Whether readers are told the same of both.
    pub fn reads_like(&self, other: &Self) -> bool {
        self.columns == other.columns
            && self.features == other.features
            && self.field_max == other.field_max
            && self.feed == other.feed
    }

    /// Whether some column is called what another is, or was, in files. Not
    /// every reader then filters by the right one.
    pub fn is_ambiguous(&self) -> bool {
        let same = |a: &str, b: &str| a.to_lowercase() == b.to_lowercase();
        self.columns.iter().any(|column| {
            let others = self.columns.iter().filter(|c| c.attribute != column.attribute);
            let mut names = others.map(|c| &c.physical).chain(&self.retired);
            names.any(|physical| same(physical, &column.name))
        })
    }

    pub fn column(&self, attribute: i32) -> Option<&ShapeColumn> {
        self.columns.iter().find(|c| c.attribute == attribute)
    }

    /// Whether the table's columns and key are these.
    pub fn is_of(&self, schema: &TableSchema) -> bool {
        let same = |(own, column): (&ShapeColumn, &Column)| {
            own.attribute == column.attribute && own.name == column.name && own.ty == delta_type(&column.ty, None)
        };
        self.columns.len() == schema.columns.len()
            && self.columns.iter().zip(&schema.columns).all(same)
            && self.key == schema.key_attributes()
    }

    /// The columns and the key as the source had them.
    pub fn schema(&self) -> Result<TableSchema> {
        let column = |own: &ShapeColumn| {
            let ty = lake_type(&own.ty).ok_or_else(|| {
                Error::operator(format!(
                    "the column {} has the type {}, which is not known",
                    own.name, own.ty
                ))
                .with_hint("run the version of Tributary that wrote the table, or a newer one")
            })?;
            Ok(Column {
                name: own.name.clone(),
                ty,
                attribute: own.attribute,
                source: own.source.clone(),
            })
        };
        let place = |key: &i32| self.columns.iter().position(|column| column.attribute == *key);
        Ok(TableSchema {
            columns: self.columns.iter().map(column).collect::<Result<_>>()?,
            key: self.key.iter().filter_map(place).collect(),
        })
    }

    /// The columns as data files have them.
    pub fn file_schema(&self, schema: &TableSchema) -> SchemaRef {
        let field = |column: &Column| {
            let own = self.column(column.attribute);
            let name = own.map_or(&column.name, |own| &own.physical);
            let field = Field::new(name, column.ty.arrow(), true);
            match own {
                Some(own) if self.mapped => with_ids(field, &mut own.field.clone()),
                _ => field,
            }
        };
        let system = self.system.iter().zip(self.mode.columns()).map(|(own, (_, ty))| {
            let field = Field::new(&own.physical, ty.arrow(), true);
            match self.mapped {
                true => with_ids(field, &mut own.field.clone()),
                false => field,
            }
        });
        let fields = schema.columns.iter().map(field).chain(system);
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// A system column's name in files.
    pub fn system_column(&self, name: &str) -> Option<&str> {
        let own = self.system.iter().find(|column| column.name == name);
        own.map(|column| column.physical.as_str())
    }

    pub fn protocol_action(&self) -> Value {
        let for_readers = |feature: &&String| !WRITERS_ONLY.contains(&feature.as_str());
        let reader: Vec<&String> = self.features.iter().filter(for_readers).collect();
        let mut protocol = json!({"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": self.features});
        if !reader.is_empty() {
            protocol["minReaderVersion"] = json!(3);
            protocol["readerFeatures"] = json!(reader);
        }
        json!({"protocol": protocol})
    }

    pub fn metadata_action(&self, name: &str, schema: &TableSchema) -> Value {
        let mut configuration = json!({});
        if self.has_vectors() {
            configuration["delta.enableDeletionVectors"] = json!("true");
        }
        if self.feed {
            configuration[feed::PROPERTY] = json!("true");
        }
        if self.mode.is_history() {
            configuration["delta.appendOnly"] = json!("true");
        }
        if self.mapped {
            configuration["delta.columnMapping.mode"] = json!("name");
            configuration["delta.columnMapping.maxColumnId"] = json!(self.field_max.to_string());
        }
        let field = |column: &Column| {
            let own = self.column(column.attribute).filter(|_| self.mapped);
            match own {
                Some(own) => {
                    let mut next = own.field + 1;
                    delta_field(
                        &column.name,
                        Some((&own.physical, own.field)),
                        delta_type(&column.ty, Some(&mut next)),
                    )
                }
                None => delta_field(&column.name, None, delta_type(&column.ty, None)),
            }
        };
        let extra = |name: &str, physical: &str, id: i32, ty: &Value| {
            delta_field(name, self.mapped.then_some((physical, id)), ty.clone())
        };
        let system = self
            .system
            .iter()
            .map(|own| extra(&own.name, &own.physical, own.field, &own.ty));
        let partitions = self
            .partitions
            .iter()
            .map(|own| extra(&own.name, &own.physical, own.field, &own.ty));
        let fields: Vec<Value> = schema
            .columns
            .iter()
            .map(field)
            .chain(system)
            .chain(partitions)
            .collect();
        let partition_columns: Vec<&String> = self.partitions.iter().map(|own| &own.name).collect();
        json!({"metaData": {
            "id": self.id,
            "name": name,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json!({"type": "struct", "fields": fields}).to_string(),
            "partitionColumns": partition_columns,
            "configuration": configuration,
            "createdTime": self.created,
        }})
    }
}

pub fn delta_field(name: &str, mapping: Option<(&str, i32)>, ty: Value) -> Value {
    let metadata = mapping.map_or_else(
        || json!({}),
        |(physical, id)| json!({"delta.columnMapping.id": id, "delta.columnMapping.physicalName": physical}),
    );
    json!({"name": name, "type": ty, "nullable": true, "metadata": metadata})
}

/// A type as Delta's schema spells it; with `ids`, fields inside get the next ones.
pub fn delta_type(ty: &LakeType, mut ids: Option<&mut i32>) -> Value {
    match ty {
        LakeType::Boolean => json!("boolean"),
        LakeType::Short => json!("short"),
        LakeType::Integer => json!("integer"),
        LakeType::Long => json!("long"),
        LakeType::Float => json!("float"),
        LakeType::Double => json!("double"),
        LakeType::Decimal { precision, scale } => json!(format!("decimal({precision},{scale})")),
        LakeType::String => json!("string"),
        LakeType::Binary => json!("binary"),
        LakeType::Date => json!("date"),
        LakeType::TimestampNtz => json!("timestamp_ntz"),
        LakeType::Timestamp => json!("timestamp"),
        LakeType::List(element) => json!({
            "type": "array", "elementType": delta_type(element, ids), "containsNull": true,
        }),
        LakeType::Struct(fields) => {
            let mut list = Vec::with_capacity(fields.len());
            for (name, ty) in fields {
                let mapping = ids.as_deref_mut().map(|next| {
                    let id = *next;
                    *next += 1;
                    (name.as_str(), id)
                });
                list.push(delta_field(name, mapping, delta_type(ty, ids.as_deref_mut())));
            }
            json!({"type": "struct", "fields": list})
        }
        LakeType::Map => json!({
            "type": "map", "keyType": "string", "valueType": "string", "valueContainsNull": true,
        }),
    }
}

/// The type that Delta's schema spells so.
pub fn lake_type(ty: &Value) -> Option<LakeType> {
    if let Some(name) = ty.as_str() {
        let decimal = || {
            let digits = name.strip_prefix("decimal(")?.strip_suffix(')')?;
            let (precision, scale) = digits.split_once(',')?;
            Some(LakeType::Decimal {
                precision: precision.trim().parse().ok()?,
                scale: scale.trim().parse().ok()?,
            })
        };
        return match name {
            "boolean" => Some(LakeType::Boolean),
            "short" => Some(LakeType::Short),
            "integer" => Some(LakeType::Integer),
            "long" => Some(LakeType::Long),
            "float" => Some(LakeType::Float),
            "double" => Some(LakeType::Double),
            "string" => Some(LakeType::String),
            "binary" => Some(LakeType::Binary),
            "date" => Some(LakeType::Date),
            "timestamp_ntz" => Some(LakeType::TimestampNtz),
            "timestamp" => Some(LakeType::Timestamp),
            _ => decimal(),
        };
    }
    match ty["type"].as_str()? {
        "array" => Some(LakeType::List(Box::new(lake_type(&ty["elementType"])?))),
        "map" => Some(LakeType::Map),
        "struct" => {
            let field = |field: &Value| Some((field["name"].as_str()?.to_owned(), lake_type(&field["type"])?));
            let fields = ty["fields"].as_array()?.iter().map(field);
            Some(LakeType::Struct(fields.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

/// The fields of all structs inside a type.
fn struct_fields(ty: &LakeType) -> i32 {
    match ty {
        LakeType::List(element) => struct_fields(element),
        LakeType::Struct(fields) => fields.iter().map(|(_, ty)| 1 + struct_fields(ty)).sum(),
        _ => 0,
    }
}

/// Gives a field and the struct fields inside ids in the order of [`delta_type`].
fn with_ids(field: Field, next: &mut i32) -> Field {
    let id = *next;
    *next += 1;
    let ty = inner_ids(field.data_type(), next);
    let metadata = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]);
    field.with_data_type(ty).with_metadata(metadata)
}

fn inner_ids(ty: &DataType, next: &mut i32) -> DataType {
    match ty {
        DataType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(|field| with_ids(field.as_ref().clone(), next))
                .collect::<Fields>(),
        ),
        DataType::List(item) => {
            let ty = inner_ids(item.data_type(), next);
            DataType::List(Arc::new(item.as_ref().clone().with_data_type(ty)))
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(columns: &[(i32, &str)]) -> TableSchema {
        let pair = || LakeType::Struct(vec![("a".into(), LakeType::Long), ("b".into(), LakeType::Date)]);
        let columns = columns.iter().map(|(attribute, name)| Column {
            name: (*name).to_owned(),
            ty: if *name == "pair" {
                LakeType::List(Box::new(pair()))
            } else {
                LakeType::Long
            },
            attribute: *attribute,
            source: SourceType::default(),
        });
        TableSchema {
            columns: columns.collect(),
            key: vec![0],
        }
    }

    fn origin() -> Origin {
        Origin::default()
    }

    fn physical(shape: &Shape) -> Vec<&str> {
        shape.columns.iter().map(|c| c.physical.as_str()).collect()
    }

    #[test]
    fn a_physical_name_is_never_given_twice() {
        let mut shape = Shape::new(&schema(&[(1, "id"), (2, "pair"), (3, "c")]), &origin());
        assert_eq!((shape.mapped, shape.field_max), (false, 5));
        // Added and dropped: no need of a mapping.
        shape
            .evolve(&schema(&[(1, "id"), (2, "pair"), (4, "d")]), &origin())
            .expect("evolve");
        assert_eq!((shape.mapped, physical(&shape)), (false, vec!["id", "pair", "d"]));
        // The dropped name again: files still have the old column.
        shape
            .evolve(&schema(&[(1, "id"), (2, "pair"), (4, "d"), (5, "c")]), &origin())
            .expect("evolve");
        assert_eq!((shape.mapped, physical(&shape)), (true, vec!["id", "pair", "d", "c-7"]));
        assert!(shape.is_ambiguous());
        // Two that swap their names keep their files' columns.
        shape
            .evolve(&schema(&[(1, "id"), (2, "pair"), (4, "c"), (5, "d")]), &origin())
            .expect("evolve");
        assert_eq!(physical(&shape), ["id", "pair", "d", "c-7"]);
        assert!(shape.features.contains("columnMapping"));
        let replaced = shape.replacing(&schema(&[(9, "id")]), &origin());
        assert_eq!(
            (replaced.mapped, physical(&replaced), replaced.field_max),
            (true, vec!["id"], 8)
        );
        assert_eq!(replaced.id, shape.id);
    }

    #[test]
    fn ids_of_schema_and_files_agree() {
        let schema = schema(&[(1, "id"), (2, "pair")]);
        let mut shape = Shape::new(&schema, &origin());
        shape.mapped = true;
        let metadata = shape.metadata_action("t", &schema);
        let text = metadata["metaData"]["schemaString"].as_str().expect("schema");
        let pair = &serde_json::from_str::<Value>(text).expect("json")["fields"][1];
        let ids = |path: &str| pair.pointer(path).and_then(Value::as_i64);
        assert_eq!(ids("/metadata/delta.columnMapping.id"), Some(2));
        let inner = |n: u32| ids(&format!("/type/elementType/fields/{n}/metadata/delta.columnMapping.id"));
        assert_eq!((inner(0), inner(1)), (Some(3), Some(4)));
        let file = shape.file_schema(&schema);
        let inner = match file.field(1).data_type() {
            DataType::List(item) => item.data_type().clone(),
            other => other.clone(),
        };
        let fields = match inner {
            DataType::Struct(fields) => fields,
            _ => Fields::empty(),
        };
        assert_eq!(fields.len(), 2);
        let id = |field: &Field| field.metadata().get(PARQUET_FIELD_ID_META_KEY).cloned();
        assert_eq!(id(file.field(1)), Some("2".into()));
        assert_eq!((id(&fields[0]), id(&fields[1])), (Some("3".into()), Some("4".into())));
    }

    #[test]
    fn another_type_or_key_is_refused() {
        let mut shape = Shape::new(&schema(&[(1, "id"), (2, "c")]), &origin());
        assert!(shape.evolve(&schema(&[(1, "id"), (2, "pair")]), &origin()).is_err());
        assert!(shape.evolve(&schema(&[(2, "c"), (1, "id")]), &origin()).is_err());
    }
}
