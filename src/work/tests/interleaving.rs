//! Whatever happens in whatever order: one agent an item, one item an agent, nothing forgotten.
//!
//! The stage machine alone is judged over ten thousand histories in `model/stage/next`; here fewer
//! run over the real store, with agents, looks at their work, the merge queue, people and crashes.

use super::*;
use crate::model::agent::Role;
use crate::model::stage::MoveTo;
use crate::work::settle::Due;
use proptest::prelude::*;

const MORE: &str = r#"
[[agents]]
name = "merger-1"
role = "mergemaster"
runtime = "replay"
[limits]
max_starts_per_minute = 1000
"#;

/// How many items there are: decided by gates, by a QA agent, by a person, and one that depends on
/// the first.
const ITEMS: usize = 4;

/// Something that happens.
#[derive(Debug, Clone)]
enum Step {
    Pass,
    /// A look at the work is begun, and its result comes whenever.
    Look(usize),
    /// The oldest look ends.
    LookEnds,
    /// The process dies: looks that were under way are gone.
    Crash,
    /// The agent ends its work well, whatever it is for.
    Report(usize),
    /// The agent reports that it is not good: QA's findings, a conflict that cannot be resolved.
    Complain(usize),
    Die(usize),
    CutOff(usize),
    /// From now on the gates of its worktree fail, or pass.
    Gates(usize, bool),
    /// Its worktree has changes that are not committed, or all is committed.
    Dirty(usize, bool),
    Start(usize),
    Stop(usize),
    Merge(usize),
    MergeFails(usize, MergeFailureKind),
    Delete(usize),
    Depend(usize, usize),
    Hurry(usize),
    /// What a person does by a command.
    Person(usize, StageEvent),
    Wait,
}

fn merge_failures() -> impl Strategy<Value = MergeFailureKind> {
    let gate = || "make test".to_owned();
    prop_oneof![
        Just(MergeFailureKind::Conflict { files: vec!["a.rs".to_owned()] }),
        Just(MergeFailureKind::GateFailed { gate: gate(), exit: Some(1) }),
        Just(MergeFailureKind::GateTimeout { gate: gate() }),
        Just(MergeFailureKind::EmptyDiff),
        Just(MergeFailureKind::BaseMoved),
        Just(MergeFailureKind::PushRefused { reason: "protected".to_owned() }),
        Just(MergeFailureKind::Infrastructure { what: "disk".to_owned() }),
    ]
}

