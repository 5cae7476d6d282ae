//! A data file on its way to the store: small ones as one put, others in parts
//! of one size, some at a time.
//!
//! The file is there as a whole or not at all. Parts of one that is given up
//! are removed; those that a kill leaves behind are for the bucket's life-cycle
//! rules.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, PutPayloadMut, Result};
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::errors::ParquetError;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What is buffered before a part goes out. No store takes smaller ones.
pub const PART_BYTES: usize = 5 << 20;
/// Parts of one file on their way at the same time.
const PARTS_MAX: usize = 8;
/// Parts of all files on their way to an object store, so that a slow one
/// holds 40 MiB of them, however many tables there are.
const REMOTE_PARTS_MAX: usize = 8;

static REMOTE_PARTS: Semaphore = Semaphore::const_new(REMOTE_PARTS_MAX);

pub struct Upload {
    store: Arc<dyn ObjectStore>,
    path: Path,
    is_local: bool,
    buffer: PutPayloadMut,
    /// Bytes that went into parts.
    sent: u64,
    /// Once the file is larger than a part.
    parts: Option<Parts>,
}

struct Parts {
    upload: Box<dyn MultipartUpload>,
    tasks: JoinSet<Result<()>>,
}

impl Upload {
    pub fn new(store: Arc<dyn ObjectStore>, path: Path, is_local: bool) -> Self {
        Self {
            store,
            path,
            is_local,
            buffer: PutPayloadMut::new(),
            sent: 0,
            parts: None,
        }
    }

    async fn take(&mut self, mut bytes: Bytes) -> Result<()> {
        loop {
            let room = PART_BYTES - self.buffer.content_length();
            if bytes.len() < room {
                self.buffer.push(bytes);
                return Ok(());
            }
            self.buffer.push(bytes.split_to(room));
            self.send_part().await?;
        }
    }

    async fn send_part(&mut self) -> Result<()> {
        let payload = std::mem::take(&mut self.buffer).freeze();
        self.sent += payload.content_length() as u64;
        if self.parts.is_none() {
            self.parts = Some(Parts {
                upload: self.store.put_multipart(&self.path).await?,
                tasks: JoinSet::new(),
            });
        }
        // The one that is here, or was put here just now.
        let Some(parts) = &mut self.parts else { return Ok(()) };
        parts.wait_for(PARTS_MAX).await?;
        let permit = match self.is_local {
            true => None,
            // It is never closed.
            false => REMOTE_PARTS.acquire().await.ok(),
        };
        let part = parts.upload.put_part(payload);
        parts.tasks.spawn(async move {
            let _permit = permit;
            part.await
        });
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        if self.parts.is_none() {
            let payload: PutPayload = std::mem::take(&mut self.buffer).freeze();
            return self.store.put(&self.path, payload).await.map(|_| ());
        }
        if !self.buffer.is_empty() {
            self.send_part().await?;
        }
        let Some(parts) = &mut self.parts else { return Ok(()) };
        parts.wait_for(1).await?;
        if let Err(error) = parts.upload.complete().await {
            // Whose answer got lost may be there all the same; the name is ours alone.
            let there = self.store.head(&self.path).await;
            if there.is_ok_and(|meta| meta.size == self.sent) {
                self.parts = None;
                return Ok(());
            }
            return Err(error);
        }
        self.parts = None;
        Ok(())
    }
}

impl Parts {
    /// Waits until fewer than `count` are on their way.
    async fn wait_for(&mut self, count: usize) -> Result<()> {
        while self.tasks.len() >= count {
            match self.tasks.join_next().await {
                Some(done) => done??,
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

impl AsyncFileWriter for Upload {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, std::result::Result<(), ParquetError>> {
        self.take(bytes).map(|done| done.map_err(external)).boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, std::result::Result<(), ParquetError>> {
        self.finish().map(|done| done.map_err(external)).boxed()
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl Drop for Upload {
    /// Removes the parts of a file that will not be whole, where there is
    /// still somebody to do it.
    fn drop(&mut self) {
        let (Some(mut parts), Ok(runtime)) = (self.parts.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let path = self.path.clone();
        runtime.spawn(async move {
            parts.tasks.shutdown().await;
            if let Err(error) = parts.upload.abort().await {
                tracing::debug!(%path, %error, "cannot remove the parts of a file that was given up");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn a_file_is_whole_whatever_its_size_and_however_it_comes() {
        let store = Arc::new(InMemory::new());
        for size in [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 7] {
            for pieces in [1 << 20, 20 << 20] {
                let bytes: Vec<u8> = (0..size).map(|i| (i * 31 / 7) as u8).collect();
                let mut upload = Upload::new(store.clone(), Path::from("file"), false);
                for piece in bytes.chunks(pieces) {
                    upload.write(Bytes::copy_from_slice(piece)).await.expect("write");
                }
                upload.complete().await.expect("complete");
                let found = store.get(&Path::from("file")).await.expect("get").bytes().await;
                assert!(found.expect("bytes") == bytes, "{size} bytes in pieces of {pieces}");
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_is_given_up_is_not_there() {
        let store = Arc::new(InMemory::new());
        let mut upload = Upload::new(store.clone(), Path::from("file"), false);
        upload.write(Bytes::from(vec![0; 2 * PART_BYTES])).await.expect("write");
        drop(upload);
        assert!(store.head(&Path::from("file")).await.is_err());
    }
}
