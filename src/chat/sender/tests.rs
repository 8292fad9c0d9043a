use super::*;
use crate::clock::Clock;
use crate::model::chat::Outgoing;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

/// A room server that behaves as a homeserver does: a repeated transaction id gives the first key.
#[derive(Default)]
struct Fake {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the rooms show: key, room, part.
    shown: Vec<(MessageKey, RoomKey, Part)>,
    taken: HashMap<String, MessageKey>,
    /// Answers to give instead of the true one; the message is taken all the same if `true`.
    answers: VecDeque<(bool, SendError)>,
    limit: usize,
    files_refused: bool,
}

impl Fake {
    fn answer(&self, taken: bool, error: SendError) {
        self.state.lock().unwrap().answers.push_back((taken, error));
    }

    fn shown(&self) -> Vec<(MessageKey, RoomKey, Part)> {
        self.state.lock().unwrap().shown.clone()
    }

    fn texts(&self) -> Vec<String> {
        self.shown()
            .into_iter()
            .map(|(_, _, part)| match part {
                Part::Message { markdown, .. } => markdown,
                Part::Edit { of, markdown, .. } => format!("{of}: {markdown}"),
                Part::Reaction { to, key } => format!("{to}: {key}"),
                Part::File { name, content, .. } => format!("{name}: {}", content.len()),
            })
            .collect()
    }
}

#[async_trait::async_trait]
impl Transport for Fake {
    fn serves(&self, room: &RoomKey) -> bool {
        room.as_str().starts_with('!')
    }

    async fn send(
        &self,
        txn_id: &str,
        session: &SessionKey,
        part: &Part,
    ) -> Result<MessageKey, SendError> {
        tokio::task::yield_now().await;
        let mut state = self.state.lock().unwrap();
        if state.files_refused && matches!(part, Part::File { .. }) {
            return Err(SendError::Permanent("uploads are off".to_owned()));
        }
        let answer = state.answers.pop_front();
        if answer.as_ref().is_none_or(|(taken, _)| *taken) && !state.taken.contains_key(txn_id) {
            let key = MessageKey(format!("${}", state.taken.len()));
            state.taken.insert(txn_id.to_owned(), key.clone());
            state.shown.push((key, session.room.clone(), part.clone()));
        }
        match answer {
            Some((_, error)) => Err(error),
            None => Ok(state.taken[txn_id].clone()),
        }
    }

    async fn typing(&self, _room: &RoomKey, _typing: bool) {}

    async fn receipt(&self, _session: &SessionKey, _key: &MessageKey) {}

    fn part_limit(&self) -> usize {
        self.state.lock().unwrap().limit
    }
}

struct Setup {
    _dir: tempfile::TempDir,
    store: Store,
    fake: Arc<Fake>,
    cancel: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Clock::system()).unwrap();
        let fake = Arc::new(Fake::default());
        fake.state.lock().unwrap().limit = 400;
        Self { _dir: dir, store, fake, cancel: CancellationToken::new(), task: None }
    }

    fn start(&mut self) {
        let sender = Sender::new(self.store.clone(), Arc::clone(&self.fake) as Arc<dyn Transport>);
        self.cancel = CancellationToken::new();
        self.task = Some(tokio::spawn(sender.run(self.cancel.clone())));
    }

    async fn stop(&mut self) {
        self.cancel.cancel();
        self.task.take().unwrap().await.unwrap();
    }

    async fn put(&self, room: &str, content: OutgoingContent) -> OutboxId {
        let session = SessionKey::main(room.into());
        let outgoing = Outgoing { session, content, item: None };
        self.store.write(move |tx| outbox::enqueue(tx, &outgoing, None)).await.unwrap()
    }

    async fn say(&self, room: &str, text: &str) -> OutboxId {
        self.put(room, message(text)).await
    }

    /// Waits until nothing is pending.
    async fn settled(&self) {
        let settled = async {
            while self.store.read(outbox::count_pending).await.unwrap() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), settled).await.is_err() {
            panic!("still pending; shown: {:?}", self.fake.texts());
        }
    }
}

fn message(text: &str) -> OutgoingContent {
    OutgoingContent::Message {
        markdown: text.to_owned(),
        weight: Weight::Text,
        mentions: vec!["@ann:hs".into()],
        reply_to: Some("$q".into()),
    }
}

fn edit(of: OutboxId, text: &str) -> OutgoingContent {
    OutgoingContent::Edit { of, markdown: text.to_owned(), weight: Weight::Text }
}

#[tokio::test]
async fn rows_are_posted_in_order_per_room_through_every_kind_of_trouble() {
    let mut setup = Setup::new();
    setup.fake.answer(false, SendError::RetryAfter(Duration::from_millis(20)));
    setup.fake.answer(true, SendError::Temporary("the answer was lost".to_owned()));
    setup.start();
    for number in 0..20 {
        setup.say(if number % 2 == 0 { "!a" } else { "!b" }, &number.to_string()).await;
    }
    setup.settled().await;
    let shown = setup.fake.shown();
    assert_eq!(shown.len(), 20);
    for room in ["!a", "!b"] {
        let numbers: Vec<i32> = shown
            .iter()
            .filter(|(_, of, _)| of.as_str() == room)
            .map(|(_, _, part)| match part {
                Part::Message { markdown, .. } => markdown.parse().unwrap(),
                Part::Edit { .. } | Part::Reaction { .. } | Part::File { .. } => panic!("{part:?}"),
            })
            .collect();
        assert!(numbers.is_sorted() && numbers.len() == 10, "{room}: {numbers:?}");
    }
    setup.stop().await;
}

