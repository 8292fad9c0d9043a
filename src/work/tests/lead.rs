//! Leads, their child items, and items that end without a commit.

use super::*;
use crate::model::agent::{Role, Waiting, WaitingFor};
use crate::store::mail::{self, Filter};

const MORE: &str = r#"
[[agents]]
name = "lead-1"
role = "lead"
runtime = "replay"
[[agents]]
name = "scout-1"
role = "scout"
runtime = "replay"
[limits]
max_agents = 1
max_starts_per_minute = 1000
"#;

fn bench() -> Bench {
    Bench::with(MORE)
}

fn lead() -> AgentName {
    "lead-1".into()
}

/// As the lead's tools carry it out.
fn by_lead() -> Origin {
    Origin::new(OriginKind::Agent, "lead-1", from_millis(BEGIN_MS)).unwrap()
}

/// An item that `lead-1` leads.
async fn led(bench: &Bench) -> ItemId {
    let id = bench.file(|new| new.agent = Some(lead()));
    bench.start(id);
    bench.pass().await;
    let session = bench.live(id).expect("the lead is started");
    assert_eq!((session.agent, session.role), (lead(), Role::Lead));
    id
}

impl Bench {
    fn hand_out(&self, parent: ItemId, change: impl FnOnce(&mut NewItem)) -> ItemId {
        let mut new = story("A piece");
        new.origin = by_lead();
        change(&mut new);
        self.write(move |tx| file_child(tx, &lead(), parent, new, None)).unwrap().id
    }

    fn start_piece(&self, parent: ItemId, id: ItemId) -> Result<Item, WorkError> {
        self.write(move |tx| start_child(tx, &lead(), parent, id, None, &by_lead()))
    }

    /// The lead ends its turn and waits, as the turn runner writes it.
    fn lead_waits(&self, id: ItemId) {
        let session = self.live(id).unwrap().id;
        let waiting = Waiting { what: WaitingFor::Children, until: None, detail: String::new() };
        self.write(move |tx| {
            sessions::begin_turn(tx, session)?;
            sessions::move_state(tx, session, SessionState::BetweenTurns)?;
            sessions::move_to_waiting(tx, session, &waiting)?;
            Ok(())
        })
        .unwrap();
    }

    /// The mail to the lead, oldest first: type, subject, and the end of its text.
    fn letters(&self, to: &str) -> Vec<(MailType, String, String)> {
        let filter = Filter { to: Some(to.to_owned()), ..Filter::default() };
        let mut letters = self.read(|conn| Ok(mail::list(conn, &filter)?));
        letters.reverse();
        letters.into_iter().map(|mail| (mail.kind, mail.subject, mail.body)).collect()
    }

    fn fact(&self, id: ItemId, event: StageEvent) {
        self.write(move |tx| apply(tx, id, &event, &person(), "a person")).unwrap();
    }
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, WorkError>) -> String {
    outcome.unwrap_err().to_string()
}

#[tokio::test]
async fn a_lead_hands_out_parts_of_its_own_item_and_nothing_else() {
    let bench = bench();
    let id = led(&bench).await;
    let other = bench.file(|_| {});
    let child = bench.hand_out(id, |_| {});
    let filed = bench.item(child);
    assert_eq!((filed.parent, filed.project.as_str()), (Some(id), "demo"));
    let try_with =
        |by: &str, parent: ItemId, pinned: Option<Role>, change: &dyn Fn(&mut NewItem)| {
            let mut new = story("x");
            new.origin = by_lead();
            change(&mut new);
            let by = AgentName::from(by);
            refusal(bench.write(move |tx| file_child(tx, &by, parent, new, pinned)))
        };
    for (said, part) in [
        (try_with("coder-1", id, None, &|_| {}), "is not yours"),
        (try_with("lead-1", other, None, &|_| {}), "is not yours"),
        (
            try_with("lead-1", id, None, &|new| new.project = "shop".into()),
            "the project of its parent",
        ),
        (try_with("lead-1", id, None, &|new| new.kind = Kind::Epic), "no agent works on an epic"),
        (
            try_with("lead-1", id, None, &|new| new.depends_on = vec![id]),
            "no child can depend on it",
        ),
        (try_with("lead-1", id, Some(Role::Lead), &|_| {}), "not by a lead"),
        (try_with("lead-1", id, Some(Role::Qa), &|_| {}), "not by a qa"),
        (refusal(bench.start_piece(id, other)), "is no child of item"),
    ] {
        assert!(said.contains(part), "{said}");
    }
    for _ in 1..20 {
        bench.hand_out(id, |_| {});
    }
    let flood = try_with("lead-1", id, None, &|_| {});
    assert!(flood.contains("20 child items"), "{flood}");
}

#[tokio::test]
async fn a_part_is_checked_as_strictly_as_the_whole() {
    let bench = bench();
    let id = led(&bench).await;
    bench
        .write(move |tx| {
            let change = ItemChange { qa: Some(QaMode::Human), ..ItemChange::default() };
            update(tx, id, None, change, &person())
        })
        .unwrap();
    let child = bench.hand_out(id, |new| new.qa = Some(QaMode::Gates));
    assert_eq!(bench.item(child).qa, QaMode::Human);
}

