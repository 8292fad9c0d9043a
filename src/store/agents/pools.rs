//! Facts about the pool that outlive a process: which runtimes must not be used, and who we are.

use crate::config::RuntimeKind;
use crate::store::{StoreError, Tx, meta};
use rusqlite::Connection;

/// The key under which this installation's id stands.
const INSTANCE: &str = "instance_id";

fn pause_key(runtime: RuntimeKind) -> String {
    format!("pool_paused:{}", runtime.as_str())
}

/// Why no agent of this runtime may start, if none may.
pub fn pool_pause(conn: &Connection, runtime: RuntimeKind) -> Result<Option<String>, StoreError> {
    meta::find(conn, &pause_key(runtime))
}

/// Lets no agent of this runtime start; says whether that is news.
pub fn pause_pool(tx: &Tx<'_>, runtime: RuntimeKind, reason: &str) -> Result<bool, StoreError> {
    let news = pool_pause(tx, runtime)?.is_none();
    meta::set(tx, &pause_key(runtime), reason)?;
    Ok(news)
}

/// Lets agents of all runtimes start again; says whether one was paused.
///
/// Done at each start of the server: what a person must put right (a key, a login, a program) is
/// tried anew, once, and pauses the pool again when it is still wrong.
pub fn resume_pools(tx: &Tx<'_>) -> Result<bool, StoreError> {
    let changed =
        tx.prepare_cached("DELETE FROM meta WHERE key LIKE 'pool_paused:%'")?.execute([])?;
    Ok(changed > 0)
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
