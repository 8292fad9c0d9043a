//! `why`, for every reason that keeps an item from going on.

use super::*;
use crate::store::meta;
use crate::store::{costs, merge_predictions};

impl Bench {
    fn why(&self, more: &str, id: ItemId) -> String {
        let config: Config = toml::from_str(&format!("{CONFIG}{more}")).unwrap();
        let now = from_millis(self.now_ms);
        let text = self.read(|conn| why(conn, &config, now, id));
        text.split("\nHow that came about").next().unwrap().trim().to_owned()
    }

    /// An item that an agent holds and whose turn is about to start.
    async fn held(&self) -> ItemId {
        let id = self.file(|_| {});
        self.start(id);
        self.settle().await;
        assert!(self.live(id).is_some());
        id
    }
}

#[tokio::test]
async fn each_hold_of_the_pool_is_told() {
    let bench = Bench::new();
    let id = bench.held().await;
    let plain = bench.why("", id);
    assert!(!plain.contains("Held back"), "{plain}");
    let budget = "[limits]\nusd_per_day = 1.0\n";
    bench
        .write(|tx| {
            let cost = costs::Cost {
                source: costs::Source::Coordinator,
                name: "room".to_owned(),
                model: "m".to_owned(),
                item: None,
                project: None,
                usage: Usage::default(),
                microusd: 2_000_000,
            };
            Ok(costs::record(tx, &cost)?)
        })
        .unwrap();
    let mut told = vec![bench.why(budget, id)];
    let brake = "[limits]\nmax_starts_per_minute = 1\n";
    let other = bench.file(|_| {});
    bench.start(other);
    bench.settle().await;
    bench.end_turn(other, Some(MailType::WorkerDone), TurnEnd::Clean);
    told.push(bench.why(brake, id));
    bench
        .write(|tx| {
            let scope = Scope::Runtime(crate::config::RuntimeKind::Replay, None);
            crate::store::pauses::begin(tx, &scope, "it is not logged in: log in, then restart")?;
            tx.execute("UPDATE projects SET paused = 1", [])?;
            Ok(())
        })
        .unwrap();
    told.push(bench.why("", id));
    bench.write(|tx| Ok(meta::set(tx, meta::STOPPED_ALL, "@ann:hs")?)).unwrap();
    told.push(bench.why("", id));
    insta::assert_snapshot!(told.join("\n---\n"), @r#"
**#1 Add a calculator**: is given to coder-1 since 28 May 20:26 UTC, which begins as soon as it may.

Held back:
- today's $1.00 are spent ([limits] usd_per_day): nothing goes on until Fri 29 May, 00:00 (UTC)
---
**#1 Add a calculator**: is given to coder-1 since 28 May 20:26 UTC, which begins as soon as it may.

Held back:
- so many turns were started in the last minute: 1, and limits.max_starts_per_minute is 1
---
**#1 Add a calculator**: is given to coder-1 since 28 May 20:26 UTC, which begins as soon as it may.

Held back:
- project demo is paused: nothing starts in it
- Agents that run on replay are paused: it is not logged in: log in, then restart
---
**#1 Add a calculator**: is given to coder-1 since 28 May 20:26 UTC, which begins as soon as it may.

Held back:
- project demo is paused: nothing starts in it
- everything is stopped (by @ann:hs): `resume all` goes on
- Agents that run on replay are paused: it is not logged in: log in, then restart
"#);
}

#[tokio::test]
async fn an_item_that_waits_says_for_what() {
    let bench = Bench::new();
    let first = bench.file(|_| {});
    let later = bench.file(|new| new.depends_on = vec![first]);
    let review = bench.file(|new| new.project = "demo".into());
    let mut told = vec![bench.why("", first), bench.why("", later)];
    bench.start(review);
    bench.write(|tx| Ok(tx.execute("UPDATE projects SET paused = 1", [])?)).unwrap();
    bench.settle().await;
    told.push(bench.why("", review));
    insta::assert_snapshot!(told.join("\n---\n"), @r#"
**#1 Add a calculator**: is in the backlog and waits for somebody to say `start 1`.
---
**#2 Add a calculator**: is in the backlog: item 2 waits for 1 (backlog) and starts by itself when that is done.
---
**#3 Add a calculator**: waits, because project demo is paused.

Held back:
- project demo is paused: nothing starts in it
"#);
}

#[tokio::test]
async fn without_an_agent_of_the_role_it_says_so() {
    let bench = Bench::new();
    let id = bench.file(|new| new.qa = Some(QaMode::Agent));
    bench.start(id);
    let config: Config = toml::from_str("[llm]\nprovider = \"replay\"\n").unwrap();
    let service = WorkService::new(bench.store.clone(), Arc::new(config), bench.world.clone());
    service.pass().await.unwrap();
    let told = bench.why("", id);
    assert!(told.contains("waits for a coder, but none is configured for project demo"), "{told}");
}

#[tokio::test]
async fn a_conflict_that_a_trial_merge_foresees_is_told_and_shown() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.worktree(id, Some("c0ffee11"), &[]);
    bench.start(id);
    bench.settle().await;
    bench.report_done(id);
    bench.settle().await;
    let predict = |commit: &'static str| {
        bench
            .write(move |tx| {
                let files = vec!["src/total.rs".to_owned()];
                let outcome = merge_predictions::Outcome::Conflict { files };
                merge_predictions::put(tx, id, &"demo".into(), commit, "ba5e", &outcome)?;
                Ok(())
            })
            .unwrap();
    };
    let shown = || {
        let board = bench.read(|conn| overview(conn, &"demo".into(), BEGIN_MS));
        let entries = board.shelves.into_iter().flat_map(|shelf| shelf.entries);
        entries.filter_map(|entry| entry.conflicts).flatten().collect::<Vec<_>>()
    };
    predict("0ld");
    assert_eq!(shown(), Vec::<String>::new(), "that is about another commit");
    predict("c0ffee11");
    assert_eq!(shown(), ["src/total.rs"]);
    let told = bench.why("", id);
    assert!(told.contains("it would conflict in src/total.rs"), "{told}");
}

