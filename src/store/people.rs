//! What is remembered of people: their time zones.

use super::{StoreError, Tx};
use crate::model::ids::PersonId;
use rusqlite::{Connection, OptionalExtension, params};

/// The time zone that a person chose, an IANA name; `None` when they chose none.
pub fn find_zone(conn: &Connection, person: &PersonId) -> Result<Option<String>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT zone FROM people WHERE person = ?1")?;
    let zone: Option<Option<String>> =
        statement.query_row([person], |row| row.get(0)).optional()?;
    Ok(zone.flatten())
}

/// Remembers a person's time zone; `timers::parse_zone` has checked it.
pub fn set_zone(tx: &Tx<'_>, person: &PersonId, zone: &str) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO people (person, zone) VALUES (?1, ?2)
         ON CONFLICT (person) DO UPDATE SET zone = excluded.zone",
    )?
    .execute(params![person, zone])?;
    Ok(())
}
