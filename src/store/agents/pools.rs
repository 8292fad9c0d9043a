//! Who we are.

use crate::store::{StoreError, Tx, meta};
use rusqlite::Connection;

/// The key under which this installation's id stands.
const INSTANCE: &str = "instance_id";

/// This installation's id, if it was made.
pub fn known_instance(conn: &Connection) -> Result<Option<String>, StoreError> {
    meta::find(conn, INSTANCE)
}

/// This installation's id, made at the first call: the beginning of all its agents' markers.
pub fn instance_id(tx: &Tx<'_>) -> Result<String, StoreError> {
    if let Some(id) = meta::find(tx, INSTANCE)? {
        return Ok(id);
    }
    let id = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
    meta::set(tx, INSTANCE, &id)?;
    Ok(id)
}
