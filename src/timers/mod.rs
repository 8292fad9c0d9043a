//! Timers: reading times out of words, setting them, and firing them when they are due.
//!
//! A timer is a row before it is confirmed, so a restart forgets none. Firing is one transaction:
//! the row's new state together with its effect (a message, a prompt, an event), so a crash can
//! neither lose nor double one. After downtime a missed timer fires once and says that it is late;
//! one that comes again is set to its next time to come, so that nothing piles up.

mod fire;
mod sentence;
mod when;

pub use crate::store::timers::{NewTimer, Timer, TimerKind};
pub use fire::{TimerService, fire_due};
pub use sentence::{Remind, RemindError, Whom, parse_remind};
pub use when::{When, WhenError, next_of, parse_cron, parse_when};

use crate::config::Config;
use crate::model::ids::{PersonId, TimerId};
use crate::store::{StoreError, Tx, people, timers as rows};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use rusqlite::Connection;

/// Most timers that may wait: a model in a loop must not fill the table.
const MAX_WAITING: i64 = 500;
/// The longest text of a timer, in bytes.
const MAX_TEXT_BYTES: usize = 4000;

/// Why a timer was not set or cancelled.
#[derive(Debug, thiserror::Error)]
pub enum TimerError {
    /// The time is over.
    #[error(transparent)]
    When(#[from] WhenError),
    /// There is no such waiting timer.
    #[error("there is no timer {0} waiting; `timers` lists them")]
    NotFound(TimerId),
    /// Something else that the person can put right.
    #[error("{0}")]
    Invalid(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Sets a timer; returns its number and its time in full, for the confirmation.
pub fn set(tx: &Tx<'_>, timer: &NewTimer) -> Result<(TimerId, String), TimerError> {
    let zone = parse_zone(&timer.zone).map_err(TimerError::Invalid)?;
    if timer.due_at.timestamp_millis() <= tx.now() {
        return Err(WhenError::Past(absolute(timer.due_at, zone)).into());
    }
    if let Some(cron) = &timer.cron {
        next_of(cron, timer.due_at, zone)?;
    }
    let invalid = |text: String| Err(TimerError::Invalid(text));
    if timer.text.len() > MAX_TEXT_BYTES {
        return invalid(format!("the text is too long; keep it under {MAX_TEXT_BYTES} bytes"));
    }
    match timer.kind {
        TimerKind::Reminder | TimerKind::Prompt => {
            if timer.text.trim().is_empty() {
                return invalid("say what to remind of".to_owned());
            }
            if timer.session.is_none() {
                return invalid("a reminder needs a room to be posted in".to_owned());
            }
        }
        TimerKind::Start | TimerKind::Resume => {
            if timer.item.is_none() {
                return invalid("say which item is to be started then".to_owned());
            }
        }
    }
    if rows::count_waiting(tx)? >= MAX_WAITING {
        return invalid(format!(
            "{MAX_WAITING} timers wait already; cancel some first (`timers`, `timer cancel ID`)"
        ));
    }
    let id = rows::insert(tx, timer)?;
    Ok((id, describe(timer, zone)))
}

/// Takes a waiting timer back and returns it.
pub fn cancel(tx: &Tx<'_>, id: TimerId) -> Result<Timer, TimerError> {
    let timer = rows::find(tx, id)?.ok_or(TimerError::NotFound(id))?;
    if rows::cancel(tx, id)? { Ok(timer) } else { Err(TimerError::NotFound(id)) }
}

/// The waiting timers, next first.
pub fn list(conn: &Connection) -> Result<Vec<Timer>, StoreError> {
    rows::list_waiting(conn)
}

/// One line about a timer: number, time, whom, what.
pub fn line(timer: &Timer) -> String {
    let zone = parse_zone(&timer.set.zone).unwrap_or(Tz::UTC);
    let whom = timer.set.person.as_ref().map_or_else(String::new, |person| format!(" {person}"));
    let item = timer.set.item.map_or_else(String::new, |item| format!(" item {item}"));
    let text =
        if timer.set.text.is_empty() { String::new() } else { format!(": {}", timer.set.text) };
    format!(
        "**{}** {} ({}{whom}{item}){text}",
        timer.id,
        describe(&timer.set, zone),
        timer.set.kind.as_str()
    )
}

/// The time of a timer in full, with its repetition.
fn describe(timer: &NewTimer, zone: Tz) -> String {
    let at = absolute(timer.due_at, zone);
    match &timer.cron {
        Some(cron) => format!("{at}, and again: {}", when::describe(cron)),
        None => at,
    }
}

/// A time in full, by the clocks of `zone`: `Sat 21 Nov 2026, 09:00 (Europe/Berlin)`.
pub fn absolute(at: DateTime<Utc>, zone: Tz) -> String {
    format!("{} ({zone})", at.with_timezone(&zone).format("%a %-d %b %Y, %H:%M"))
}

/// The time zone of a person, else the configured one.
pub fn zone_of(
    conn: &Connection,
    config: &Config,
    person: Option<&PersonId>,
) -> Result<Tz, StoreError> {
    let own = match person {
        Some(person) => people::find_zone(conn, person)?,
        None => None,
    };
    let zone = own.as_deref().unwrap_or(&config.time_zone);
    // The configuration was checked and a person's zone was checked when it was set.
    Ok(parse_zone(zone).unwrap_or(Tz::UTC))
}

/// Reads the name of a time zone; a refusal names the nearest known one.
pub fn parse_zone(name: &str) -> Result<Tz, String> {
    crate::config::parse_zone(name)
}

/// The person that `@name` means: a full id, or the one allowed person of that local name.
pub fn find_person(config: &Config, name: &str) -> Option<PersonId> {
    if name.contains(':') {
        return Some(PersonId::from(name));
    }
    let allowed = &config.matrix.as_ref()?.allowed_users;
    let wanted = format!("{}:", name.to_lowercase());
    let mut found = allowed.iter().filter(|user| user.to_lowercase().starts_with(&wanted));
    match (found.next(), found.next()) {
        (Some(only), None) => Some(PersonId::from(only.as_str())),
        (None | Some(_), _) => None,
    }
}

#[cfg(test)]
mod tests;
