//! The chat on a terminal: the same inbox, dispatcher and outbox, no homeserver.
//!
//! A line is a message of [`PERSON`], who is allowed and an administrator: whoever can start the
//! console owns the data anyway. On a terminal lines are edited, and answers are shown above the
//! line being typed; from a pipe lines are read as they come, answers are plain Markdown, and the
//! program ends when the pipe has ended and everything is answered. A line that is longer than
//! `LINE_MAX` is refused: a model could not read it, and everybody would have to carry it.

use super::{Part, SendError, Transport};
use crate::model::chat::{Incoming, IncomingBody, Weight};
use crate::model::ids::{MessageKey, PersonId, RoomKey, SessionKey};
use crate::store::{Store, StoreError, inbox, outbox};
use async_trait::async_trait;
use regex::Regex;
use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, ExternalPrinter};
use std::collections::HashMap;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The person at the console.
pub const PERSON: &str = crate::config::CONSOLE_PERSON;

/// The console's room.
pub const ROOM: &str = "console";

/// How many lines from a pipe are read ahead of being journaled.
const READ_AHEAD: usize = 64;

/// The longest line that is taken, in bytes: as much as mail takes, four times what Matrix does.
const LINE_MAX: usize = 256 * 1024;

/// How long a line may wait to be kept before its person is told why.
const KEEP_LIMIT: Duration = Duration::from_secs(2);

/// How often it is looked whether everything is answered, without a hint.
const IDLE_TICK: Duration = Duration::from_millis(500);

/// Where text is shown.
type Screen = Box<dyn FnMut(String) + Send>;

/// The terminal, as a way to talk to a person.
pub struct Console {
    store: Store,
    colours: bool,
    shown: Mutex<Shown>,
}

/// What was shown, to show of an edit only what is new, and nothing twice.
struct Shown {
    screen: Screen,
    texts: HashMap<MessageKey, String>,
}

impl Console {
    /// A console on the process's own input and output.
    pub fn new(store: Store) -> Self {
        let print: Screen = Box::new(|text| {
            let mut out = std::io::stdout().lock();
            // Whoever reads us may have gone.
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        });
        Self::with_screen(store, std::io::stdout().is_terminal(), print)
    }

    fn with_screen(store: Store, colours: bool, screen: Screen) -> Self {
        let shown = Mutex::new(Shown { screen, texts: HashMap::new() });
        Self { store, colours, shown }
    }

    /// Reads lines until the input ends, or says `exit`, and everything is answered; or `cancel`.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), StoreError> {
        let (tell, lines) = mpsc::channel(READ_AHEAD);
        // A thread of its own, not a task: a read from a terminal cannot be cancelled, and the
        // program must be able to end in the middle of it.
        if std::io::stdin().is_terminal() {
            let history = self.store.data_dir().join("console_history");
            if let Some(screen) = edit_lines(history, tell) {
                self.hold().screen = screen;
            }
        } else {
            std::thread::spawn(move || {
                let mut input = std::io::stdin().lock();
                while let Ok(Some(line)) = read_line(&mut input) {
                    if tell.blocking_send(line).is_err() {
                        return;
                    }
                }
            });
        }
        self.converse(lines, cancel).await
    }

    async fn converse(
        &self,
        mut lines: mpsc::Receiver<String>,
        cancel: CancellationToken,
    ) -> Result<(), StoreError> {
        loop {
            let line = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                line = lines.recv() => line,
            };
            match line {
                Some(line) if is_end(&line) => break,
                Some(line) if line.trim().is_empty() => {}
                Some(line) if line.len() > LINE_MAX => self.notice(&format!(
                    "That line was not taken: the longest that I take has {} KiB. Put it into a \
                     file of the project, and name that.",
                    LINE_MAX / 1024
                )),
                Some(line) => self.journal(line).await?,
                None => break,
            }
        }
        tokio::select! {
            () = cancel.cancelled() => Ok(()),
            idle = self.idle() => idle,
        }
    }

    async fn journal(&self, line: String) -> Result<(), StoreError> {
        let name = std::env::var("USER").unwrap_or_else(|_| "console".to_owned());
        let incoming = Incoming {
            key: MessageKey(format!("console:{}", uuid::Uuid::new_v4().simple())),
            session: SessionKey::main(RoomKey::from(ROOM)),
            sender: PersonId::from(PERSON),
            sender_name: name,
            sent_at: self.store.clock().now(),
            addressed: true,
            body: IncomingBody::Text { text: line, reply_to: None },
        };
        let write = self.store.write(move |tx| inbox::insert(tx, &incoming));
        let mut write = std::pin::pin!(write);
        tokio::select! {
            kept = &mut write => return kept.map(drop),
            () = tokio::time::sleep(KEEP_LIMIT) => {}
        }
        if let Some(why) = self.store.fault() {
            self.notice(&format!("Your message waits, because {why}."));
        }
        write.await.map(drop)
    }

    /// Shows something that nobody has to answer.
    fn notice(&self, text: &str) {
        let key = MessageKey(format!("console:notice:{}", uuid::Uuid::new_v4().simple()));
        self.show(&key, text, Weight::Notice);
    }

    /// Waits until every message is answered and every answer shown.
    ///
    /// An answer is written in the transaction that makes its message done, so that one look at
    /// both tables cannot miss it.
    async fn idle(&self) -> Result<(), StoreError> {
        let mut outbox_changes = self.store.changes("outbox");
        let mut inbox_changes = self.store.changes("inbox");
        loop {
            let read = self.store.read(|conn| {
                let mine = |incoming: &Incoming| incoming.session.room.as_str() == ROOM;
                let asked = inbox::open(conn)?.iter().filter(|(_, row)| mine(row)).count();
                let answers = outbox::pending_of(conn, &RoomKey::from(ROOM), 1)?.len();
                Ok::<_, StoreError>(asked + answers)
            });
            if read.await? == 0 {
                return Ok(());
            }
            tokio::select! {
                () = outbox_changes.changed() => {}
                () = inbox_changes.changed() => {}
                () = tokio::time::sleep(IDLE_TICK) => {}
            }
        }
    }

    fn hold(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, key: &MessageKey, text: &str, weight: Weight) {
        let text = harmless(text);
        let mut shown = self.hold();
        let fresh = match shown.texts.get(key) {
            Some(old) => new_lines(old, &text),
            None => text.clone(),
        };
        shown.texts.insert(key.clone(), text);
        if !fresh.trim().is_empty() {
            let line = if self.colours { coloured(&fresh, weight) } else { fresh };
            (shown.screen)(line);
        }
    }
}

