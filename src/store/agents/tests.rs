use super::*;
use crate::clock::Clock;
use crate::model::agent::WaitingFor;
use crate::model::mail::MailType;
use crate::store::{Owner, Store, start_time};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    (dir, store)
}

fn new(item: i64) -> NewSession {
    NewSession {
        agent: "coder-1".into(),
        role: Role::Coder,
        runtime: RuntimeKind::ClaudeCode,
        item: ItemId(item),
        prompt: "do it".to_owned(),
        resume_native: None,
    }
}

fn write<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Tx<'_>) -> Result<T, CreateError> + Send + 'static,
) -> T {
    store.write_blocking(work).unwrap()
}

/// The table of spec/agents.md, "Session states", spelled out once more.
fn may_move(from: SessionState, to: SessionState) -> bool {
    use SessionState::{BetweenTurns, Booting, Completed, InTurn, Stalled, Waiting, Zombie};
    match to {
        Booting => false,
        InTurn => matches!(from, Booting | BetweenTurns | Waiting | InTurn | Stalled),
        BetweenTurns => matches!(from, Booting | InTurn | BetweenTurns | Waiting | Stalled),
        Waiting => matches!(from, InTurn | BetweenTurns | Waiting),
        Stalled => matches!(from, Booting | InTurn | BetweenTurns | Stalled),
        Completed => from != Zombie,
        Zombie => from != Completed,
    }
}

#[test]
fn every_move_between_states_is_as_the_table_says() {
    let (_dir, store) = store();
    for from in SessionState::ALL {
        for to in SessionState::ALL {
            let (outcome, after) = write(&store, move |tx| {
                tx.execute("DELETE FROM agent_sessions", []).map_err(StoreError::from)?;
                let id = create_session(tx, &new(1))?;
                tx.execute("UPDATE agent_sessions SET state = ?1", [from.as_str()])
                    .map_err(StoreError::from)?;
                let outcome = move_state(tx, id, to)?;
                Ok((outcome, find_session(tx, id)?.unwrap().state))
            });
            let expected = match may_move(from, to) {
                true => (MoveOutcome::Ok, to),
                false => (MoveOutcome::Illegal(from), from),
            };
            assert_eq!((outcome, after), expected, "{from:?} -> {to:?}");
        }
    }
}

#[test]
fn only_an_operators_stop_completes_a_zombie() {
    let (_dir, store) = store();
    write(&store, |tx| {
        let id = create_session(tx, &new(1))?;
        assert_eq!(close_zombie(tx, id)?, MoveOutcome::Illegal(SessionState::Booting));
        move_state(tx, id, SessionState::Zombie)?;
        assert_eq!(
            move_state(tx, id, SessionState::Completed)?,
            MoveOutcome::Illegal(SessionState::Zombie)
        );
        assert_eq!(close_zombie(tx, id)?, MoveOutcome::Ok);
        let nobody = move_state(tx, AgentSessionId(99), SessionState::Zombie)?;
        assert_eq!(nobody, MoveOutcome::NotFound);
        Ok(())
    });
}

#[test]
fn an_item_has_one_live_session_at_most() {
    let (_dir, store) = store();
    write(&store, |tx| {
        let first = create_session(tx, &new(1))?;
        assert!(matches!(create_session(tx, &new(1)), Err(CreateError::AlreadyLive { .. })));
        move_state(tx, first, SessionState::Completed)?;
        let second = create_session(tx, &NewSession { resume_native: Some("n".into()), ..new(1) })?;
        let live = live_session_of(tx, ItemId(1))?.unwrap();
        assert_eq!((live.id, live.native_id.as_deref()), (second, Some("n")));
        assert_eq!(sessions_of_item(tx, ItemId(1))?.len(), 2);
        assert!(matches!(
            create_session(tx, &NewSession { prompt: " ".into(), ..new(2) }),
            Err(CreateError::EmptyPrompt)
        ));
        Ok(())
    });
}

#[test]
fn a_prompt_waits_until_a_turn_takes_it_and_is_never_overwritten() {
    let (_dir, store) = store();
    write(&store, |tx| {
        let id = create_session(tx, &new(1))?;
        assert!(set_prompt(tx, id, "and this")?);
        assert!(!set_prompt(tx, id, "  ")?);
        let first = begin_turn(tx, id)?.unwrap();
        assert_eq!(turn(tx, first)?.unwrap().prompt, "do it\n\nand this");
        assert_eq!(begin_turn(tx, id)?, None, "an empty prompt is no turn");
        assert_eq!(unfinished_turns(tx)?.len(), 1);
        move_state(tx, id, SessionState::Completed)?;
        assert!(!set_prompt(tx, id, "too late")?);
        Ok(())
    });
}

#[test]
fn what_a_session_waits_for_is_forgotten_when_it_goes_on() {
    let (_dir, store) = store();
    write(&store, |tx| {
        let id = create_session(tx, &new(1))?;
        move_state(tx, id, SessionState::InTurn)?;
        let waiting = Waiting { what: WaitingFor::Reply, until: None, detail: "mail 7".to_owned() };
        assert_eq!(move_to_waiting(tx, id, &waiting)?, MoveOutcome::Ok);
        assert_eq!(find_session(tx, id)?.unwrap().waiting, Some(waiting));
        begin_turn(tx, id)?.unwrap();
        assert_eq!(find_session(tx, id)?.unwrap().waiting, None);
        Ok(())
    });
}

#[test]
fn a_lease_is_refused_while_its_owner_lives_and_taken_over_when_it_died() {
    let (_dir, store) = store();
    let pid = nix::unistd::getpid().as_raw();
    let alive = Owner { pid, started: start_time(pid).unwrap() };
    let reused = Owner { pid, started: alive.started + 1 };
    let me = Owner { pid: 1, started: 0 };
    write(&store, move |tx| {
        let agent: AgentName = "coder-1".into();
        let session = AgentSessionId(1);
        assert_eq!(take_lease(tx, &agent, session, &alive)?, LeaseOutcome::Taken);
        assert_eq!(take_lease(tx, &agent, session, &me)?, LeaseOutcome::Held(alive.clone()));
        release_lease(tx, &agent, session)?;
        assert_eq!(take_lease(tx, &agent, session, &reused)?, LeaseOutcome::Taken);
        assert_eq!(take_lease(tx, &agent, session, &me)?, LeaseOutcome::Taken);
        Ok(())
    });
}

#[test]
fn events_are_redacted_and_cut_and_the_newest_report_is_found() {
    let (_dir, store) = store();
    write(&store, |tx| {
        let id = create_session(tx, &new(1))?;
        let turn = begin_turn(tx, id)?.unwrap();
        append_turn_event(tx, turn, id, "text", "key sk-ant-api03-abcdefghijklmnop")?;
        append_turn_event(tx, turn, id, "tool_end", &"ü".repeat(9000))?;
        let events = turn_events(tx, ItemId(1), 5)?;
        assert_eq!(events[0].text, "key [redacted]");
        assert!(events[1].text.len() < 5000 && events[1].text.ends_with("(18000 bytes in all)"));
        let report = NewReport {
            agent: "coder-1".into(),
            item: ItemId(1),
            session: Some(id),
            kind: MailType::WorkerDone,
            summary: "did it".to_owned(),
            payload: None,
        };
        let first = record_report(tx, &report)?;
        record_report(tx, &NewReport { item: ItemId(2), ..report })?;
        assert_eq!(newest_report(tx, &"coder-1".into(), ItemId(1))?.unwrap().id, first);
        Ok(())
    });
}
