//! Whatever happens in whatever order: one agent an item, one item an agent, nothing forgotten.

use super::*;
use crate::work::settle::Due;
use proptest::prelude::*;

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
    Report(usize),
    Die(usize),
    CutOff(usize),
    Start(usize),
    Stop(usize),
    Freeze(usize),
    Thaw(usize),
    Merge(usize),
    MergeFails(usize),
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let item = 0..3usize;
    let step = prop_oneof![
        6 => Just(Step::Pass),
        3 => item.clone().prop_map(Step::Look),
        3 => Just(Step::LookEnds),
        1 => Just(Step::Crash),
        4 => item.clone().prop_map(Step::Report),
        1 => item.clone().prop_map(Step::Die),
        1 => item.clone().prop_map(Step::CutOff),
        3 => item.clone().prop_map(Step::Start),
        1 => item.clone().prop_map(Step::Stop),
        1 => item.clone().prop_map(Step::Freeze),
        1 => item.clone().prop_map(Step::Thaw),
        2 => item.clone().prop_map(Step::Merge),
        1 => item.prop_map(Step::MergeFails),
        2 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 1..80)
}

/// Ends the agent of an item, if it has one that is to work.
fn end(bench: &Bench, id: ItemId, report: Option<MailType>, how: TurnEnd) {
    if bench.live(id).is_some_and(|session| session.pending_prompt.is_some()) {
        bench.end_turn(id, report, how);
    }
}

async fn carry_out(bench: &mut Bench, ids: &[ItemId], looks: &mut Vec<Due>, step: &Step) {
    // What is illegal is refused; that is tested elsewhere.
    let apply_it = |bench: &Bench, id: ItemId, event: StageEvent| {
        let _ = bench.write(move |tx| apply(tx, id, &event, &person(), "a person"));
    };
    match step {
        Step::Pass => {
            for (item, why) in bench.pass().await.strays {
                end(bench, item, None, TurnEnd::Stopped { why });
            }
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
        Step::Report(n) => end(bench, ids[*n], Some(MailType::WorkerDone), TurnEnd::Clean),
        Step::Die(n) => end(bench, ids[*n], None, TurnEnd::Stalled),
        Step::CutOff(n) => end(bench, ids[*n], None, TurnEnd::CutOff),
        Step::Start(n) => {
            let id = ids[*n];
            let _ = bench.write(move |tx| start(tx, id, None, &person()));
        }
        Step::Stop(n) => {
            let id = ids[*n];
            let _ = bench.write(move |tx| stop(tx, id, &person()));
        }
        Step::Freeze(n) => apply_it(bench, ids[*n], StageEvent::Frozen),
        Step::Thaw(n) => apply_it(bench, ids[*n], StageEvent::Unfrozen),
        Step::Merge(n) => {
            if bench.queued(ids[*n]) {
                bench.merge_answers(Event::Merged { item: ids[*n], commit: "f00d".to_owned() });
            }
        }
        Step::MergeFails(n) => {
            if bench.queued(ids[*n]) {
                bench.merge_fails(ids[*n], MergeFailureKind::BaseMoved);
            }
        }
        Step::Wait => bench.wait_ms(20_000),
    }
}

fn check_invariants(bench: &Bench, ids: &[ItemId]) {
    let live = bench.read(|conn| Ok(sessions::live_sessions(conn)?));
    for id in ids {
        let item = bench.item(*id);
        let mine = live.iter().filter(|session| session.item == *id).count();
        assert!(mine <= 1, "{mine} agents work on {id}");
        let events = bench.read(|conn| {
            let read = log::position(conn, "work.merges", log::Log::Events)?;
            Ok(log::events_after(conn, read, 1000)?)
        });
        let answered = events.iter().any(|row| {
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
    for agent in ["coder-1", "coder-2"] {
        let busy = live.iter().filter(|session| session.agent.as_str() == agent).count();
        assert!(busy <= 1, "{agent} works on {busy} items");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_makes_two_agents_of_one_or_forgets_an_item(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::with("[limits]\nmax_starts_per_minute = 1000\n");
            let ids = [bench.file(|_| {}), bench.file(|_| {}), bench.file(|_| {})];
            for id in ids {
                bench.worktree(id, Some("c0ffee11"), &[]);
            }
            let mut looks = Vec::new();
            for step in &steps {
                carry_out(&mut bench, &ids, &mut looks, step).await;
                check_invariants(&bench, &ids);
            }
            // Undisturbed from here on, every item comes to rest: none is forgotten.
            for _ in 0..30 {
                for (item, why) in bench.pass().await.strays {
                    end(&bench, item, None, TurnEnd::Stopped { why });
                }
                for id in ids {
                    end(&bench, id, Some(MailType::WorkerDone), TurnEnd::Clean);
                    if bench.queued(id) {
                        bench.merge_answers(Event::Merged { item: id, commit: "f00d".to_owned() });
                    }
                }
                bench.settle().await;
                bench.wait_ms(40_000);
            }
            for id in ids {
                let stage = bench.item(id).stage;
                let at_rest = matches!(
                    stage,
                    Stage::Backlog | Stage::Done { .. } | Stage::Archived { .. }
                        | Stage::Blocked { .. } | Stage::Frozen { .. }
                        | Stage::MergeFailureFinal { .. }
                );
                assert!(at_rest, "{id} hangs in {stage:?}");
            }
        });
    }
}