fn by_a_person() -> impl Strategy<Value = StageEvent> {
    let why = || "because".to_owned();
    let at = from_millis(BEGIN_MS);
    prop_oneof![
        4 => Just(StageEvent::Frozen),
        4 => Just(StageEvent::Unfrozen),
        3 => Just(StageEvent::Blocked { reason: why() }),
        4 => Just(StageEvent::Unblocked),
        6 => Just(StageEvent::Approved),
        2 => Just(StageEvent::Rejected { reason: why() }),
        1 => Just(StageEvent::Abandoned { reason: why() }),
        1 => Just(StageEvent::Superseded { by: ItemId(1) }),
        1 => Just(StageEvent::PutAway { reason: why(), at }),
        1 => Just(StageEvent::RetentionPassed { at }),
        6 => (0..MoveTo::ALL.len()).prop_map(|n| StageEvent::Moved { to: MoveTo::ALL[n] }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let item = || 0..ITEMS;
    let loops = prop_oneof![
        6 => Just(Step::Pass),
        3 => item().prop_map(Step::Look),
        3 => Just(Step::LookEnds),
        1 => Just(Step::Crash),
        2 => Just(Step::Wait),
    ];
    let agents = prop_oneof![
        6 => item().prop_map(Step::Report),
        2 => item().prop_map(Step::Complain),
        1 => item().prop_map(Step::Die),
        1 => item().prop_map(Step::CutOff),
        1 => (item(), any::<bool>()).prop_map(|(n, good)| Step::Gates(n, good)),
        1 => (item(), any::<bool>()).prop_map(|(n, dirty)| Step::Dirty(n, dirty)),
        3 => item().prop_map(Step::Merge),
        2 => (item(), merge_failures()).prop_map(|(n, kind)| Step::MergeFails(n, kind)),
    ];
    let people = prop_oneof![
        6 => item().prop_map(Step::Start),
        1 => item().prop_map(Step::Stop),
        1 => item().prop_map(Step::Delete),
        1 => (item(), item()).prop_map(|(n, on)| Step::Depend(n, on)),
        1 => item().prop_map(Step::Hurry),
        6 => (item(), by_a_person()).prop_map(|(n, event)| Step::Person(n, event)),
    ];
    prop::collection::vec(prop_oneof![3 => loops, 3 => agents, 2 => people], 1..80)
}

/// What an agent of a role reports when all is well, or when it is not.
fn report_of(role: Role, good: bool) -> MailType {
    match (role, good) {
        (Role::Qa, true) => MailType::QaPassed,
        (Role::Qa, false) => MailType::QaFailed,
        (Role::Mergemaster, true) => MailType::Merged,
        (Role::Mergemaster, false) => MailType::MergeFailed,
        (Role::Coder | Role::Lead | Role::Scout | Role::Reviewer, _) => MailType::WorkerDone,
    }
}

/// Ends the agent of an item, if it has one that is to work.
fn end(bench: &Bench, id: ItemId, report: Option<bool>, how: TurnEnd) {
    if let Some(session) = bench.live(id).filter(|session| session.pending_prompt.is_some()) {
        bench.end_turn(id, report.map(|good| report_of(session.role, good)), how);
    }
}

fn stop_strays(bench: &Bench, outside: Outside) -> Vec<Due> {
    for stray in outside.strays {
        end(bench, stray.item, None, TurnEnd::Stopped { why: stray.why });
    }
    outside.due
}

async fn carry_out(bench: &mut Bench, ids: &[ItemId], looks: &mut Vec<Due>, step: &Step) {
    // What is illegal is refused; that is tested elsewhere.
    match step {
        Step::Pass => {
            let outside = bench.pass().await;
            stop_strays(bench, outside);
        }
        Step::Look(n) => {
            let due = bench.pass().await.due;
            looks.extend(due.into_iter().filter(|due| due.item.id == ids[*n]));
        }
        Step::LookEnds => {
            if !looks.is_empty() {
                let due = looks.remove(0);
                bench.service.check(due, &CancellationToken::new()).await;
            }
        }
        Step::Crash => looks.clear(),
        Step::Report(n) => end(bench, ids[*n], Some(true), TurnEnd::Clean),
        Step::Complain(n) => end(bench, ids[*n], Some(false), TurnEnd::Clean),
        Step::Die(n) => end(bench, ids[*n], None, TurnEnd::Stalled),
        Step::CutOff(n) => end(bench, ids[*n], None, TurnEnd::CutOff),
        Step::Gates(n, good) => set_gates(bench, ids[*n], *good),
        Step::Dirty(n, dirty) => {
            let files: &[&str] = if *dirty { &["notes.txt"] } else { &[] };
            bench.worktree(ids[*n], Some("c0ffee11"), files);
        }
        Step::Merge(n) => {
            if bench.queued(ids[*n]) {
                bench.merge_answers(Event::Merged { item: ids[*n], commit: "f00d".to_owned() });
            }
        }
        Step::MergeFails(n, kind) => {
            if bench.queued(ids[*n]) {
                bench.merge_fails(ids[*n], kind.clone());
            }
        }
        Step::Wait => bench.wait_ms(20_000),
        Step::Start(_)
        | Step::Stop(_)
        | Step::Delete(_)
        | Step::Depend(..)
        | Step::Hurry(_)
        | Step::Person(..) => a_person_acts(bench, ids, step),
    }
}

fn a_person_acts(bench: &Bench, ids: &[ItemId], step: &Step) {
    let ids: Vec<ItemId> = ids.to_vec();
    let step = step.clone();
    let _ = bench.write(move |tx| {
        match step {
            Step::Start(n) => start(tx, ids[n], None, &person()).map(drop)?,
            Step::Stop(n) => stop(tx, ids[n], &person()).map(drop)?,
            Step::Delete(n) => delete(tx, ids[n], &person())?,
            Step::Depend(n, on) => {
                let depends_on = Some(vec![ids[on]]);
                let change = ItemChange { depends_on, ..ItemChange::default() };
                update(tx, ids[n], None, change, &person()).map(drop)?;
            }
            Step::Hurry(n) => {
                let change = ItemChange { priority: Some(5), ..ItemChange::default() };
                update(tx, ids[n], None, change, &person()).map(drop)?;
            }
            Step::Person(n, event) => {
                apply(tx, ids[n], &event, &person(), "a person").map(drop)?;
            }
            Step::Pass
            | Step::Look(_)
            | Step::LookEnds
            | Step::Crash
            | Step::Report(_)
            | Step::Complain(_)
            | Step::Die(_)
            | Step::CutOff(_)
            | Step::Gates(..)
            | Step::Dirty(..)
            | Step::Merge(_)
            | Step::MergeFails(..)
            | Step::Wait => {}
        }
        Ok(())
    });
}

fn set_gates(bench: &Bench, id: ItemId, good: bool) {
    if good {
        bench.world.gates.lock().unwrap().remove(&id);
    } else {
        bench.gates_fail(id, 1);
    }
}

fn present(bench: &Bench, id: ItemId) -> Option<Item> {
    bench.read(|conn| Ok(items::find(conn, id)?))
}

fn check_invariants(bench: &Bench, ids: &[ItemId]) {
    let live = bench.read(|conn| Ok(sessions::live_sessions(conn)?));
    let unread = bench.read(|conn| {
        let read = log::position(conn, "work.merges", log::Log::Events)?;
        Ok(log::events_after(conn, read, 1000)?)
    });
    for id in ids {
        let mine = live.iter().filter(|session| session.item == *id).count();
        assert!(mine <= 1, "{mine} agents work on {id}");
        check_log(bench, *id);
        let Some(item) = present(bench, *id) else {
            assert_eq!(mine, 0, "{id} is deleted, and an agent works on it");
            continue;
        };
        check_row(bench, &item);
        let answered = unread.iter().any(|row| {
            matches!(&row.event, Event::Merged { item, .. } | Event::MergeFailed { item, .. }
                if item == id)
        });
        if matches!(item.stage, Stage::Merge { .. }) {
            assert!(bench.queued(*id) || answered, "{id} is in Merge and nobody merges it");
        } else {
            assert!(!bench.queued(*id), "{id} is queued in {}", item.stage.name());
        }
        if let Some(agent) = item.stage.claim() {
            let sessions = bench.read(|conn| Ok(sessions::sessions_of_item(conn, *id)?));
            let newest = sessions.last().map(|session| &session.agent);
            assert_eq!(newest, Some(agent), "{id} is claimed without a session");
        }
    }
    for agent in ["coder-1", "coder-2", "qa-1", "merger-1"] {
        let busy = live.iter().filter(|session| session.agent.as_str() == agent).count();
        assert!(busy <= 1, "{agent} works on {busy} items");
    }
}

/// What is stored beside the stage is what the stage says.
fn check_row(bench: &Bench, item: &Item) {
    let id = item.id;
    let stored: (String, String, String) = bench.read(|conn| {
        Ok(conn.query_row(
            "SELECT stage_name, col, badge FROM items WHERE id = ?1",
            [id],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?)
    });
    let stage = &item.stage;
    let derived = (stage.name(), stage.column().as_str(), stage.badge().as_str());
    assert_eq!((stored.0.as_str(), stored.1.as_str(), stored.2.as_str()), derived);
    if let Some(retries) = stage.retries() {
        assert_eq!(item.retries, retries, "{id}");
    }
}

/// The log of an item is one history without a gap, and keeps what was promised.
fn check_log(bench: &Bench, id: ItemId) {
    let moves = bench.read(|conn| Ok(log::transitions_of(conn, id)?));
    for pair in moves.windows(2) {
        assert_eq!(Some(&pair[0].to), pair[1].from.as_ref(), "{id}: a move is missing");
    }
    for moved in &moves {
        let Some(from) = &moved.from else { continue };
        // A deletion is written as an end of its own kind, whatever stood there.
        if moved.cause.starts_with("deleted by") {
            continue;
        }
        if let Stage::Frozen { resume_to } = from
            && !moved.to.is_terminal()
        {
            assert_eq!(moved.to, **resume_to, "{id} thaws to something else");
        }
        if from.is_terminal() && !moved.to.is_terminal() {
            assert!(matches!(moved.to, Stage::Upcoming | Stage::Backlog), "{id}: {moved:?}");
            assert!(!from.meets_dependency(), "{id} was finished: {moved:?}");
        }
        if from.column() != moved.to.column() {
            assert_eq!(moved.to.retries().unwrap_or(0), 0, "{id}: {moved:?}");
        }
    }
}

/// Undisturbed from here on, every item comes to rest: none is forgotten.
async fn all_come_to_rest(bench: &mut Bench, ids: &[ItemId]) {
    for _ in 0..40 {
        let outside = bench.pass().await;
        stop_strays(bench, outside);
        for id in ids.iter().copied() {
            set_gates(bench, id, true);
            bench.worktree(id, Some("c0ffee11"), &[]);
            end(bench, id, Some(true), TurnEnd::Clean);
            if bench.queued(id) {
                bench.merge_answers(Event::Merged { item: id, commit: "f00d".to_owned() });
            }
            let _ = bench.write(move |tx| apply(tx, id, &StageEvent::Approved, &person(), "fine"));
        }
        bench.settle().await;
        bench.wait_ms(40_000);
    }
    for id in ids {
        let Some(item) = present(bench, *id) else { continue };
        let stage = item.stage;
        let at_rest = stage.is_terminal()
            || matches!(
                stage,
                Stage::Upcoming
                    | Stage::Backlog
                    | Stage::Blocked { .. }
                    | Stage::Frozen { .. }
                    | Stage::MergeFailureFinal { .. }
            );
        assert!(at_rest, "{id} hangs in {stage:?}");
    }
    let live = bench.read(|conn| Ok(sessions::live_sessions(conn)?));
    assert!(live.is_empty(), "agents without work: {live:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_makes_two_agents_of_one_or_forgets_an_item(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::with(MORE);
            let first = bench.file(|_| {});
            let ids: [ItemId; ITEMS] = [
                first,
                bench.file(|new| new.qa = Some(QaMode::Agent)),
                bench.file(|new| new.qa = Some(QaMode::Human)),
                bench.file(|new| new.depends_on = vec![first]),
            ];
            for id in ids {
                bench.worktree(id, Some("c0ffee11"), &[]);
            }
            let mut looks = Vec::new();
            for step in &steps {
                carry_out(&mut bench, &ids, &mut looks, step).await;
                check_invariants(&bench, &ids);
            }
            all_come_to_rest(&mut bench, &ids).await;
        });
    }
}
