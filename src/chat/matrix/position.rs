//! How far the sync was journaled: our own position, committed together with what it covers.

use crate::store::{StoreError, Tx, meta};
use rusqlite::Connection;

fn key(user: &str) -> String {
    format!("matrix_sync_token:{user}")
}

/// The position behind everything that was journaled for `user`.
pub fn find(conn: &Connection, user: &str) -> Result<Option<String>, StoreError> {
    meta::find(conn, &key(user))
}

/// Moves the position; in the transaction that journals what lies before it.
pub fn set(tx: &Tx<'_>, user: &str, token: &str) -> Result<(), StoreError> {
    meta::set(tx, &key(user), token)
}
