//! What an ALTER TABLE means for the lake.
//!
//! The stream describes a relation by names and types alone, as it was at that
//! place of the log. The catalogue knows attribute numbers, but only of now.
//! Numbers are never given twice and columns come in their order, so the two
//! together nearly always tell which column is which: a dropped column still
//! has its entry. Where they don't, the table is copied anew; a guess could
//! put one column's values under another's name.
//!
//! Values that no change tells are the other danger: a column with a default
//! fills old rows, a rewrite (`ALTER … TYPE … USING`) may change all of them.
//! Both leave traces in the catalogue, and mean a copy too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::catalog::{Attribute, SourceColumn, SourceTable, Types};
use super::pgoutput::RelationColumn;
use crate::config::Mode;
use crate::lake::{Origin, Shape, delta_type};
use crate::schema::{PostgresType, SourceType, TableId, TableSchema};
use crate::source::{Part, PartChanges, SourceTable as _, Verdict};

/// A relation's columns as the stream last described them.
pub type Described = Vec<(String, u32, i32)>;

pub fn described(columns: &[RelationColumn<'_>]) -> Described {
    columns
        .iter()
        .map(|c| (c.name.to_owned(), c.type_oid, c.typmod))
        .collect()
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
            storage: self.storage.clone(),
            stamps: self.stamps(),
            attribute_max: self.attribute_max,
            ..Origin::default()
        }
    }

    fn with_id(self, id: TableId) -> Self {
        Self { id, ..self }
    }

    fn with_parts(&self, parts: Vec<Part>) -> Self {
        Self { parts, ..self.clone() }
    }

    fn without_values(self, columns: BTreeSet<i32>) -> Self {
        Self {
            unread: columns,
            ..self
        }
    }

    fn with_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Whether changes of both are decoded the same way.
    fn decodes_like(&self, other: &Self) -> bool {
        let same = |(a, b): (&SourceColumn, &SourceColumn)| a.name == b.name && a.ty == b.ty && a.codec == b.codec;
        self.columns.len() == other.columns.len() && self.columns.iter().zip(&other.columns).all(same)
    }

    fn judge_now(&self, now: &Self) -> Verdict<Self> {
        self.compare(now.clone(), now)
    }

    /// Its partitions that are not those of the rows in the lake.
    fn part_changes(&self, now: &Self) -> PartChanges {
        if !now.is_partitioned() {
            return PartChanges::default();
        }
        let mut changes = PartChanges::default();
        for (relation, file) in &self.storage {
            match now.storage.iter().find(|(r, _)| r == relation) {
                None => changes.gone = true,
                Some((_, now)) => changes.rewritten |= now != file,
            }
        }
        let known = |part: &&Part| self.storage.iter().any(|(relation, _)| *relation == part.relation);
        changes.new = now.parts.iter().filter(|part| !known(part)).cloned().collect();
        changes
    }

    fn with_parts_of(&self, now: &Self) -> Self {
        Self {
            parts: now.parts.clone(),
            storage: now.storage.clone(),
            ..self.clone()
        }
    }

    fn differs(&self, other: &Self) -> bool {
        let parts = |table: &Self| table.parts.iter().map(|p| p.relation).collect::<Vec<_>>();
        other.schema != self.schema
            || other.relation != self.relation
            || other.filter != self.filter
            || parts(other) != parts(self)
    }
}

impl SourceTable {
    fn stamps(&self) -> BTreeMap<i32, u32> {
        let own = |a: &&Attribute| self.columns.iter().any(|c| c.attribute == a.number);
        self.attributes
            .iter()
            .filter(own)
            .map(|a| (a.number, a.stamp))
            .collect()
    }

    /// Whether a relation is described by just these columns.
    pub fn is_described_by(&self, described: &Described) -> bool {
        let same = |((name, oid, modifier), own): (&(String, u32, i32), &SourceColumn)| {
            *name == own.name && *oid == own.ty.oid && *modifier == own.ty.modifier
        };
        described.len() == self.columns.len() && described.iter().zip(&self.columns).all(same)
    }

    /// The table with the columns that the lake has of it, for decoding what
    /// came before later changes. `None` if that can't be known any more.
    pub fn as_recorded(&self, shape: &Shape, types: &Types) -> Option<Self> {
        let mut columns = Vec::with_capacity(shape.columns.len());
        for own in &shape.columns {
            let SourceType::Postgres(ty) = own.source else {
                return None;
            };
            let codec = types.codec(ty, shape.key.contains(&own.attribute)).ok()?;
            if delta_type(codec.lake_type(), None) != own.ty {
                return None;
            }
            let now = self.columns.iter().find(|c| c.attribute == own.attribute);
            columns.push(SourceColumn {
                name: own.name.clone(),
                attribute: own.attribute,
                ty,
                type_name: now.map_or_else(|| "text".to_owned(), |c| c.type_name.clone()),
                codec,
            });
        }
        let mut table = self.with_columns(columns, &shape.key)?;
        table.storage.clone_from(&shape.origin.storage);
        table.attribute_max = shape.origin.attribute_max;
        for attribute in &mut table.attributes {
            if let Some(stamp) = shape.origin.stamps.get(&attribute.number) {
                attribute.stamp = *stamp;
            }
        }
        Some(table)
    }

