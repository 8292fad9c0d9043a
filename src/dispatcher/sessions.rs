//! What each chat session waits for: windows, queues and turns. Pure; told the time.
//!
//! A session is idle, has a **window** open (messages that belong together are still coming), is
//! **ready** (its batch waits for one of the parallel slots), or has a **turn** running. Messages
//! during a turn wait for one follow-up batch, are given to the turn, or end it, by the mode of
//! the room. Everything that must happen outside comes out as an [`Act`].
//!
//! Properties, tested over random interleavings: each message is in exactly one batch, or given
//! to exactly one turn, or dropped by `stop` or a redaction; order is kept; a session has at most
//! one turn; at most `max_parallel` turns run.

use crate::model::chat::{Incoming, IncomingBody, QueueMode};
use crate::model::ids::{MessageKey, PersonId, RoomKey, SessionKey};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// How long a window stays open once all who wrote in it have been seen to stop typing.
pub const STOPPED_TYPING: Duration = Duration::from_millis(250);

/// How long before a message its sender may have stopped typing for that to count: their client
/// sends both at once, and they arrive in either order.
const STOP_BELONGS: Duration = Duration::from_secs(1);

/// The limits, from the configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How much each message extends the window.
    pub coalesce: Duration,
    /// How long a window stays open at most.
    pub coalesce_max: Duration,
    /// How many turns run beside each other.
    pub max_parallel: usize,
}

/// What must happen outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Run a turn over these messages.
    Start {
        /// The session.
        session: SessionKey,
        /// In the order in which they came.
        batch: Vec<Incoming>,
        /// Whether they waited behind a turn: only then may the oldest be condensed.
        queued: bool,
    },
    /// Give a message to the running turn.
    Steer {
        /// The session.
        session: SessionKey,
        /// The message.
        incoming: Incoming,
    },
    /// End the running turn; [`Sessions::ended`] is told when it has.
    Cancel {
        /// The session.
        session: SessionKey,
    },
}

/// Where a session stands.
#[derive(Debug)]
enum State {
    Idle,
    /// Messages still come.
    Window {
        opened: Instant,
        quiet_at: Instant,
    },
    /// The batch waits for a slot.
    Ready,
    /// A turn runs.
    Running {
        /// Given to the turn, which may not have taken them yet.
        steered: Vec<Waiting>,
    },
}

/// A message with its place in the order of arrival.
#[derive(Debug, Clone)]
struct Waiting {
    place: u64,
    incoming: Incoming,
}

#[derive(Debug)]
struct Session {
    state: State,
    waiting: Vec<Waiting>,
    /// Whether what waits came while a turn ran.
    behind_turn: bool,
}

/// What `stop` found.
#[derive(Debug, Clone, PartialEq)]
pub struct Stopped {
    /// Whether a turn was running; it is being cancelled.
    pub running: bool,
    /// What waited and is dropped, steered messages among it: the oldest first.
    pub dropped: Vec<Incoming>,
}

/// All sessions with something to do.
#[derive(Debug)]
pub struct Sessions {
    limits: Limits,
    sessions: HashMap<SessionKey, Session>,
    /// Sessions that wait for a slot, first come first served.
    ready: VecDeque<SessionKey>,
    running: usize,
    arrived: u64,
    paused: bool,
    typists: HashMap<RoomKey, BTreeSet<PersonId>>,
    stopped_typing: HashMap<(RoomKey, PersonId), Instant>,
    acts: Vec<Act>,
}