#[tokio::test]
async fn depth_is_one_a_child_is_not_split_again() {
    let bench = bench();
    let id = led(&bench).await;
    let child = bench.hand_out(id, |_| {});
    // Whoever pins a lead to it, and however that lead came by it.
    bench
        .write(move |tx| {
            start(tx, child, Some(&lead()), &person())?;
            apply(tx, child, &StageEvent::Claimed { agent: lead() }, &person(), "took it")
        })
        .unwrap();
    let mut new = story("x");
    new.origin = by_lead();
    let said = refusal(bench.write(move |tx| file_child(tx, &lead(), child, new, None)));
    assert!(said.contains("is not split again"), "{said}");
}

#[tokio::test]
async fn a_waiting_lead_leaves_its_place_to_its_children() {
    let bench = bench();
    let id = led(&bench).await;
    let child = bench.hand_out(id, |_| {});
    bench.start_piece(id, child).unwrap();
    bench.pass().await;
    assert!(bench.live(child).is_none(), "the lead holds the only place");
    bench.lead_waits(id);
    bench.pass().await;
    assert_eq!(bench.live(child).unwrap().role, Role::Coder);
}

#[tokio::test]
async fn what_ends_or_holds_up_a_child_is_mail_to_its_lead_once() {
    let bench = bench();
    let id = led(&bench).await;
    let children: Vec<ItemId> = (0..6).map(|_| bench.hand_out(id, |_| {})).collect();
    let at = from_millis(BEGIN_MS);
    bench.fact(children[0], StageEvent::Merged { commit: "f00d".to_owned(), at });
    bench.fact(children[1], StageEvent::Blocked { reason: "no disk".to_owned() });
    bench.fact(children[2], StageEvent::Abandoned { reason: "no use".to_owned() });
    bench.fact(children[3], StageEvent::Rejected { reason: "ugly".to_owned() });
    bench.fact(children[4], StageEvent::Frozen);
    let gone = children[5];
    bench.write(move |tx| delete(tx, gone, &person())).unwrap();
    let death = Event::WorkerDied {
        session: crate::model::ids::AgentSessionId(99),
        agent: "coder-1".into(),
        item: children[1],
        reason: "it crashed".to_owned(),
        seen_by: "runner".to_owned(),
    };
    bench.write(move |tx| Ok(log::append_event(tx, &death)?)).unwrap();
    for _ in 0..3 {
        bench.pass().await;
    }
    let letters = bench.letters("lead-1");
    let heads: Vec<String> =
        letters.iter().map(|(kind, subject, _)| format!("{} {subject}", kind.as_str())).collect();
    insta::assert_snapshot!(heads.join("\n"), @r"
    merged #2 is done and merged
    escalation #3 is blocked: no disk
    status #4 was abandoned: no use
    status #5 was rejected: ugly
    status #6 was put on ice by a person
    status #7 was abandoned: deleted by @you:hs
    worker_died #3: coder-1 ended without a report
    ");
    assert!(
        letters[0].2.contains("Still open:\n- #3 A piece: blocked: no disk"),
        "{}",
        letters[0].2
    );
}

#[tokio::test]
async fn a_death_without_a_lead_is_told_the_coordinator() {
    let bench = bench();
    let id = bench.file(|_| {});
    let death = Event::WorkerDied {
        session: crate::model::ids::AgentSessionId(99),
        agent: "coder-1".into(),
        item: id,
        reason: "it crashed".to_owned(),
        seen_by: "runner".to_owned(),
    };
    bench.write(move |tx| Ok(log::append_event(tx, &death)?)).unwrap();
    bench.pass().await;
    bench.pass().await;
    let letters = bench.letters("coordinator");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].2.contains("it crashed"), "{letters:?}");
}

#[tokio::test]
async fn a_leads_item_is_finished_when_it_reports_and_its_children_are_done() {
    let bench = bench();
    let id = led(&bench).await;
    let waiting = bench.file(|new| new.depends_on = vec![id]);
    let child = bench.hand_out(id, |_| {});
    // Reported too early: it is told what is open, once.
    bench.report_done(id);
    bench.settle().await;
    assert!(
        bench.prompt(id).contains(&format!("#{child} A piece: not started")),
        "{}",
        bench.prompt(id)
    );
    let merged = StageEvent::Merged { commit: "f00d".to_owned(), at: from_millis(BEGIN_MS) };
    bench.fact(child, merged);
    bench.report_done(id);
    bench.settle().await;
    let stage = bench.item(id).stage;
    assert!(
        matches!(
            stage,
            Stage::Archived { reason: crate::model::stage::ArchiveReason::Finished, .. }
        ),
        "{stage:?}"
    );
    let heard = bench.heard();
    let said = format!("is finished: its child items are done (#{child}). lead-1: looked at it");
    assert!(heard.iter().any(|text| text.contains(&said)), "{heard:#?}");
    bench.settle().await;
    assert_eq!(bench.item(waiting).stage.name(), "coding", "it meets a dependency");
}