    /// Judges the columns that the stream describes, with the catalogue as it
    /// is now.
    pub fn judge(&self, described: &Described, now: &SourceTable, types: &Types) -> Verdict<Self> {
        let Some(attributes) = align(self, described, now) else {
            return Verdict::Copy("columns were dropped and added in a way that its log doesn't tell apart".into());
        };
        let key = now.schema.key_attributes();
        let mut columns = Vec::with_capacity(described.len());
        for ((name, oid, modifier), attribute) in described.iter().zip(&attributes) {
            let known = [&now.columns, &self.columns]
                .into_iter()
                .find_map(|columns| columns.iter().find(|c| c.attribute == *attribute));
            let ty = PostgresType {
                oid: *oid,
                modifier: *modifier,
                dimensions: known.map_or(0, |c| c.ty.dimensions),
            };
            let Ok(codec) = types.codec(ty, key.contains(attribute)) else {
                return Verdict::Copy(format!("the type of its column {name:?} is not known any more"));
            };
            columns.push(SourceColumn {
                name: name.clone(),
                attribute: *attribute,
                ty,
                type_name: known.map_or_else(|| "text".to_owned(), |c| c.type_name.clone()),
                codec,
            });
        }
        let Some(table) = now.with_columns(columns, &key) else {
            return Verdict::Copy("its key changed".into());
        };
        let attribute_max = attributes.iter().copied().max().unwrap_or(0).max(self.attribute_max);
        let mut table = SourceTable { attribute_max, ..table };
        if !table.decodes_like(now) {
            // The catalogue is ahead of the stream: what it says of files and
            // definitions is to be judged when the stream is there.
            table.storage.clone_from(&self.storage);
            for attribute in &mut table.attributes {
                if let Some(own) = self.attributes.iter().find(|own| own.number == attribute.number) {
                    attribute.stamp = own.stamp;
                }
            }
        }
        self.compare(table, now)
    }

    fn compare(&self, mut table: SourceTable, now: &SourceTable) -> Verdict<Self> {
        if table.schema.key_attributes() != self.schema.key_attributes() {
            return Verdict::Copy("its key changed".into());
        }
        let partitions = self.part_changes(now);
        let rewritten = partitions.rewritten || (!now.is_partitioned() && now.storage != self.storage);
        if now.is_partitioned() {
            // What became of partitions is seen to by looks at the catalogue alone.
            table.storage.clone_from(&self.storage);
        }
        let before = self.stamps();
        let attributes: HashMap<i32, &Attribute> = now.attributes.iter().map(|a| (a.number, a)).collect();
        let mut evolved = table.columns.len() != self.columns.len();
        for (place, column) in table.columns.iter().enumerate() {
            let Some(own) = self.columns.iter().find(|c| c.attribute == column.attribute) else {
                let fills = attributes
                    .get(&column.attribute)
                    .is_none_or(|a| a.name.is_none() || a.fills);
                if fills || rewritten {
                    return Verdict::Copy(format!("its new column {:?} has values in old rows", column.name));
                }
                evolved = true;
                continue;
            };
            if own.codec.lake_type() != column.codec.lake_type() {
                return Verdict::Copy(format!("the type of its column {:?} changed", column.name));
            }
            let stamp = attributes.get(&column.attribute).map(|a| a.stamp);
            if rewritten && (own.ty != column.ty || before.get(&column.attribute).copied() != stamp) {
                return Verdict::Copy(format!(
                    "it was rewritten and its column {:?} altered, so values may have changed",
                    column.name
                ));
            }
            evolved |=
                own.name != column.name || self.columns.get(place).map(|c| c.attribute) != Some(column.attribute);
        }
        if evolved {
            Verdict::Evolve(table)
        } else {
            Verdict::Same(table)
        }
    }
}

