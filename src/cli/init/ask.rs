//! Asking at a terminal. Questions go to stderr: stdout is for results.

use super::super::failure::{Code, Failure};
use std::io::{BufRead, IsTerminal, Write};
use std::process::Command;

/// Asks a person, if there is one.
pub struct Asker {
    person: bool,
}

impl Asker {
    /// Nobody is asked with `quiet`, or when stdin is no terminal.
    pub fn new(quiet: bool) -> Self {
        Self { person: !quiet && std::io::stdin().is_terminal() }
    }

    /// Whether there is somebody to answer.
    pub fn is_person(&self) -> bool {
        self.person
    }

    /// What was given, else what is answered, else the usual.
    pub fn or_ask(
        &self,
        given: Option<String>,
        question: &str,
        usual: impl FnOnce() -> String,
    ) -> String {
        if let Some(given) = given {
            return given.trim().to_owned();
        }
        let usual = usual();
        if !self.person {
            return usual;
        }
        let shown = if usual.is_empty() { String::new() } else { format!(" [{usual}]") };
        eprint!("{question}{shown}: ");
        let answer = read_line();
        if answer.is_empty() { usual } else { answer }
    }

    /// What was given or is answered; nothing will not do.
    pub fn require(
        &self,
        question: &str,
        flag: &str,
        given: Option<String>,
    ) -> Result<String, Failure> {
        let answer = self.or_ask(given, question, String::new);
        if answer.is_empty() {
            return Err(Failure::new(Code::Usage, format!("{question}: no answer"))
                .hint(format!("give it with {flag}")));
        }
        Ok(answer)
    }

    /// A secret, typed without being shown.
    pub fn password(&self, question: &str, flag: &str) -> Result<String, Failure> {
        if self.person {
            eprint!("{question}: ");
            let hidden = echo("-echo");
            let answer = read_line();
            if hidden {
                echo("echo");
                eprintln!();
            }
            if !answer.is_empty() {
                crate::redact::remember(&answer);
                return Ok(answer);
            }
        }
        Err(Failure::new(Code::Usage, format!("{question}: no answer"))
            .hint(format!("put it into a variable and name that with {flag}")))
    }

    /// Yes or no; without a person: no.
    pub fn confirm(&self, question: &str) -> bool {
        if !self.person {
            return false;
        }
        eprint!("{question} [y/N]: ");
        matches!(read_line().to_lowercase().as_str(), "y" | "yes")
    }
}

fn read_line() -> String {
    // A terminal that cannot be written to or read from answers nothing.
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
    line.trim().to_owned()
}

fn echo(mode: &str) -> bool {
    Command::new("stty").arg(mode).status().is_ok_and(|status| status.success())
}
