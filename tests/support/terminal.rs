//! A program on a real terminal, driven as a person would: read, then type.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

use super::musher::Musher;
use super::{PATIENCE, until_within};

/// A terminal with `musher` on it.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    shown: Arc<Mutex<String>>,
    /// How much of what is shown was waited for.
    read: usize,
}

impl Terminal {
    /// Runs the program with these arguments; `script` of util-linux gives it the terminal.
    pub fn run(musher: &Musher, arguments: &[&str]) -> Self {
        let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
        let program = super::musher::program().display().to_string();
        let words: Vec<String> =
            std::iter::once(&*program).chain(arguments.iter().copied()).map(quoted).collect();
        let mut command = Command::new("setpriv");
        let script = ["--pdeathsig", "KILL", "--", "script", "-qefc", &words.join(" ")];
        musher.prepare_for(&mut command, &[&script[..], &["/dev/null"]].concat());
        command.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("script of util-linux runs");
        let keyboard = child.stdin.take().unwrap();
        let mut screen = child.stdout.take().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let seen = Arc::clone(&shown);
        tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes).await {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, keyboard, shown, read: 0 }
    }

    /// Everything shown so far, with what colours it.
    pub fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Waits until `part` is shown after what was waited for before.
    pub async fn read(&mut self, part: &str) {
        let shown = Arc::clone(&self.shown);
        let from = self.read;
        let look = || {
            let shown = shown.lock().unwrap();
            shown[from..].find(part).map(|at| from + at + part.len())
        };
        let found = tokio::time::timeout(PATIENCE, until_within(PATIENCE * 2, part, look)).await;
        self.read = found.unwrap_or_else(|_| {
            panic!("the terminal does not show {part:?}:\n{}", self.shown());
        });
    }

    /// Types a line.
    pub async fn line(&mut self, text: &str) {
        // A terminal's key for the end of a line.
        self.keyboard.write_all(format!("{text}\r").as_bytes()).await.unwrap();
    }

    /// Waits for the question, and answers it.
    pub async fn answer(&mut self, question: &str, answer: &str) {
        self.read(question).await;
        self.line(answer).await;
    }

    /// Waits for the end, and returns the exit code.
    pub async fn end(mut self) -> i32 {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let Ok(status) = ended else { panic!("it does not end:\n{}", self.shown()) };
        status.unwrap().code().unwrap_or(-1)
    }
}
