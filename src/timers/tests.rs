use super::*;
use crate::clock::Clock;
use crate::model::ids::{ItemId, SessionKey};
use crate::store::Store;
use chrono::{TimeDelta, TimeZone};
use tokio_util::sync::CancellationToken;

struct Desk {
    _dir: tempfile::TempDir,
    store: Store,
    clock: Clock,
}

fn desk() -> Desk {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(Utc.with_ymd_and_hms(2026, 3, 27, 12, 0, 0).unwrap());
    let store = Store::open(dir.path(), clock.clone()).unwrap();
    Desk { _dir: dir, store, clock }
}

fn reminder(due_at: DateTime<Utc>) -> NewTimer {
    NewTimer {
        kind: TimerKind::Reminder,
        session: Some(SessionKey::main("!r:hs".into())),
        person: Some("@you:hs".into()),
        created_by: "@you:hs".into(),
        item: None,
        text: "standup".into(),
        due_at,
        cron: None,
        zone: "Europe/Berlin".into(),
    }
}

impl Desk {
    fn set(&self, timer: NewTimer) -> Result<(TimerId, String), TimerError> {
        self.store.write_blocking(move |tx| set(tx, &timer))
    }

    fn fire(&self) -> usize {
        self.store.write_blocking(|tx| fire_due(tx, DateTime::UNIX_EPOCH)).unwrap()
    }

    fn column(&self, sql: &'static str) -> Vec<String> {
        let texts = self.store.read_blocking(move |conn| {
            let mut statement = conn.prepare(sql)?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok::<_, StoreError>(rows.collect::<Result<Vec<String>, _>>()?)
        });
        texts.unwrap()
    }

    fn posted(&self) -> Vec<String> {
        self.column("SELECT json_extract(outgoing, '$.content.markdown') FROM outbox ORDER BY id")
    }
}

#[test]
fn a_timer_is_confirmed_with_its_time_in_full_and_fires_once() {
    let desk = desk();
    let (id, said) = desk.set(reminder(desk.clock.now() + TimeDelta::hours(2))).unwrap();
    assert_eq!(said, "Fri 27 Mar 2026, 15:00 (Europe/Berlin)");
    assert_eq!(desk.fire(), 0);
    desk.clock.set(desk.clock.now() + TimeDelta::hours(2));
    assert_eq!((desk.fire(), desk.fire()), (1, 0));
    assert_eq!(desk.posted(), ["⏰ @you:hs: standup"]);
    assert_eq!(
        desk.column("SELECT json_extract(outgoing, '$.content.mentions[0]') FROM outbox"),
        ["@you:hs"]
    );
    assert!(matches!(
        desk.store.write_blocking(move |tx| cancel(tx, id)),
        Err(TimerError::NotFound(_))
    ));
}

#[test]
fn after_downtime_a_missed_one_fires_once_and_says_so() {
    let desk = desk();
    desk.set(reminder(desk.clock.now() + TimeDelta::hours(1))).unwrap();
    let daily = NewTimer {
        cron: Some("30 2 * * *".into()),
        text: "daily".into(),
        ..reminder(desk.clock.now() + TimeDelta::hours(1))
    };
    desk.set(daily).unwrap();
    desk.clock.set(desk.clock.now() + TimeDelta::days(10));
    assert_eq!((desk.fire(), desk.fire()), (2, 0), "ten missed days are one reminder");
    let posted = desk.posted();
    assert!(
        posted[0]
            == "⏰ @you:hs: standup (late: it was due Fri 27 Mar 2026, 14:00 (Europe/Berlin))",
        "{posted:?}"
    );
    let waiting = desk.store.read_blocking(list).unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(
        line(&waiting[0]),
        "**2** Tue 7 Apr 2026, 02:30 (Europe/Berlin), and again: At 02:30. (reminder @you:hs): daily"
    );
}

#[test]
fn a_daily_one_neither_skips_nor_doubles_over_the_change_of_the_clock() {
    let desk = desk();
    let daily = NewTimer {
        cron: Some("30 2 * * *".into()),
        ..reminder(Utc.with_ymd_and_hms(2026, 3, 28, 1, 30, 0).unwrap())
    };
    desk.set(daily).unwrap();
    let mut fired = Vec::new();
    // Hour by hour over three nights, of which the second has no half past two.
    for _ in 0..(72 * 4) {
        desk.clock.set(desk.clock.now() + TimeDelta::minutes(15));
        if desk.fire() > 0 {
            fired.push(absolute(desk.clock.now(), chrono_tz::Europe::Berlin));
        }
    }
    assert_eq!(
        fired,
        [
            "Sat 28 Mar 2026, 02:30 (Europe/Berlin)",
            "Sun 29 Mar 2026, 03:00 (Europe/Berlin)",
            "Mon 30 Mar 2026, 02:30 (Europe/Berlin)",
        ]
    );
}

