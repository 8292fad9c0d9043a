use super::*;
use chrono::Utc;
use proptest::prelude::*;

fn limits() -> Limits {
    Limits {
        coalesce: Duration::from_millis(1500),
        coalesce_max: Duration::from_secs(8),
        max_parallel: 2,
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn room(name: &str) -> SessionKey {
    SessionKey::main(name.into())
}

fn message(session: &SessionKey, key: &str, sender: &str) -> Incoming {
    Incoming {
        key: key.into(),
        session: session.clone(),
        sender: sender.into(),
        sender_name: sender.to_owned(),
        sent_at: Utc::now(),
        addressed: true,
        body: IncomingBody::Text { text: key.to_owned(), reply_to: None },
    }
}

fn keys(batch: &[Incoming]) -> Vec<String> {
    batch.iter().map(|incoming| incoming.key.0.clone()).collect()
}

/// The batches that were started since the last call.
fn started(sessions: &mut Sessions) -> Vec<Vec<String>> {
    let acts = sessions.take_acts();
    let batches = acts.iter().filter_map(|act| match act {
        Act::Start { batch, .. } => Some(keys(batch)),
        Act::Steer { .. } | Act::Cancel { .. } => None,
    });
    batches.collect()
}

/// Closes whatever window is next and returns when that was.
fn close_next(sessions: &mut Sessions) -> Instant {
    let at = sessions.deadline().expect("a window is open");
    sessions.tick(at);
    at
}

struct Play {
    now: Instant,
    sessions: Sessions,
    here: SessionKey,
}

impl Play {
    fn new() -> Self {
        Self { now: Instant::now(), sessions: Sessions::new(limits()), here: room("here") }
    }

    fn say(&mut self, key: &str) {
        self.say_with(key, QueueMode::Collect);
    }

    fn say_with(&mut self, key: &str, mode: QueueMode) {
        self.sessions.talk(self.now, message(&self.here, key, "@ann"), mode);
    }

    fn pass(&mut self, millis: u64) {
        self.now += ms(millis);
        self.sessions.tick(self.now);
    }

    fn typing(&mut self, persons: &[&str]) {
        let persons = persons.iter().map(|person| PersonId::from(*person)).collect();
        self.sessions.typing(self.now, &self.here.room, persons);
    }

    fn started(&mut self) -> Vec<Vec<String>> {
        started(&mut self.sessions)
    }

    fn end(&mut self) {
        let here = self.here.clone();
        self.sessions.ended(&here, &HashSet::new());
    }
}

#[test]
fn a_burst_is_one_batch_in_order() {
    let mut play = Play::new();
    for key in ["a", "b", "c"] {
        play.say(key);
        play.pass(1000);
    }
    assert_eq!(play.started(), Vec::<Vec<String>>::new());
    play.pass(500);
    assert_eq!(play.started(), [["a", "b", "c"]]);
}

#[test]
fn a_window_closes_at_its_longest_however_much_is_said() {
    let mut play = Play::new();
    for index in 0..8 {
        play.say(&index.to_string());
        play.pass(1000);
    }
    assert_eq!(play.started().len(), 1);
}

#[test]
fn what_is_said_during_a_turn_is_one_batch_after_it_without_a_window() {
    let mut play = Play::new();
    play.say("first");
    play.pass(1500);
    assert_eq!(play.started(), [["first"]]);
    for index in 0..8 {
        play.say(&index.to_string());
        play.pass(3000);
    }
    assert_eq!(play.started(), Vec::<Vec<String>>::new());
    play.end();
    assert_eq!(play.started(), [["0", "1", "2", "3", "4", "5", "6", "7"]]);
    play.end();
    play.pass(60_000);
    assert_eq!(play.started(), Vec::<Vec<String>>::new());
}

#[test]
fn a_sender_who_types_keeps_the_window_open_and_closes_it_by_stopping() {
    let mut play = Play::new();
    play.say("a");
    play.typing(&["@ann"]);
    play.pass(4000);
    assert_eq!(play.started(), Vec::<Vec<String>>::new(), "still typing");
    play.typing(&[]);
    play.pass(249);
    assert_eq!(play.started(), Vec::<Vec<String>>::new());
    play.pass(1);
    assert_eq!(play.started(), [["a"]]);
}

#[test]
fn typing_without_end_does_not_hold_a_window_for_ever() {
    let mut play = Play::new();
    play.say("a");
    play.typing(&["@ann"]);
    play.pass(7999);
    assert_eq!(play.started(), Vec::<Vec<String>>::new());
    play.pass(1);
    assert_eq!(play.started(), [["a"]]);
}

#[test]
fn one_who_stopped_typing_just_before_the_message_came_is_answered_soon() {
    let mut play = Play::new();
    play.typing(&["@ann"]);
    play.pass(5000);
    play.typing(&[]);
    play.pass(40);
    play.say("a");
    play.pass(250);
    assert_eq!(play.started(), [["a"]]);
}

#[test]
fn somebody_elses_typing_changes_nothing() {
    let mut play = Play::new();
    play.say("a");
    play.typing(&["@bob"]);
    play.pass(1400);
    play.typing(&[]);
    play.pass(100);
    assert_eq!(play.started(), [["a"]]);
}

#[test]
fn sessions_are_independent_up_to_the_number_of_slots() {
    let mut sessions = Sessions::new(limits());
    let now = Instant::now();
    for name in ["x", "y", "z"] {
        sessions.talk(now, message(&room(name), name, "@ann"), QueueMode::Collect);
    }
    close_next(&mut sessions);
    assert_eq!(started(&mut sessions).len(), 2);
    let first = sessions.running().remove(0);
    sessions.ended(&first, &HashSet::new());
    assert_eq!(started(&mut sessions).len(), 1);
}

#[test]
fn stop_cancels_the_turn_and_drops_what_waits() {
    let mut play = Play::new();
    play.say("a");
    play.pass(1500);
    play.started();
    play.say("b");
    play.say_with("c", QueueMode::Steer);
    let here = play.here.clone();
    let stopped = play.sessions.stop(&here);
    assert!(stopped.running);
    assert_eq!(keys(&stopped.dropped), ["b", "c"]);
    assert!(play.sessions.take_acts().contains(&Act::Cancel { session: here.clone() }));
    play.say("after");
    play.end();
    assert_eq!(play.started(), [["after"]]);
}

#[test]
fn stop_in_a_window_drops_it() {
    let mut play = Play::new();
    play.say("a");
    let here = play.here.clone();
    let stopped = play.sessions.stop(&here);
    assert_eq!((stopped.running, keys(&stopped.dropped)), (false, vec!["a".to_owned()]));
    play.pass(9000);
    assert_eq!(play.started(), Vec::<Vec<String>>::new());
}

#[test]
fn a_steered_message_that_the_turn_did_not_take_is_asked_next() {
    let mut play = Play::new();
    play.say("a");
    play.pass(1500);
    play.started();
    play.say_with("taken", QueueMode::Steer);
    play.say_with("untaken", QueueMode::Steer);
    play.say("later");
    let here = play.here.clone();
    play.sessions.ended(&here, &HashSet::from(["untaken".into()]));
    assert_eq!(play.started(), [["untaken", "later"]]);
}

#[test]
fn interrupt_ends_the_turn_and_runs_the_new_message() {
    let mut play = Play::new();
    play.say("a");
    play.pass(1500);
    play.started();
    play.say_with("b", QueueMode::Interrupt);
    assert_eq!(play.sessions.take_acts(), [Act::Cancel { session: play.here.clone() }]);
    play.end();
    assert_eq!(play.started(), [["b"]]);
}

#[test]
fn nothing_starts_while_paused() {
    let mut play = Play::new();
    play.sessions.set_paused(true);
    play.say("a");
    play.pass(9000);
    assert_eq!(play.started(), Vec::<Vec<String>>::new());
    play.sessions.set_paused(false);
    assert_eq!(play.started(), [["a"]]);
}

/// One thing that happens, for the random plays.
#[derive(Debug, Clone)]
enum Happening {
    Say(usize, QueueMode),
    Edit(usize),
    Redact(usize),
    Stop(usize),
    End(usize, bool),
    Typing(usize, bool),
    Pass(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let mode =
        prop_oneof![Just(QueueMode::Collect), Just(QueueMode::Steer), Just(QueueMode::Interrupt)];
    prop_oneof![
        4 => (0..3_usize, mode).prop_map(|(room, mode)| Happening::Say(room, mode)),
        1 => (0..40_usize).prop_map(Happening::Edit),
        1 => (0..40_usize).prop_map(Happening::Redact),
        1 => (0..3_usize).prop_map(Happening::Stop),
        3 => (0..3_usize, any::<bool>()).prop_map(|(room, took)| Happening::End(room, took)),
        1 => (0..3_usize, any::<bool>()).prop_map(|(room, on)| Happening::Typing(room, on)),
        3 => (0..4000_u64).prop_map(Happening::Pass),
    ]
}

/// Follows every message to its fate.
struct Ledger {
    sessions: Sessions,
    now: Instant,
    rooms: Vec<SessionKey>,
    said: Vec<(usize, String)>,
    fate: HashMap<String, &'static str>,
    live: HashSet<SessionKey>,
    steered: HashMap<SessionKey, Vec<String>>,
}

impl Ledger {
    fn settle(&mut self, key: &str, fate: &'static str) {
        let before = self.fate.insert(key.to_owned(), fate);
        assert_eq!(before, None, "{key} has two fates");
    }

    fn follow(&mut self) {
        for act in self.sessions.take_acts() {
            match act {
                Act::Start { session, batch, .. } => {
                    assert!(self.live.insert(session), "two turns in one session");
                    assert!(!batch.is_empty());
                    let order: Vec<usize> = batch
                        .iter()
                        .map(|one| self.said.iter().position(|(_, key)| *key == one.key.0).unwrap())
                        .collect();
                    assert!(order.is_sorted(), "{order:?}");
                    for one in batch {
                        self.settle(&one.key.0, "batch");
                    }
                }
                Act::Steer { session, incoming } => {
                    assert!(self.live.contains(&session));
                    self.steered.entry(session).or_default().push(incoming.key.0);
                }
                Act::Cancel { session } => assert!(self.live.contains(&session)),
            }
        }
        assert!(self.live.len() <= 2, "too many turns");
    }

    fn end(&mut self, session: &SessionKey, took: bool) {
        if !self.live.remove(session) {
            return;
        }
        let steered = self.steered.remove(session).unwrap_or_default();
        let mut untaken = HashSet::new();
        for key in steered {
            if took {
                self.settle(&key, "steered");
            } else {
                untaken.insert(MessageKey(key));
            }
        }
        self.sessions.ended(session, &untaken);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Say(room, mode) => {
                let key = self.said.len().to_string();
                self.said.push((room, key.clone()));
                let incoming = message(&self.rooms[room], &key, "@ann");
                self.sessions.talk(self.now, incoming, mode);
            }
            Happening::Edit(index) => {
                if let Some((_, key)) = self.said.get(index).cloned() {
                    self.sessions.edit(&MessageKey(key), &"@ann".into(), "edited");
                }
            }
            Happening::Redact(index) => {
                if let Some((_, key)) = self.said.get(index).cloned()
                    && self.sessions.redact(&MessageKey(key.clone()))
                {
                    self.settle(&key, "redacted");
                }
            }
            Happening::Stop(room) => {
                let session = self.rooms[room].clone();
                let stopped = self.sessions.stop(&session);
                for incoming in stopped.dropped {
                    self.settle(&incoming.key.0, "dropped");
                }
                self.steered.remove(&session);
            }
            Happening::End(room, took) => {
                let session = self.rooms[room].clone();
                self.end(&session, took);
            }
            Happening::Typing(room, on) => {
                let persons = if on { vec!["@ann".into()] } else { vec![] };
                let room = self.rooms[room].room.clone();
                self.sessions.typing(self.now, &room, persons.into_iter().collect());
            }
            Happening::Pass(millis) => {
                self.now += ms(millis);
                self.sessions.tick(self.now);
            }
        }
        self.follow();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_has_exactly_one_fate(play in proptest::collection::vec(happening(), 1..80)) {
        let mut ledger = Ledger {
            sessions: Sessions::new(limits()),
            now: Instant::now(),
            rooms: ["x", "y", "z"].map(room).to_vec(),
            said: vec![],
            fate: HashMap::new(),
            live: HashSet::new(),
            steered: HashMap::new(),
        };
        for happening in play {
            ledger.happen(happening);
        }
        // Everything comes to rest: windows close, turns end.
        for _ in 0..10 {
            ledger.happen(Happening::Pass(9000));
            for room in 0..3 {
                ledger.happen(Happening::End(room, true));
            }
        }
        prop_assert_eq!(ledger.fate.len(), ledger.said.len());
        prop_assert_eq!(ledger.sessions.deadline(), None);
        prop_assert!(ledger.sessions.sessions.is_empty(), "nothing is remembered");
    }
}