/// The attribute number of each column described, if there is but one answer.
fn align(before: &SourceTable, described: &Described, now: &SourceTable) -> Option<Vec<i32>> {
    let published = |attribute: &Attribute| now.columns.iter().any(|c| c.attribute == attribute.number);
    let mut candidates = Vec::new();
    for attribute in &now.attributes {
        let known = before.columns.iter().find(|c| c.attribute == attribute.number);
        let live = attribute.name.is_some();
        if live && !published(attribute) {
            continue;
        }
        if known.is_some() || attribute.number > before.attribute_max {
            candidates.push(Candidate {
                number: attribute.number,
                name: known.map(|c| c.name.as_str()).or(attribute.name.as_deref()),
                live,
                // It was there before and still is, so it was there between.
                must: known.is_some() && live,
            });
        }
    }
    let first = extreme(&candidates, described.len(), false)?;
    let last = extreme(&candidates, described.len(), true)?;
    let answer: Vec<usize> = if first == last {
        first
    } else {
        // Columns that are gone by now may be told by name; a column that is
        // there to stay may not.
        let taken_by = |taken: &[usize], candidate: usize| taken.iter().position(|c| *c == candidate);
        let sure = (0..candidates.len()).all(|c| !candidates[c].live || taken_by(&first, c) == taken_by(&last, c));
        if !sure {
            return None;
        }
        let named = |((low, high), (name, ..)): ((&usize, &usize), &(String, u32, i32))| {
            if low == high {
                return Some(*low);
            }
            let mut matches = (*low..=*high).filter(|c| candidates[*c].name == Some(name.as_str()));
            matches.next().filter(|_| matches.next().is_none())
        };
        first
            .iter()
            .zip(&last)
            .zip(described)
            .map(named)
            .collect::<Option<_>>()?
    };
    if answer.windows(2).any(|pair| pair[0] >= pair[1]) {
        return None;
    }
    answer
        .into_iter()
        .map(|c| candidates.get(c).map(|c| c.number))
        .collect()
}

struct Candidate<'a> {
    number: i32,
    name: Option<&'a str>,
    live: bool,
    must: bool,
}