/// Reads a line, of which no more is kept than shows that it is too long; `None` at the end.
fn read_line(input: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut line = vec![];
    let mut any = false;
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            return Ok(any.then(|| String::from_utf8_lossy(&line).into_owned()));
        }
        any = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let piece = &chunk[..end.unwrap_or(chunk.len())];
        line.extend_from_slice(
            &piece[..piece.len().min((LINE_MAX + 1).saturating_sub(line.len()))],
        );
        let used = end.map_or(chunk.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(Some(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()));
        }
    }
}

/// Starts a thread that edits lines on the terminal; returns how to print above them.
fn edit_lines(history: std::path::PathBuf, tell: mpsc::Sender<String>) -> Option<Screen> {
    let mut editor = DefaultEditor::new().ok()?;
    // There is none the first time.
    let _ = editor.load_history(&history);
    let printer = editor.create_external_printer().ok();
    std::thread::spawn(move || {
        loop {
            match editor.readline("> ") {
                Ok(line) => {
                    let _ = editor.add_history_entry(&line);
                    let _ = editor.save_history(&history);
                    // Not read on: the program ends, and the terminal must be left as it was.
                    let ends = is_end(&line);
                    if tell.blocking_send(line).is_err() || ends {
                        return;
                    }
                }
                // Ctrl-C forgets the line, as in a shell.
                Err(ReadlineError::Interrupted) => {}
                // Ctrl-D, or no terminal any more.
                Err(_) => return,
            }
        }
    });
    let mut printer = printer?;
    Some(Box::new(move |text| {
        let _ = printer.print(format!("{text}\n"));
    }))
}

#[async_trait]
impl Transport for Console {
    fn serves(&self, room: &RoomKey) -> bool {
        room.as_str() == ROOM
    }

    async fn send(
        &self,
        txn_id: &str,
        session: &SessionKey,
        part: &Part,
    ) -> Result<MessageKey, SendError> {
        let key = MessageKey(format!("console:out:{txn_id}"));
        if session.room.as_str() != ROOM {
            let why = format!("the console cannot post in {}", session.room);
            return Err(SendError::Permanent(why));
        }
        if self.hold().texts.contains_key(&key) {
            return Ok(key);
        }
        match part {
            Part::Message { markdown, weight, .. } => self.show(&key, markdown, *weight),
            Part::Edit { of, markdown, weight } => self.show(of, markdown, *weight),
            Part::Reaction { key: emoji, .. } => self.show(&key, emoji, Weight::Notice),
            Part::File { name, content, .. } => {
                self.show(&key, &format!("--- {name} ---\n{content}"), Weight::Text);
            }
        }
        Ok(key)
    }

    async fn typing(&self, _room: &RoomKey, _typing: bool) {}

    async fn receipt(&self, _session: &SessionKey, _key: &MessageKey) {}

