//! Nudges: short-lived pokes. They are not mail: nobody lists them, and one that nobody took in
//! time is dropped.

use super::{StoreError, Tx};
use crate::clock::from_millis;
use crate::model::ids::TurnId;
use chrono::{DateTime, Duration, Utc};
use rusqlite::{Connection, Row, params};

/// How long a nudge waits.
pub const LIFETIME: Duration = Duration::minutes(30);
/// How long an urgent one does.
pub const URGENT_LIFETIME: Duration = Duration::hours(2);
/// How many may wait for one recipient.
pub const WAITING_MAX: u32 = 50;

/// A nudge.
#[derive(Debug, Clone, PartialEq)]
pub struct Nudge {
    /// Its number.
    pub id: i64,
    /// Who pokes.
    pub from: String,
    /// What is said.
    pub text: String,
    /// Whether it comes before the others.
    pub urgent: bool,
    /// When it was sent.
    pub created_at: DateTime<Utc>,
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Nudge> {
    Ok(Nudge {
        id: row.get(0)?,
        from: row.get(1)?,
        text: row.get(2)?,
        urgent: row.get(3)?,
        created_at: from_millis(row.get(4)?),
    })
}

/// Writes a nudge; false when so many wait for the recipient that this one would be one too many.
pub fn insert(
    tx: &Tx<'_>,
    recipient: &str,
    from: &str,
    text: &str,
    urgent: bool,
) -> Result<bool, StoreError> {
    drop_expired(tx)?;
    let waiting: u32 = tx
        .prepare_cached("SELECT count(*) FROM nudges WHERE recipient = ?1 AND given IS NULL")?
        .query_row([recipient], |row| row.get(0))?;
    if waiting >= WAITING_MAX {
        return Ok(false);
    }
    let lifetime = if urgent { URGENT_LIFETIME } else { LIFETIME };
    tx.prepare_cached(
        "INSERT INTO nudges (recipient, sender, text, urgent, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        recipient,
        from,
        text,
        urgent,
        tx.now(),
        tx.now() + lifetime.num_milliseconds()
    ])?;
    Ok(true)
}

/// Whether a nudge waits for `recipient`.
pub fn has_waiting(conn: &Connection, recipient: &str, now: i64) -> Result<bool, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT 1 FROM nudges WHERE recipient = ?1 AND given IS NULL AND expires_at > ?2 LIMIT 1",
    )?;
    Ok(statement.exists(params![recipient, now])?)
}

/// Gives a turn what waits for `recipient`, urgent ones first: each is given once.
pub fn take(tx: &Tx<'_>, recipient: &str, turn: TurnId) -> Result<Vec<Nudge>, StoreError> {
    let mut statement = tx.prepare_cached(
        "UPDATE nudges SET given = ?2 WHERE recipient = ?1 AND given IS NULL AND expires_at > ?3
         RETURNING id, sender, text, urgent, created_at",
    )?;
    let rows = statement.query_map(params![recipient, turn, tx.now()], from_row)?;
    let mut taken = rows.collect::<Result<Vec<_>, _>>()?;
    taken.sort_by_key(|nudge| (!nudge.urgent, nudge.id));
    Ok(taken)
}

/// Drops those whose time is over; says how many nobody had taken.
pub fn drop_expired(tx: &Tx<'_>) -> Result<usize, StoreError> {
    let missed = tx
        .prepare_cached("DELETE FROM nudges WHERE expires_at <= ?1 AND given IS NULL")?
        .execute([tx.now()])?;
    tx.prepare_cached("DELETE FROM nudges WHERE expires_at <= ?1")?.execute([tx.now()])?;
    Ok(missed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Store;

    struct Bench {
        _dir: tempfile::TempDir,
        store: Store,
        clock: Clock,
    }

    fn bench() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::fixed("2026-11-21T12:00:00Z".parse().unwrap());
        let store = Store::open(dir.path(), clock.clone()).unwrap();
        Bench { _dir: dir, store, clock }
    }

    impl Bench {
        fn write<T: Send + 'static>(
            &self,
            work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
        ) -> T {
            self.store.write_blocking(work).unwrap()
        }

        fn nudge(&self, text: &'static str, urgent: bool) -> bool {
            self.write(move |tx| insert(tx, "coder-1", "@ann:hs", text, urgent))
        }

        fn take(&self, to: &'static str) -> Vec<String> {
            let taken = self.write(move |tx| take(tx, to, TurnId(1)));
            taken.into_iter().map(|nudge| nudge.text).collect()
        }

        fn later(&self, time: Duration) {
            self.clock.set(self.clock.now() + time);
        }
    }

    #[test]
    fn a_nudge_is_given_once_to_its_recipient_urgent_ones_first() {
        let bench = bench();
        for (text, urgent) in [("a", false), ("b", true), ("c", false)] {
            assert!(bench.nudge(text, urgent));
        }
        assert!(bench.take("coder-2").is_empty());
        assert_eq!(bench.take("coder-1"), ["b", "a", "c"]);
        assert!(bench.take("coder-1").is_empty());
    }

    #[test]
    fn what_nobody_took_in_time_is_dropped_urgent_ones_later() {
        let bench = bench();
        bench.nudge("soon", false);
        bench.nudge("urgent", true);
        bench.later(LIFETIME - Duration::milliseconds(1));
        let waits = |bench: &Bench| {
            let now = bench.clock.millis();
            bench.store.read_blocking(move |conn| has_waiting(conn, "coder-1", now)).unwrap()
        };
        assert!(waits(&bench));
        bench.later(Duration::milliseconds(1));
        assert_eq!(bench.write(drop_expired), 1);
        assert!(waits(&bench));
        bench.later(URGENT_LIFETIME);
        assert!(!waits(&bench));
        assert!(bench.take("coder-1").is_empty());
    }

    #[test]
    fn fifty_wait_at_most_and_there_is_room_again_when_they_expire() {
        let bench = bench();
        for _ in 0..WAITING_MAX {
            assert!(bench.nudge("x", false));
        }
        assert!(!bench.nudge("one too many", true));
        bench.later(LIFETIME);
        assert!(bench.nudge("again", false));
    }
}