#[test]
fn a_prompt_is_a_message_and_a_start_is_an_event() {
    let desk = desk();
    let at = desk.clock.now() + TimeDelta::minutes(1);
    desk.set(NewTimer { kind: TimerKind::Prompt, ..reminder(at) }).unwrap();
    desk.set(NewTimer { kind: TimerKind::Start, item: Some(ItemId(12)), ..reminder(at) }).unwrap();
    desk.clock.set(at);
    assert_eq!(desk.fire(), 2);
    assert_eq!(
        desk.column("SELECT key FROM inbox"),
        [format!("timer:1:{}", at.timestamp_millis())]
    );
    assert_eq!(desk.column("SELECT event FROM events"), [r#"{"event":"timer_fired","timer":2}"#]);
    assert_eq!(desk.posted(), [""; 0]);
}

#[test]
fn a_timer_that_makes_no_sense_is_refused() {
    let desk = desk();
    let soon = desk.clock.now() + TimeDelta::minutes(1);
    for (timer, reason) in [
        (reminder(desk.clock.now()), "in the past"),
        (NewTimer { text: " ".into(), ..reminder(soon) }, "say what"),
        (NewTimer { zone: "Europe/Berln".into(), ..reminder(soon) }, "Europe/Berlin"),
        (NewTimer { cron: Some("61 * * * *".into()), ..reminder(soon) }, "no cron pattern"),
        (NewTimer { kind: TimerKind::Start, ..reminder(soon) }, "which item"),
    ] {
        let error = desk.set(timer).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(desk.store.read_blocking(list).unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_service_sleeps_until_the_next_is_due_and_wakes_for_a_nearer_one() {
    let desk = desk();
    let cancel = CancellationToken::new();
    let service = tokio::spawn(TimerService::new(desk.store.clone()).run(cancel.clone()));
    let mut outbox = desk.store.changes("outbox");
    let timer = reminder(desk.clock.now() + TimeDelta::milliseconds(50));
    desk.store.write(move |tx| set(tx, &timer)).await.unwrap();
    desk.clock.set(desk.clock.now() + TimeDelta::seconds(1));
    tokio::time::timeout(std::time::Duration::from_secs(60), outbox.changed()).await.unwrap();
    cancel.cancel();
    service.await.unwrap();
    assert_eq!(desk.posted().len(), 1);
}

#[test]
fn a_resume_timer_lets_a_session_go_on_that_a_rate_limit_holds_and_no_other() {
    use crate::model::agent::{Role, SessionState, Waiting, WaitingFor};
    use crate::store::agents::{self as sessions, NewSession};
    for (what, expected) in [
        (WaitingFor::RateLimit, SessionState::BetweenTurns),
        (WaitingFor::Person, SessionState::Waiting),
    ] {
        let desk = desk();
        let due = desk.clock.now() + TimeDelta::hours(1);
        let session = desk
            .store
            .write_blocking(move |tx| {
                let new = NewSession {
                    agent: "coder-1".into(),
                    role: Role::Coder,
                    runtime: crate::config::RuntimeKind::Api,
                    item: ItemId(1),
                    prompt: "go on".to_owned(),
                    resume_native: None,
                };
                let id = sessions::create_session(tx, &new).unwrap();
                sessions::move_state(tx, id, SessionState::BetweenTurns)?;
                let waiting = Waiting { what, until: Some(due), detail: String::new() };
                sessions::move_to_waiting(tx, id, &waiting)?;
                let timer = NewTimer {
                    kind: TimerKind::Resume,
                    session: None,
                    item: Some(ItemId(1)),
                    ..reminder(due)
                };
                rows::insert(tx, &timer)?;
                Ok::<_, StoreError>(id)
            })
            .unwrap();
        assert_eq!(desk.fire(), 0);
        desk.clock.set(due);
        assert_eq!(desk.fire(), 1);
        let found = desk.store.read_blocking(move |conn| sessions::find_session(conn, session));
        assert_eq!(found.unwrap().unwrap().state, expected);
    }
}
