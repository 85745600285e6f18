//! Replies of server applications: an object beside the upload's. An application that is notified
//! by reference gets URLs that allow it to read the one and to write the other.

use bits_core::{BodyStream, SharedFiles, Stopped, StoreError, Upload};
use futures_util::StreamExt;
use http::Method;
use object_store::{CopyMode, PutMode, PutPayload, PutPayloadMut};

use crate::{
    layout::SMALLEST_PART,
    memory::Lease,
    names::{self, REPLY, RESPONSE},
    reading,
    store::Shared,
    writer::wait_for_memory,
};

/// URLs of the upload and of the place for a reply; what was left there before is deleted.
pub(crate) async fn share(shared: &Shared, upload: &Upload) -> Result<Option<SharedFiles>, StoreError> {
    let request = reading::whole(shared, upload).await?;
    let response = format!("{}/{RESPONSE}", names::session_folder(upload));
    shared.requests.delete(std::slice::from_ref(&response)).await?;
    let lifetime = shared.options.share_lifetime;
    let urls = (
        shared.requests.sign(&request, Method::GET, lifetime).await?,
        shared.requests.sign(&response, Method::PUT, lifetime).await?,
    );
    Ok(match urls {
        (Some(request), Some(response)) => Some(SharedFiles { request, response }),
        _ => None,
    })
}

/// Makes the reply of what an application left, if it left anything.
pub(crate) async fn take(shared: &Shared, upload: &Upload) -> Result<u64, StoreError> {
    let [reply, response] = [REPLY, RESPONSE].map(|name| format!("{}/{name}", names::session_folder(upload)));
    let size = shared.requests.head(&response).await?.map_or(0, |found| found.meta.size);
    if size == 0 {
        shared.requests.delete(&[reply, response]).await?;
        return Ok(0);
    }
    shared.requests.copy(&response, &reply, size, CopyMode::Overwrite).await?;
    shared.requests.delete(&[response]).await?;
    Ok(size)
}

/// Keeps `body` as the reply, in one PUT where it is small.
pub(crate) async fn write(shared: &Shared, upload: &Upload, body: &mut BodyStream<'_>) -> Result<u64, Stopped> {
    let mut writer = Writer {
        shared,
        upload,
        name: format!("{}/{REPLY}", names::session_folder(upload)),
        // Replies of many parts are rare; the first part's room is enough for all of them.
        _lease: wait_for_memory(shared, SMALLEST_PART).await,
        gathered: PutPayloadMut::new(),
        multipart: None,
        contents: Vec::new(),
        length: 0,
    };
    match writer.take(body).await {
        Ok(()) => Ok(writer.length),
        Err(stopped) => {
            writer.give_up().await;
            Err(stopped)
        }
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    upload: &'a Upload,
    name: String,
    _lease: Lease,
    gathered: PutPayloadMut,
    multipart: Option<String>,
    contents: Vec<String>,
    length: u64,
}

impl Writer<'_> {
    async fn take(&mut self, body: &mut BodyStream<'_>) -> Result<(), Stopped> {
        while let Some(bytes) = body.next().await {
            let mut bytes = bytes?;
            self.length += bytes.len() as u64;
            while !bytes.is_empty() {
                let room = SMALLEST_PART as usize - self.gathered.content_length();
                let now = bytes.split_to(bytes.len().min(room));
                self.gathered.extend_from_slice(&now);
                if self.gathered.content_length() as u64 == SMALLEST_PART {
                    self.put_part().await?;
                }
            }
        }
        Ok(self.finish().await?)
    }

    async fn put_part(&mut self) -> Result<(), StoreError> {
        let id = match &self.multipart {
            Some(id) => id.clone(),
            None => self.shared.requests.create_multipart(&self.name, self.upload.session).await?,
        };
        self.multipart = Some(id.clone());
        let payload: PutPayload = std::mem::take(&mut self.gathered).freeze();
        let content = self.shared.requests.put_part(&self.name, &id, self.contents.len(), payload).await?;
        self.contents.push(content);
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), StoreError> {
        let requests = &self.shared.requests;
        if self.length == 0 {
            return Ok(requests.delete(std::slice::from_ref(&self.name)).await?);
        }
        if self.multipart.is_none() {
            let payload = std::mem::take(&mut self.gathered).freeze();
            let session = Some(self.upload.session);
            return Ok(requests.put(&self.name, payload, PutMode::Overwrite, session).await?);
        }
        if !self.gathered.is_empty() {
            self.put_part().await?;
        }
        let (id, contents) = (self.multipart.take().unwrap_or_default(), std::mem::take(&mut self.contents));
        Ok(self.shared.requests.complete(&self.name, &id, contents).await?)
    }

    /// What cannot be given up now is left to the bucket's lifecycle rule.
    async fn give_up(&self) {
        if let Some(id) = &self.multipart {
            let _ = self.shared.requests.abort(&self.name, id).await;
        }
    }
}