#[tokio::test]
async fn a_kill_between_the_answer_and_its_note_posts_nothing_twice() {
    let mut setup = Setup::new();
    let long = format!("{}\n\n{}", "a".repeat(300), "b".repeat(300));
    let id = setup.say("!a", &long).await;
    // The first piece was taken, and so was the second, whose answer never came.
    setup.fake.answer(true, SendError::Temporary("killed".to_owned()));
    setup.start();
    setup.settled().await;
    setup.stop().await;
    assert_eq!(setup.fake.shown().len(), 2);
    // As if the process had died before it could mark the row.
    setup
        .store
        .write(move |tx| {
            tx.execute("UPDATE outbox SET state = 'pending', not_before = 0", [])?;
            tx.execute("DELETE FROM outbox_parts WHERE part = 1", [])?;
            Ok::<_, StoreError>(())
        })
        .await
        .unwrap();
    setup.start();
    setup.settled().await;
    setup.stop().await;
    assert_eq!(setup.fake.shown().len(), 2);
    let parts = setup.store.read(move |conn| outbox::parts_of(conn, id)).await.unwrap();
    assert_eq!(parts.len(), 2);
}

#[tokio::test]
async fn only_the_first_piece_mentions_and_replies() {
    let mut setup = Setup::new();
    setup.say("!a", &format!("{}\n\n{}", "a".repeat(300), "b".repeat(300))).await;
    setup.start();
    setup.settled().await;
    let flags: Vec<(usize, bool)> = setup
        .fake
        .shown()
        .into_iter()
        .map(|(_, _, part)| match part {
            Part::Message { mentions, reply_to, .. } => (mentions.len(), reply_to.is_some()),
            Part::Edit { .. } | Part::Reaction { .. } | Part::File { .. } => panic!("{part:?}"),
        })
        .collect();
    assert_eq!(flags, [(1, true), (0, false)]);
    setup.stop().await;
}

#[tokio::test]
async fn what_can_never_be_posted_is_kept_as_failed_and_the_room_goes_on() {
    let mut setup = Setup::new();
    setup.fake.answer(false, SendError::Permanent("no right to post".to_owned()));
    setup.say("!a", "first").await;
    setup.say("!a", "second").await;
    setup.start();
    setup.settled().await;
    assert_eq!(setup.fake.texts(), ["second"]);
    let failed = setup.store.read(|conn| outbox::failed(conn, 9)).await.unwrap();
    assert_eq!(failed[0].error, "no right to post");
    setup.stop().await;
}

#[tokio::test]
async fn an_edit_grows_and_shrinks_the_message_and_only_the_last_in_the_queue_counts() {
    let mut setup = Setup::new();
    let of = setup.say("!a", "short").await;
    setup.start();
    setup.settled().await;
    setup.stop().await;
    for step in 0..5 {
        setup.put("!a", edit(of, &format!("step {step}"))).await;
    }
    let long = format!("{}\n\n{}", "a".repeat(300), "b".repeat(300));
    setup.put("!a", edit(of, &long)).await;
    setup.start();
    setup.settled().await;
    setup.put("!a", edit(of, "short again")).await;
    setup.settled().await;
    setup.stop().await;
    let texts = setup.fake.texts();
    assert_eq!(texts.len(), 5, "{texts:?}");
    assert!(texts[1].starts_with("$0: aaa") && texts[2].starts_with("bbb"), "{texts:?}");
    assert_eq!(texts[3..], ["$0: short again", "$2: (see above)"]);
}

#[tokio::test]
async fn an_edit_of_a_message_that_failed_is_posted_as_the_message() {
    let mut setup = Setup::new();
    setup.fake.answer(false, SendError::Permanent("too large".to_owned()));
    let of = setup.say("!a", "first").await;
    setup.start();
    setup.settled().await;
    setup.put("!a", edit(of, "second")).await;
    setup.settled().await;
    setup.put("!a", edit(of, "third")).await;
    setup.settled().await;
    assert_eq!(setup.fake.texts(), ["second", "$0: third"]);
    let elsewhere = setup.put("!b", edit(of, "fourth")).await;
    setup.settled().await;
    let failed = setup.store.read(|conn| outbox::failed(conn, 1)).await.unwrap();
    assert_eq!(failed[0].id, elsewhere);
    setup.stop().await;
}

#[tokio::test]
async fn a_very_long_answer_is_a_summary_and_a_file_or_a_word_about_it() {
    let mut setup = Setup::new();
    let long = "A paragraph of some length.\n\n".repeat(100);
    setup.say("!a", &long).await;
    setup.start();
    setup.settled().await;
    let texts = setup.fake.texts();
    assert!(texts.len() == 2 && texts[1] == format!("answer-1.md: {}", long.len()), "{texts:?}");
    setup.stop().await;
    setup.fake.state.lock().unwrap().files_refused = true;
    setup.say("!a", &long).await;
    setup.start();
    setup.settled().await;
    setup.stop().await;
    let texts = setup.fake.texts();
    assert!(texts.len() == 4 && texts[3].contains("uploads are off"), "{texts:?}");
}

#[tokio::test]
async fn a_flush_posts_what_is_due_and_tells_what_is_left() {
    let setup = Setup::new();
    setup.say("!a", "last words").await;
    setup.say("!b", "put off").await;
    setup.fake.answer(false, SendError::RetryAfter(Duration::from_secs(600)));
    let sender = Sender::new(setup.store.clone(), Arc::clone(&setup.fake) as Arc<dyn Transport>);
    assert_eq!(sender.flush(Duration::from_secs(5)).await, 1);
    assert_eq!(setup.fake.shown().len(), 1);
}