#[tokio::test]
async fn the_board_shows_the_top_of_a_column_and_counts_the_rest() {
    let bench = Bench::new();
    for number in 0..30 {
        let id = bench.file(|new| new.name = format!("item {number}"));
        if number == 29 {
            bench
                .write(move |tx| {
                    let change = ItemChange { priority: Some(5), ..ItemChange::default() };
                    update(tx, id, None, change, &person())
                })
                .unwrap();
        }
    }
    let board = bench.read(|conn| overview(conn, &"demo".into(), BEGIN_MS));
    assert_eq!((board.open, board.shelves.len(), board.shelves[0].items), (30, 1, 30));
    let shown = &board.shelves[0].entries;
    assert_eq!((shown.len(), shown[0].item.id, shown[1].item.id), (20, ItemId(30), ItemId(1)));
    assert!(shown.iter().all(|entry| entry.item.body.is_empty()), "bodies are not read");
    let other = bench.read(|conn| overview(conn, &"other".into(), BEGIN_MS));
    assert_eq!((other.open, other.shelves.len()), (0, 0));
}

#[tokio::test]
async fn what_cannot_be_started_is_not_told_to_be() {
    let bench = Bench::new();
    let epic = bench.file(|new| new.kind = Kind::Epic);
    let given_up = bench.file(|new| new.epic = Some(epic));
    let open = bench.file(|_| {});
    let both = bench.file(|new| new.depends_on = vec![given_up, open]);
    let no_use = StageEvent::Abandoned { reason: "no use".to_owned() };
    bench.write(move |tx| apply(tx, given_up, &no_use, &person(), "no")).unwrap();
    insta::assert_snapshot!([epic, both].map(|id| bench.why("", id)).join("\n---\n"), @r"
    **#1 Add a calculator**: is an epic (0 of 1 done, 1 given up): its items are worked on, and it closes by itself when they are done.
    ---
    **#4 Add a calculator**: is in the backlog: item 4 depends on 2 (abandoned), which ended without being merged: take that dependency away. Then it starts by itself when 3 (backlog) is done.
    ");
}

#[tokio::test]
async fn a_queued_item_is_held_back_by_a_stop_and_counts_no_pull_request_before_it() {
    let bench = Bench::new();
    let ids: Vec<ItemId> = (0..3).map(|_| bench.file(|_| {})).collect();
    for id in &ids {
        bench.worktree(*id, Some("c0ffee11"), &[]);
        bench.start(*id);
        bench.settle().await;
        bench.report_done(*id);
        bench.settle().await;
        assert!(bench.queued(*id));
    }
    let pull = |id: ItemId| crate::store::merge_pulls::Pull {
        item: id,
        branch: format!("item/{id}-x"),
        commit: "c0ffee11".to_owned(),
        url: format!("https://forge/{id}"),
        seen: String::new(),
    };
    for id in &ids[..2] {
        let pull = pull(*id);
        bench
            .write(move |tx| Ok(crate::store::merge_pulls::put(tx, &"demo".into(), &pull)?))
            .unwrap();
    }
    let mut told = vec![bench.why("", ids[0]), bench.why("", ids[2])];
    bench.write(|tx| Ok(meta::set(tx, meta::STOPPED_ALL, "@ann:hs")?)).unwrap();
    told.push(bench.why("", ids[2]));
    insta::assert_snapshot!(told.join("\n---\n"), @r"
    **#1 Add a calculator**: is in the merge queue with `c0ffee11`: its pull request is open: https://forge/1.
    ---
    **#3 Add a calculator**: is in the merge queue with `c0ffee11`: it is the next.
    ---
    **#3 Add a calculator**: is in the merge queue with `c0ffee11`: it is the next.

    Held back:
    - everything is stopped (by @ann:hs): `resume all`
    ");
}

#[tokio::test]
async fn why_an_item_waits_is_still_known_after_it_was_on_ice() {
    let mut bench = Bench::new();
    let id = bench.file(|new| new.project = "demo".into());
    let config: Config = toml::from_str("[llm]\nprovider = \"replay\"\n").unwrap();
    let service = WorkService::new(bench.store.clone(), Arc::new(config), bench.world.clone());
    bench.start(id);
    service.pass().await.unwrap();
    bench.wait_ms(1_000);
    bench.write(move |tx| apply(tx, id, &StageEvent::Frozen, &person(), "ice")).unwrap();
    service.pass().await.unwrap();
    bench.write(move |tx| apply(tx, id, &StageEvent::Unfrozen, &person(), "ice")).unwrap();
    service.pass().await.unwrap();
    let told = bench.why("", id);
    assert!(told.contains("waits for a coder, but none is configured for project demo"), "{told}");
    let heard: Vec<String> =
        bench.heard().into_iter().filter(|text| text.contains("none is configured")).collect();
    assert_eq!(heard.len(), 2, "a person must hear of it, once each time: {heard:?}");
}
