//! Epics: what may be part of one, how far it is, and how it ends.

use super::*;

impl Bench {
    fn epic(&self) -> ItemId {
        self.file(|new| {
            new.kind = Kind::Epic;
            new.name = "Checkout".to_owned();
        })
    }

    fn change(&self, id: ItemId, change: ItemChange) -> Result<Item, WorkError> {
        self.write(move |tx| update(tx, id, None, change, &person()))
    }

    fn put_into(&self, id: ItemId, epic: ItemId) -> Result<Item, WorkError> {
        self.change(id, ItemChange { epic: Some(Some(epic)), ..ItemChange::default() })
    }

    fn have_wait(&self, id: ItemId, on: ItemId) -> Result<Item, WorkError> {
        self.change(id, ItemChange { depends_on: Some(vec![on]), ..ItemChange::default() })
    }

    fn happens(&self, id: ItemId, event: StageEvent) {
        self.write(move |tx| apply(tx, id, &event, &person(), "by hand")).unwrap();
    }

    fn finish(&self, id: ItemId) {
        self.happens(id, StageEvent::Merged { commit: "f00d".to_owned(), at: from_millis(0) });
    }
}

#[tokio::test]
async fn an_epic_closes_by_itself_when_all_of_it_is_done_and_lets_go_on_what_waited_for_it() {
    let bench = Bench::new();
    let epic = bench.epic();
    bench.settle().await;
    assert_eq!(bench.item(epic).stage, Stage::Backlog, "an empty one stays open");
    let parts = [bench.file(|new| new.epic = Some(epic)), bench.file(|new| new.epic = Some(epic))];
    let waits = bench.file(|new| new.depends_on = vec![epic]);
    bench.finish(parts[0]);
    bench.settle().await;
    assert_eq!(bench.item(epic).stage, Stage::Backlog);
    assert_eq!(progress_in_words(&bench.read(|conn| progress(conn, epic))), "1 of 2 done");
    assert!(bench.live(waits).is_none());
    bench.finish(parts[1]);
    bench.settle().await;
    assert!(bench.item(epic).stage.meets_dependency(), "{:?}", bench.item(epic).stage);
    assert!(bench.live(waits).is_some(), "what waited for the epic has started");
    let heard = bench.heard().join("\n");
    assert!(
        heard.contains("🎉 **#1 Checkout** is finished: all 2 of its items are done."),
        "{heard}"
    );
    let why = bench.read(|conn| explain(conn, epic));
    assert!(why.contains("all 2 of its items are done"), "{why}");
}

#[tokio::test]
async fn what_was_given_up_keeps_its_epic_open_until_a_person_takes_it_out() {
    let bench = Bench::new();
    let epic = bench.epic();
    let parts = [bench.file(|new| new.epic = Some(epic)), bench.file(|new| new.epic = Some(epic))];
    bench.finish(parts[0]);
    bench.happens(parts[1], StageEvent::Abandoned { reason: "no".to_owned() });
    bench.settle().await;
    assert_eq!(bench.item(epic).stage, Stage::Backlog);
    let progress = bench.read(|conn| progress(conn, epic));
    assert_eq!(progress_in_words(&progress), "1 of 2 done, 1 given up");
    bench.change(parts[1], ItemChange { epic: Some(None), ..ItemChange::default() }).unwrap();
    bench.settle().await;
    assert!(bench.item(epic).stage.meets_dependency());
}

#[tokio::test]
async fn a_frozen_epic_stays_as_it_is() {
    let bench = Bench::new();
    let epic = bench.epic();
    let part = bench.file(|new| new.epic = Some(epic));
    bench.happens(epic, StageEvent::Frozen);
    bench.finish(part);
    bench.settle().await;
    assert_eq!(bench.item(epic).stage.name(), "frozen");
}

#[tokio::test]
async fn circles_through_epics_and_other_nonsense_are_refused_in_words() {
    let bench = Bench::new();
    let (epic, other) = (bench.epic(), bench.epic());
    let part = bench.file(|new| new.epic = Some(epic));
    let waits = bench.file(|new| new.depends_on = vec![epic]);
    let done = bench.epic();
    let in_done = bench.file(|new| new.epic = Some(done));
    bench.finish(in_done);
    bench.settle().await;
    bench.put_into(other, epic).unwrap();
    let refusals = [
        bench.have_wait(part, epic),
        bench.put_into(waits, epic),
        bench.put_into(epic, other),
        bench.put_into(epic, epic),
        bench.put_into(waits, part),
        bench.put_into(waits, done),
    ];
    let refusals: Vec<String> =
        refusals.into_iter().map(|refused| refused.unwrap_err().to_string()).collect();
    insta::assert_snapshot!(refusals.join("\n"), @r#"
that would be a circle: 3 depends on 1 depends on 3. Leave one of these dependencies out
epic 1 would wait for item 4, which waits for it: 4 waits for 1. Take one of these dependencies away first
epic 2 would wait for item 1, which waits for it: 1 waits for 2. Take one of these dependencies away first
epic 1 cannot be part of itself
item 3 is a story, not an epic that could hold this one
epic 5 has ended (archived) and takes nothing more in: file another with `epic: NAME`
"#);
}

#[tokio::test]
async fn what_a_deleted_epic_held_stands_alone() {
    let bench = Bench::new();
    let epic = bench.epic();
    let part = bench.file(|new| new.epic = Some(epic));
    bench.write(move |tx| delete(tx, epic, &person())).unwrap();
    assert_eq!(bench.item(part).epic, None);
}
