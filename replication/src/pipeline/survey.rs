//! What a source has, before anything is set up for it.

use crate::config::{Config, SourceKind};
use crate::error::Result;
use crate::schema::TableId;
use crate::source::{Refusal, Source, SourceTable};

/// A table that can be replicated as it is.
#[derive(Clone, Debug)]
pub struct SurveyedTable {
    pub id: TableId,
    /// How many columns it has; `None` where a source has no fixed ones.
    pub columns: Option<usize>,
    pub key: Vec<String>,
    /// What it takes at the source, in bytes, as the server says.
    pub bytes: u64,
    /// Where its rows lie: itself, or its partitions.
    pub parts: Vec<TableId>,
}

/// What `init` makes a configuration of.
#[derive(Clone, Debug)]
pub struct Survey {
    pub kind: SourceKind,
    /// Host and port.
    pub address: String,
    /// Whether the server follows another.
    pub standby: bool,
    pub tables: Vec<SurveyedTable>,
    pub refused: Vec<Refusal>,
    pub notes: Vec<String>,
}

/// Looks at the source alone, and changes nothing there.
pub async fn survey(config: &Config) -> Result<Survey> {
    for_source!(config, S => survey_of::<S>(config).await)
}

async fn survey_of<S: Source>(config: &Config) -> Result<Survey> {
    let mut source = S::connect(config).await?;
    let discovery = source.discover().await?;
    let table = |table: &S::Table| {
        let schema = table.schema();
        let name = |column: &usize| schema.columns.get(*column).map(|column| column.name.clone());
        SurveyedTable {
            id: table.id().clone(),
            columns: S::KNOWS_COLUMNS.then_some(schema.columns.len()),
            key: schema.key.iter().filter_map(name).collect(),
            bytes: table.parts().iter().map(|part| part.bytes).sum(),
            parts: table.parts().iter().map(|part| part.id.clone()).collect(),
        }
    };
    let mut tables: Vec<SurveyedTable> = discovery.tables.iter().map(table).collect();
    tables.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Survey {
        kind: config.source.kind()?,
        address: source.address(),
        standby: source.is_standby().await?,
        tables,
        refused: discovery.refused,
        notes: discovery.notes,
    })
}
