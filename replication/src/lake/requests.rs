//! Requests to a running sidecar, as small objects in the lake: whoever can
//! reach the lake can ask, and a request outlives a restart.

use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Lake;
use super::log::store_error;
use super::store;
use crate::error::Result;

/// Copy these tables anew.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Names it in the lake.
    #[serde(skip)]
    pub id: String,
    /// `schema.table`, each.
    pub tables: Vec<String>,
}

impl Request {
    pub fn new(tables: Vec<String>) -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            tables,
        }
    }
}

impl Lake {
    pub async fn put_request(&self, request: &Request) -> Result<()> {
        let payload = PutPayload::from(json!(request).to_string());
        let path = self.request_path(&request.id)?;
        // The id is new, so that the put may be repeated until it is answered.
        let put = self.store.put(&path, payload).await;
        put.map(|_| ())
            .map_err(|e| store_error("cannot put a request into", &self.root, e))
    }

    /// All requests that nobody has taken yet.
    pub async fn requests(&self) -> Result<Vec<Request>> {
        use futures::TryStreamExt;
        let unreadable = |e| store_error("cannot read the requests of", &self.root, e);
        let folder = self.requests_folder()?;
        let listed: Vec<_> = match self.store.list(Some(&folder)).try_collect().await {
            Ok(listed) => listed,
            Err(e) if store::is_absent(&e) => return Ok(Vec::new()),
            Err(e) => return Err(unreadable(e)),
        };
        let mut requests = Vec::with_capacity(listed.len());
        for meta in listed {
            let Some(id) = meta.location.filename().and_then(|name| name.strip_suffix(".json")) else {
                continue;
            };
            let bytes = match self.store.get(&meta.location).await {
                Ok(found) => found.bytes().await.map_err(unreadable)?,
                // Taken just now.
                Err(StoreError::NotFound { .. }) => continue,
                Err(e) => return Err(unreadable(e)),
            };
            match serde_json::from_slice::<Request>(&bytes) {
                Ok(request) => requests.push(Request {
                    id: id.to_owned(),
                    ..request
                }),
                Err(error) => tracing::warn!(path = %meta.location, %error, "a request can't be read"),
            }
        }
        Ok(requests)
    }

    pub async fn remove_request(&self, id: &str) -> Result<()> {
        match self.store.delete(&self.request_path(id)?).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(e) => Err(store_error("cannot remove a request from", &self.root, e)),
        }
    }

    fn request_path(&self, id: &str) -> Result<Path> {
        Ok(self.requests_folder()?.join(format!("{id}.json")))
    }

    fn requests_folder(&self) -> Result<Path> {
        Ok(store::root_path(&self.root)?.join("_tributary").join("requests"))
    }
}