impl Sessions {
    /// Nothing to do yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            sessions: HashMap::new(),
            ready: VecDeque::new(),
            running: 0,
            arrived: 0,
            paused: false,
            typists: HashMap::new(),
            stopped_typing: HashMap::new(),
            acts: vec![],
        }
    }

    /// What must happen outside since the last call.
    pub fn take_acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    /// Whether a turn runs in `session`.
    pub fn is_running(&self, session: &SessionKey) -> bool {
        let state = self.sessions.get(session).map(|session| &session.state);
        matches!(state, Some(State::Running { .. }))
    }

    /// The sessions with a running turn.
    pub fn running(&self) -> Vec<SessionKey> {
        self.sessions.keys().filter(|key| self.is_running(key)).cloned().collect()
    }

    /// Starts nothing more until `paused` is taken back: the program is about to end, or the
    /// emergency stop is on.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        self.fill_slots();
    }

    /// A turn of before the restart goes on in `session`.
    pub fn resumed(&mut self, session: &SessionKey) {
        if !self.is_running(session) {
            self.entry(session).state = State::Running { steered: vec![] };
            self.running += 1;
        }
    }

    /// Somebody said something.
    pub fn talk(&mut self, now: Instant, incoming: Incoming, mode: QueueMode) {
        let key = incoming.session.clone();
        let quiet_at = now + self.quiet_time(now, &incoming);
        self.arrived += 1;
        let waiting = Waiting { place: self.arrived, incoming };
        let session = self.entry(&key);
        match &mut session.state {
            State::Idle => {
                session.state = State::Window { opened: now, quiet_at };
                session.waiting.push(waiting);
            }
            State::Window { quiet_at: deadline, .. } => {
                *deadline = quiet_at;
                session.waiting.push(waiting);
            }
            State::Ready => session.waiting.push(waiting),
            State::Running { steered } => match mode {
                QueueMode::Collect => session.waiting.push(waiting),
                QueueMode::Steer => {
                    steered.push(waiting.clone());
                    self.acts.push(Act::Steer { session: key, incoming: waiting.incoming });
                }
                QueueMode::Interrupt => {
                    session.waiting.push(waiting);
                    self.acts.push(Act::Cancel { session: key });
                }
            },
        }
        self.tick(now);
    }

    /// `sender` corrected a message of theirs; says whether it still waited and was replaced.
    pub fn edit(&mut self, of: &MessageKey, sender: &PersonId, new_text: &str) -> bool {
        let all = self.sessions.values_mut().flat_map(|session| &mut session.waiting);
        let mut theirs = all.map(|waiting| &mut waiting.incoming);
        let found = theirs.find(|message| message.key == *of && message.sender == *sender);
        match found.map(|message| &mut message.body) {
            Some(IncomingBody::Text { text, .. }) => {
                new_text.clone_into(text);
                true
            }
            Some(
                IncomingBody::Edit { .. }
                | IncomingBody::Redaction { .. }
                | IncomingBody::Reaction { .. },
            )
            | None => false,
        }
    }

    /// Somebody took a message back; says whether it still waited.
    pub fn redact(&mut self, of: &MessageKey) -> bool {
        let holds =
            |session: &Session| session.waiting.iter().any(|waiting| waiting.incoming.key == *of);
        let found = self.sessions.iter_mut().find(|(_, session)| holds(session));
        let Some((key, session)) = found.map(|(key, session)| (key.clone(), session)) else {
            return false;
        };
        session.waiting.retain(|waiting| waiting.incoming.key != *of);
        if session.waiting.is_empty() && !matches!(session.state, State::Running { .. }) {
            self.forget(&key);
        }
        true
    }

    /// The persons who type in `room` are now these.
    pub fn typing(&mut self, now: Instant, room: &RoomKey, persons: BTreeSet<PersonId>) {
        let before = self.typists.remove(room).unwrap_or_default();
        for person in before.difference(&persons) {
            self.stopped_typing.insert((room.clone(), person.clone()), now);
        }
        self.stopped_typing.retain(|_, at| *at + STOP_BELONGS > now);
        let stopped: HashSet<PersonId> = before.difference(&persons).cloned().collect();
        if !persons.is_empty() {
            self.typists.insert(room.clone(), persons);
        }
        for (key, session) in &mut self.sessions {
            let wrote =
                session.waiting.iter().any(|message| stopped.contains(&message.incoming.sender));
            if let State::Window { quiet_at, .. } = &mut session.state
                && key.room == *room
                && wrote
            {
                *quiet_at = now + STOPPED_TYPING;
            }
        }
        self.tick(now);
    }

    /// The rooms in which somebody was last seen typing.
    pub fn rooms_with_typists(&self) -> impl Iterator<Item = &RoomKey> {
        self.typists.keys()
    }

    /// Ends the session's turn and drops what waits.
    pub fn stop(&mut self, session: &SessionKey) -> Stopped {
        let Some(found) = self.sessions.get_mut(session) else {
            return Stopped { running: false, dropped: vec![] };
        };
        let mut dropped = vec![];
        let running = match &mut found.state {
            State::Running { steered } => {
                dropped.append(steered);
                self.acts.push(Act::Cancel { session: session.clone() });
                true
            }
            State::Idle | State::Window { .. } | State::Ready => false,
        };
        dropped.append(&mut found.waiting);
        if !running {
            self.forget(session);
        }
        dropped.sort_by_key(|message| message.place);
        let dropped = dropped.into_iter().map(|message| message.incoming).collect();
        Stopped { running, dropped }
    }

    /// Ends every turn and drops everything that waits; returns what was dropped.
    pub fn stop_all(&mut self) -> Vec<Incoming> {
        let all: Vec<SessionKey> = self.sessions.keys().cloned().collect();
        all.iter().flat_map(|session| self.stop(session).dropped).collect()
    }

    /// The session's turn has ended, however. `untaken` are messages that it was given and did
    /// not take: they are asked next, in their order among those that waited.
    pub fn ended(&mut self, session: &SessionKey, untaken: &HashSet<MessageKey>) {
        let Some(found) = self.sessions.get_mut(session) else { return };
        let State::Running { steered } = &mut found.state else { return };
        let mut next = std::mem::take(steered);
        next.retain(|message| untaken.contains(&message.incoming.key));
        next.append(&mut found.waiting);
        next.sort_by_key(|message| message.place);
        found.waiting = next;
        self.running -= 1;
        if found.waiting.is_empty() {
            self.forget(session);
        } else {
            found.state = State::Ready;
            found.behind_turn = true;
            self.ready.push_back(session.clone());
        }
        self.fill_slots();
    }

    /// Closes the windows whose time has come.
    pub fn tick(&mut self, now: Instant) {
        let due: Vec<SessionKey> = self
            .sessions
            .keys()
            .filter(|key| self.closes_at(key).is_some_and(|at| at <= now))
            .cloned()
            .collect();
        for key in due {
            self.entry(&key).state = State::Ready;
            self.ready.push_back(key);
        }
        self.fill_slots();
    }

    /// When [`Sessions::tick`] must be called next.
    pub fn deadline(&self) -> Option<Instant> {
        self.sessions.keys().filter_map(|key| self.closes_at(key)).min()
    }

    fn closes_at(&self, key: &SessionKey) -> Option<Instant> {
        let session = self.sessions.get(key)?;
        let State::Window { opened, quiet_at } = &session.state else { return None };
        let last = *opened + self.limits.coalesce_max;
        let typists = self.typists.get(&key.room);
        let writes_on = typists.is_some_and(|typists| {
            session.waiting.iter().any(|message| typists.contains(&message.incoming.sender))
        });
        Some(if writes_on { last } else { last.min(*quiet_at) })
    }

    /// How long a window stays open after `incoming` when nothing else is seen.
    fn quiet_time(&self, now: Instant, incoming: &Incoming) -> Duration {
        let place = (incoming.session.room.clone(), incoming.sender.clone());
        let stopped = self.stopped_typing.get(&place);
        if stopped.is_some_and(|at| *at + STOP_BELONGS > now) {
            STOPPED_TYPING.min(self.limits.coalesce)
        } else {
            self.limits.coalesce
        }
    }

    fn fill_slots(&mut self) {
        while !self.paused && self.running < self.limits.max_parallel.max(1) {
            let Some(key) = self.ready.pop_front() else { return };
            let Some(session) = self.sessions.get_mut(&key) else { continue };
            if !matches!(session.state, State::Ready) || session.waiting.is_empty() {
                continue;
            }
            let waiting = std::mem::take(&mut session.waiting);
            let batch = waiting.into_iter().map(|message| message.incoming).collect();
            session.state = State::Running { steered: vec![] };
            self.running += 1;
            let queued = std::mem::take(&mut session.behind_turn);
            self.acts.push(Act::Start { session: key, batch, queued });
        }
    }

    fn entry(&mut self, key: &SessionKey) -> &mut Session {
        self.sessions.entry(key.clone()).or_insert_with(|| Session {
            state: State::Idle,
            waiting: vec![],
            behind_turn: false,
        })
    }

    fn forget(&mut self, session: &SessionKey) {
        self.sessions.remove(session);
        self.ready.retain(|key| key != session);
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