    fn part_limit(&self) -> usize {
        usize::MAX
    }
}

/// Whether a line ends the console.
fn is_end(line: &str) -> bool {
    matches!(line.trim(), "exit" | "quit")
}

/// Text without what could command a terminal.
fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// The lines of `new` from the first that differs from `old` on.
fn new_lines(old: &str, new: &str) -> String {
    let same = old.lines().zip(new.lines()).take_while(|(old, new)| old == new).count();
    new.lines().skip(same).collect::<Vec<_>>().join("\n")
}

static BOLD: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\*\*(.+?)\*\*").expect("the pattern is constant and compiles"));
static CODE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"`([^`\n]+)`").expect("the pattern is constant and compiles"));

/// Markdown with the marks that a terminal can show in their place.
fn coloured(markdown: &str, weight: Weight) -> String {
    let mut fenced = false;
    let line = |line: &str| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return String::new();
        }
        if fenced {
            return format!("    \x1b[36m{line}\x1b[0m");
        }
        if line.starts_with('#') {
            return format!("\x1b[1m{}\x1b[0m", line.trim_start_matches(['#', ' ']));
        }
        let line = BOLD.replace_all(line, "\x1b[1m$1\x1b[22m");
        CODE.replace_all(&line, "\x1b[36m$1\x1b[39m").into_owned()
    };
    let text: Vec<String> = markdown.lines().map(line).collect();
    let text = text.join("\n");
    match weight {
        Weight::Notice => format!("\x1b[2m{text}\x1b[0m"),
        Weight::Text => text,
    }
}

/// A console that shows into a list.
#[cfg(test)]
fn test_console(store: Store) -> (std::sync::Arc<Console>, std::sync::Arc<Mutex<Vec<String>>>) {
    use std::sync::Arc;

    let seen = Arc::new(Mutex::new(vec![]));
    let log = Arc::clone(&seen);
    let screen: Screen =
        Box::new(move |text| log.lock().unwrap_or_else(PoisonError::into_inner).push(text));
    (Arc::new(Console::with_screen(store, false, screen)), seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Sender;
    use crate::clock::Clock;
    use crate::model::chat::Outgoing;

    fn part(markdown: &str) -> Part {
        let mentions = vec![];
        Part::Message { markdown: markdown.into(), weight: Weight::Text, mentions, reply_to: None }
    }

    #[tokio::test]
    async fn it_ends_when_the_input_has_ended_and_everything_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Clock::system()).unwrap();
        let (console, seen) = test_console(store.clone());
        let cancel = CancellationToken::new();
        tokio::spawn(Sender::new(store.clone(), console.clone()).run(cancel.clone()));
        let (tell, lines) = mpsc::channel(4);
        for line in ["hello", "", "bye"] {
            tell.send(line.to_owned()).await.unwrap();
        }
        drop(tell);
        let talk = tokio::spawn({
            let console = console.clone();
            async move { console.converse(lines, cancel).await }
        });
        let open = loop {
            let open = store.read(inbox::open).await.unwrap();
            if open.len() == 2 {
                break open;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(!talk.is_finished());
        for (_, incoming) in open {
            store
                .write(move |tx| {
                    outbox::enqueue(tx, &Outgoing::text(incoming.session, "answer"), None)?;
                    inbox::mark_done(tx, &[incoming.key])
                })
                .await
                .unwrap();
        }
        tokio::time::timeout(Duration::from_secs(10), talk).await.unwrap().unwrap().unwrap();
        assert_eq!(*seen.lock().unwrap(), ["answer", "answer"]);
    }

    #[tokio::test]
    async fn nothing_is_shown_twice_and_of_an_edit_only_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Clock::system()).unwrap();
        let (console, seen) = test_console(store);
        let here = SessionKey::main(ROOM.into());
        let key = console.send("1", &here, &part("one\ntwo")).await.unwrap();
        assert_eq!(console.send("1", &here, &part("one\ntwo")).await.unwrap(), key);
        let edit =
            Part::Edit { of: key, markdown: "one\ntwo and\nthree".into(), weight: Weight::Text };
        console.send("2", &here, &edit).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), ["one\ntwo", "two and\nthree"]);
    }

    #[test]
    fn a_terminal_is_not_commanded_by_what_is_said() {
        assert_eq!(harmless("a\x1b[2Jb\x07\n\tc\r"), "a[2Jb\n\tc");
        assert_eq!(
            coloured("# Head\n**bold** `code`\n```\n**raw**\n```", Weight::Text),
            "\x1b[1mHead\x1b[0m\n\x1b[1mbold\x1b[22m \x1b[36mcode\x1b[39m\n\n    \
             \x1b[36m**raw**\x1b[0m\n"
        );
    }
}
