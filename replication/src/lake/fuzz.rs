//! What the lake is read with, for fuzzers: see [`crate::fuzz`].

use std::sync::{Arc, OnceLock};

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use url::Url;

use super::conflict;
use super::deletion_vector::{Descriptor, pack};
use super::key_index::fuzz as key_index;
use super::log::{LiveFile, Log, entry_actions};
use super::record::{PipelineRecord, TableRecord};
use super::requests::Request;
use super::shape::{Shape, delta_type, lake_type};
use crate::fuzz::Target;
use crate::position::{Lsn, Position};

pub const TARGETS: &[Target] = &[
    Target {
        name: "key_run",
        run: key_index::run,
        seeds: key_index::runs,
    },
    Target {
        name: "key_manifest",
        run: key_index::manifest,
        seeds: key_index::manifests,
    },
    Target {
        name: "deletion_vector",
        run: deletion_vector,
        seeds: deletion_vectors,
    },
    Target {
        name: "log_entry",
        run: log_entry,
        seeds: log_entries,
    },
];

/// A log in memory that has no entries.
fn log() -> &'static (Runtime, Log) {
    static LOG: OnceLock<(Runtime, Log)> = OnceLock::new();
    LOG.get_or_init(|| {
        let runtime = Runtime::new().expect("a runtime");
        let log = runtime.block_on(async {
            let url = Url::parse("memory:///t/").expect("a URL");
            Log::new(Arc::new(InMemory::new()), url).expect("a log")
        });
        (runtime, log)
    })
}

/// A descriptor in JSON, a line feed, and the file that it names.
fn deletion_vector(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let Ok(descriptor) = serde_json::from_slice::<Descriptor>(&bytes[..end]) else {
        return;
    };
    let (runtime, log) = log();
    runtime.block_on(async {
        let path = descriptor.path().and_then(|path| Path::parse(format!("t/{path}")).ok());
        if let Some(path) = &path {
            let content = PutPayload::from(bytes[end + 1..].to_vec());
            log.store().put(path, content).await.expect("a file");
        }
        let _ = log.vectors(vec![descriptor]).await;
        if let Some(path) = &path {
            let _ = log.store().delete(path).await;
        }
    });
}

fn deletion_vectors() -> Vec<Vec<u8>> {
    let bitmaps = [
        [3, 5, 9].into_iter().collect(),
        (0..5000).collect(),
        (0..200_000).step_by(50).collect(),
    ];
    let mut seeds = Vec::new();
    for pack in pack(&bitmaps.iter().collect::<Vec<_>>()).expect("packs") {
        for descriptor in pack.descriptors {
            let descriptor = json!(descriptor).to_string();
            seeds.push([descriptor.as_bytes(), b"\n", &pack.bytes].concat());
        }
    }
    let inline = r#"{"storageType":"i","pathOrInlineDv":"^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L","sizeInBytes":40,"cardinality":6}"#;
    seeds.push([inline.as_bytes(), b"\n"].concat());
    seeds
}

/// An entry of a log, its actions one a line.
fn log_entry(bytes: &[u8]) {
    let Ok(actions) = entry_actions(bytes) else { return };
    let own = TableRecord::new("p".into(), "public.t".into(), 1, 3, Position::Lsn(Lsn(9)));
    let _ = conflict::judge(&actions, &own);
    for action in &actions {
        for kind in ["add", "remove"] {
            if let Some(file) = LiveFile::of(&action[kind]) {
                let _ = file.deletion_vector.and_then(|vector| vector.path());
            }
        }
        let domain = &action["domainMetadata"];
        if let Some(record) = TableRecord::from_action(domain) {
            comes_back(
                &record.domain_action(),
                |domain| TableRecord::from_action(domain).map(|record| json!(record)),
                &record,
            );
            if let Some(snapshot) = &record.snapshot {
                let _ = (snapshot.is_complete(), snapshot.blocks(), snapshot.blocks_done());
                for part in &snapshot.parts {
                    let remaining = part.remaining();
                    let _ = part.bound(0);
                    let mut part = part.clone();
                    for (from, to) in remaining {
                        part.add(from, to);
                    }
                }
            }
        }
        if let Some(record) = PipelineRecord::from_action(domain) {
            comes_back(
                &record.domain_action(),
                |domain| PipelineRecord::from_action(domain).map(|record| json!(record)),
                &record,
            );
        }
        if let Some(Ok(shape)) = domain["configuration"].as_str().map(serde_json::from_str::<Shape>) {
            let _ = (shape.is_ambiguous(), shape.has_vectors(), shape.protocol_action());
            if let Ok(schema) = shape.schema() {
                let _ = (
                    shape.is_of(&schema),
                    shape.file_schema(&schema),
                    shape.metadata_action("t", &schema),
                );
            }
        }
        if let Some(ty) = lake_type(&action["type"]) {
            assert_eq!(lake_type(&delta_type(&ty, None)), Some(ty));
        }
        let _ = serde_json::from_value::<Request>(action.clone());
    }
}

fn comes_back(action: &Value, read: impl Fn(&Value) -> Option<Value>, record: &impl serde::Serialize) {
    assert_eq!(read(&action["domainMetadata"]), Some(json!(record)));
}

fn log_entries() -> Vec<Vec<u8>> {
    let mut record = TableRecord::new("p".into(), "public.t".into(), 1, 3, Position::Lsn(Lsn(9)));
    record.snapshot = serde_json::from_str(
        r#"{"rows": 5, "parts": [{"relation": 1, "file": 2, "end_block": 9, "done": [[0, 3], [5, 7]]},
            {"relation": 4, "file": 2, "end_block": 2, "bounds": ["(1)"], "done": []}]}"#,
    )
    .expect("progress");
    let shape = r#"{"id":"i","created":1,"columns":[{"attribute":1,"name":"a","physical":"a","field":1,"type":"long","source":{"oid":20,"modifier":-1,"dimensions":0}},
        {"attribute":2,"name":"l","physical":"l-2","field":2,"type":{"type":"array","elementType":{"type":"struct","fields":[{"name":"x","type":"decimal(10,2)","nullable":true,"metadata":{}}]},"containsNull":true},"source":{"oid":25,"modifier":-1,"dimensions":1}}],
        "key":[1],"retired":["b"],"field_max":3,"mapped":true,"features":["deletionVectors"],"origin":{"storage":[[1,2]],"stamps":{"1":5},"attribute_max":2}}"#;
    let shape: Shape = serde_json::from_str(shape).expect("a shape");
    let add = json!({"add": {"path": "p/part-1.parquet", "size": 5, "modificationTime": 1, "partitionValues": {"d": "2024-01-01", "e": null},
        "stats": "{\"numRecords\":3}", "dataChange": true,
        "deletionVector": {"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", "offset": 4, "sizeInBytes": 40, "cardinality": 6}}});
    let entries = [
        vec![
            json!({"commitInfo": {"operation": "MERGE"}}),
            record.txn_action(5),
            record.domain_action(),
            add,
        ],
        vec![
            PipelineRecord::new("p".into(), Position::Lsn(Lsn(7)), 1).domain_action(),
            shape.domain_action(),
        ],
        vec![
            json!({"type": {"type": "map"}, "tables": ["public.t"]}),
            json!({"type": "decimal(38, 10)"}),
        ],
    ];
    let text = |actions: Vec<Value>| actions.iter().map(|action| format!("{action}\n")).collect::<String>();
    entries.map(|actions| text(actions).into_bytes()).to_vec()
}
