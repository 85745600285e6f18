//! Whose a store is: an object names the database of sessions, as a lock does on a local disk. It
//! lasts, so that a server that comes later with another database is told.

use object_store::PutMode;
use uuid::Uuid;

use crate::{names::OWNER, probe::OpenError, store::Shared};

/// Others may write it at the same time, or delete it.
const ATTEMPTS: usize = 3;
/// Bytes of a text that are told.
const LONGEST: usize = 100;

/// Writes the object if there is none. Where the store keeps no conditions, two databases that come
/// within the same moment are both let in; whoever starts next is told.
pub(crate) async fn claim(shared: &Shared, database: Uuid) -> Result<(), OpenError> {
    let own = format!("bits-server: session database {database}");
    for _ in 0..ATTEMPTS {
        match found(shared).await? {
            Some(text) if text == own => return Ok(()),
            Some(found) => return Err(OpenError::Taken { object: shared.requests.full_name(OWNER), found, own }),
            None => write(shared, &own).await?,
        }
    }
    Err(OpenError::Lost(shared.requests.full_name(OWNER)))
}

async fn found(shared: &Shared) -> Result<Option<String>, OpenError> {
    match shared.requests.get(OWNER, 0).await {
        Ok(bytes) => {
            Ok(Some(String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]).trim().escape_debug().to_string()))
        }
        Err(failed) if failed.is_missing() => Ok(None),
        Err(failed) => Err(OpenError::of(failed)),
    }
}

/// Where somebody else was faster, that is what stands.
async fn write(shared: &Shared, text: &str) -> Result<(), OpenError> {
    let mode = if shared.conditions.put { PutMode::Create } else { PutMode::Overwrite };
    match shared.requests.put(OWNER, text.to_owned().into(), mode, None).await {
        Err(failed) if !failed.is_conflict() => Err(OpenError::of(failed)),
        _ => Ok(()),
    }
}