/// The first or the last way to give `count` columns candidates in order,
/// leaving out none that must be taken.
fn extreme(candidates: &[Candidate<'_>], count: usize, last: bool) -> Option<Vec<usize>> {
    let musts_from = |from: usize| candidates.iter().skip(from).filter(|c| c.must).count();
    let mut taken = Vec::with_capacity(count);
    let mut next = 0;
    for left in (0..count).rev() {
        let fits = |c: &usize| {
            let skipped_must = candidates[next..*c].iter().any(|c| c.must);
            !skipped_must && musts_from(c + 1) <= left && candidates.len() - c > left
        };
        let mut choices = (next..candidates.len()).filter(fits);
        let choice = if last { choices.next_back() } else { choices.next() }?;
        taken.push(choice);
        next = choice + 1;
    }
    (musts_from(next) == 0).then_some(taken)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::schema::{TableId, TableSchema};
    use crate::source::postgres::types::{TypeCatalog, TypeOptions};

    const INT4: u32 = 23;

    fn int4() -> Vec<Option<String>> {
        let row = "23 pg_catalog int4 b N 4 t , 0 0 -1 0 0 0".split(' ');
        row.map(|t| Some(t.to_owned())).chain([None]).collect()
    }

    /// `a:1 b:2!` is a column named a, and one that is gone by now.
    fn table(columns: &str, attributes: &str, max: i32) -> SourceTable {
        let pairs = |text: &str| -> Vec<(String, i32)> {
            let pair = |part: &str| {
                part.split_once(':')
                    .map(|(n, a)| (n.to_owned(), a.parse().expect("number")))
            };
            text.split_whitespace().filter_map(pair).collect()
        };
        let options = TypeOptions {
            infinity: crate::source::postgres::types::Infinity::Null,
            money_scale: 2,
        };
        let types = TypeCatalog::from_rows(&[int4()], &[]).expect("types");
        let columns = pairs(columns).into_iter().map(|(name, attribute)| SourceColumn {
            name,
            attribute,
            ty: PostgresType {
                oid: INT4,
                modifier: -1,
                dimensions: 0,
            },
            type_name: "int4".into(),
            codec: types.resolve(INT4, -1, 0, &options).expect("codec"),
        });
        let attributes = pairs(attributes).into_iter().map(|(name, number)| Attribute {
            number,
            fills: name.ends_with('+'),
            stamp: number as u32,
            name: (name != "!").then(|| name.trim_end_matches('+').to_owned()),
        });
        let bare = SourceTable {
            id: TableId::new("s", "t"),
            relation: 1,
            columns: Vec::new(),
            schema: Arc::new(TableSchema {
                columns: Vec::new(),
                key: Vec::new(),
            }),
            parts: vec![Part {
                id: TableId::new("s", "t"),
                relation: 1,
                bytes: 0,
            }],
            filter: None,
            storage: vec![(1, 1)],
            attributes: attributes.collect(),
            attribute_max: max,
            unread: BTreeSet::new(),
            mode: Mode::Mirror,
        };
        bare.with_columns(columns.collect(), &[1]).expect("table")
    }

    /// `before` and its last attribute, what the stream describes, the
    /// catalogue now; the answer.
    fn check(before: (&str, i32), described: &str, now: &str, expected: Option<&[i32]>) {
        let now_columns: Vec<&str> = now.split_whitespace().filter(|c| !c.starts_with('!')).collect();
        let before = table(before.0, "", before.1);
        let now = table(&now_columns.join(" "), now, 0);
        let columns: Described = described.split(' ').map(|n| (n.to_owned(), INT4, -1)).collect();
        assert_eq!(align(&before, &columns, &now).as_deref(), expected, "{described}");
    }

    #[test]
    fn one_change_at_a_time_is_told_apart() {
        let before = ("a:1 b:2", 2);
        check(before, "a b", "a:1 b:2", Some(&[1, 2]));
        check(before, "a b c", "a:1 b:2 c:3", Some(&[1, 2, 3]));
        check(before, "a c", "a:1 c:2", Some(&[1, 2]));
        check(before, "a", "a:1 !:2", Some(&[1]));
        // Changes that the stream comes to later.
        check(before, "a b", "a:1 b:2 c:3", Some(&[1, 2]));
        check(before, "a b", "a:1 x:2", Some(&[1, 2]));
        check(before, "a b", "a:1 !:2", None.or(Some(&[1, 2])));
        check(before, "a b c", "a:1 !:2 c:3", Some(&[1, 2, 3]));
        // A number given before `before` can't come back.
        check(("a:1 b:2", 3), "a b c", "a:1 b:2 !:3 c:4", Some(&[1, 2, 4]));
    }

    #[test]
    fn a_guess_is_not_made() {
        // b dropped and c added, or b renamed and later dropped?
        check(("a:1 b:2", 2), "a c", "a:1 !:2 c:3", None);
        // The same name, dropped and added.
        check(("a:1 b:2", 2), "a b", "a:1 !:2 b:3", None);
        // Of columns that are gone by now, the name tells.
        check(("a:1 b:2 c:3", 3), "a c", "a:1 !:2 !:3", Some(&[1, 3]));
        check(("a:1 b:2 c:3", 3), "a x", "a:1 !:2 !:3", None);
        // More columns than there ever were.
        check(("a:1", 1), "a b c", "a:1 b:2", None);
        check(("a:1 b:2", 2), "a", "a:1 b:2", None);
    }

    #[test]
    fn a_rewrite_counts_until_the_stream_is_there() {
        let options = TypeOptions {
            infinity: crate::source::postgres::types::Infinity::Null,
            money_scale: 2,
        };
        let before = table("a:1 b:2", "a:1 b:2", 2);
        let types = Types::of(TypeCatalog::from_rows(&[int4()], &[]).expect("types"), options);
        let mut now = table("a:1 c:2", "a:1 c:2", 2);
        now.storage = vec![(1, 2)];
        let described: Described = ["a", "b"].map(|n| (n.to_owned(), INT4, -1)).to_vec();
        let verdict = before.judge(&described, &now, &types);
        assert!(
            matches!(&verdict, Verdict::Same(table) if table.storage == before.storage),
            "{verdict:?}"
        );
    }

    #[test]
    fn only_columns_without_values_are_added_in_place() {
        let before = table("a:1 b:2", "a:1 b:2", 2);
        let verdict = |columns: &str, attributes: &str| before.judge_now(&table(columns, attributes, 3));
        assert!(matches!(verdict("a:1 b:2", "a:1 b:2"), Verdict::Same(_)));
        assert!(matches!(verdict("a:1 b:2 c:3", "a:1 b:2 c:3"), Verdict::Evolve(_)));
        assert!(matches!(verdict("a:1 b:2 c:3", "a:1 b:2 c+:3"), Verdict::Copy(_)));
        assert!(matches!(verdict("a:1 x:2", "a:1 x:2"), Verdict::Evolve(_)));
        assert!(matches!(verdict("a:1", "a:1 !:2"), Verdict::Evolve(_)));
        let mut rewritten = table("a:1 b:2 c:3", "a:1 b:2 c:3", 3);
        rewritten.storage = vec![(1, 2)];
        assert!(matches!(before.judge_now(&rewritten), Verdict::Copy(_)));
        rewritten.columns.truncate(2);
        let mut rewritten = rewritten.with_columns(rewritten.columns.clone(), &[1]).expect("table");
        assert!(matches!(before.judge_now(&rewritten), Verdict::Same(_)));
        // ALTER … TYPE … USING to the same type.
        rewritten.attributes[1].stamp = 99;
        assert!(matches!(before.judge_now(&rewritten), Verdict::Copy(_)));
    }
}