#[tokio::test]
async fn a_lead_that_hands_out_nothing_or_insists_leaves_the_item_to_a_person() {
    let bench = bench();
    let idle = led(&bench).await;
    bench.report_done(idle);
    bench.settle().await;
    let Stage::Blocked { reason, .. } = bench.item(idle).stage else { panic!("not blocked") };
    assert!(reason.contains("lead-1 reported, but handed nothing out: looked at it"), "{reason}");

    let id = led(&bench).await;
    let child = bench.hand_out(id, |_| {});
    for _ in 0..2 {
        bench.report_done(id);
        bench.settle().await;
    }
    let Stage::Blocked { reason, .. } = bench.item(id).stage else { panic!("not blocked") };
    assert!(reason.contains("also after it was told so"), "{reason}");
    assert_eq!(bench.item(child).stage, Stage::Backlog, "its child is untouched");
}

#[tokio::test]
async fn a_lead_starts_a_failed_child_twice_and_one_that_a_person_stopped_not_at_all() {
    let bench = bench();
    let id = led(&bench).await;
    let child = bench.hand_out(id, |_| {});
    let block = |bench: &Bench| {
        let blocked = StageEvent::Blocked { reason: "it does not build".to_owned() };
        let system = Origin::new(OriginKind::System, "musher", from_millis(BEGIN_MS)).unwrap();
        bench.write(move |tx| apply(tx, child, &blocked, &system, "no")).unwrap();
    };
    bench.start_piece(id, child).unwrap();
    for _ in 0..2 {
        block(&bench);
        bench.start_piece(id, child).unwrap();
    }
    block(&bench);
    let said = refusal(bench.start_piece(id, child));
    assert!(said.contains("2 times again: ask a person"), "{said}");
    // A person may, and may stop it.
    bench.start(child);
    bench.write(move |tx| stop(tx, child, &person())).unwrap();
    let said = refusal(bench.start_piece(id, child));
    assert!(said.contains("a person stopped item"), "{said}");
}

#[tokio::test]
async fn nothing_would_wake_a_lead_that_waits_for_nothing() {
    let bench = bench();
    let id = led(&bench).await;
    let why = |bench: &Bench| bench.read(|conn| cannot_wait(conn, id));
    assert!(why(&bench).unwrap().contains("no open child item"));
    let first = bench.hand_out(id, |_| {});
    bench.hand_out(id, |new| new.depends_on = vec![first]);
    assert_eq!(why(&bench), None, "the second starts by itself when the first is done");
    bench.fact(first, StageEvent::Abandoned { reason: "no".to_owned() });
    assert!(why(&bench).unwrap().contains("goes on by itself"), "its dependency is dead");
}

#[tokio::test]
async fn a_scouts_report_ends_its_item_without_a_commit() {
    let bench = bench();
    let id = bench.file(|new| new.agent = Some("scout-1".into()));
    bench.start(id);
    bench.pass().await;
    assert_eq!(bench.live(id).unwrap().role, Role::Scout);
    assert!(bench.prompt(id).contains("change nothing"), "{}", bench.prompt(id));
    // Whatever lies in its worktree.
    bench.worktree(id, None, &["scratch.txt"]);
    bench.report_done(id);
    bench.settle().await;
    let item = bench.item(id);
    assert!(item.stage.meets_dependency(), "{:?}", item.stage);
    let heard = bench.heard();
    assert!(
        heard.iter().any(|text| text.contains("scout-1 reported.\n\nlooked at it")),
        "{heard:#?}"
    );
    assert_eq!(*bench.world.removed.lock().unwrap(), [id], "its worktree goes, rescued first");
}

#[tokio::test]
async fn the_children_of_a_deleted_item_stand_alone() {
    let bench = bench();
    let id = led(&bench).await;
    let child = bench.hand_out(id, |_| {});
    bench.write(move |tx| stop(tx, id, &person())).unwrap();
    bench.end_turn(id, None, TurnEnd::Stopped { why: "stopped".to_owned() });
    bench.write(move |tx| delete(tx, id, &person())).unwrap();
    assert_eq!(bench.item(child).parent, None);
    bench.start(child);
    bench.fact(child, StageEvent::Blocked { reason: "no disk".to_owned() });
    bench.pass().await;
    assert!(bench.letters("lead-1").is_empty(), "there is no lead to tell");
}

#[tokio::test]
async fn a_scout_that_ends_without_a_report_is_started_once_more_and_then_a_person_must_look() {
    let mut bench = bench();
    let id = bench.file(|new| new.agent = Some("scout-1".into()));
    bench.start(id);
    bench.settle().await;
    for _ in 0..2 {
        bench.end_turn(id, None, TurnEnd::Clean);
        bench.wait_ms(60_000);
        bench.settle().await;
    }
    let Stage::Blocked { reason, .. } = bench.item(id).stage else { panic!("not blocked") };
    assert_eq!(reason, "scout-1 ended without reporting, also after it was started again");
}
