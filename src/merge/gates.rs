//! Gates: a project's shell commands that must succeed, in order.
//!
//! Whether a gate passed is its exit code and nothing else; its output is never searched for
//! words. The first one that does not pass ends the run. How a command is contained and cleaned
//! up: `project::shell`.

use crate::project::shell::{self, End, ShellCommand};
use crate::project::worktree::last_lines;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How many of a failed gate's last lines are shown.
pub const SHOWN_LINES: usize = 40;

/// How a gate came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateOutcome {
    /// It exited with 0.
    Passed,
    /// It exited with something else.
    Failed {
        /// The exit code; `None` when a signal ended it.
        exit: Option<i32>,
    },
    /// It ran out of time and was killed.
    TimedOut,
    /// Its program is not installed: a precondition that no retry and no agent will mend.
    NotFound {
        /// The program.
        program: String,
    },
    /// It could not be started, or the machine failed while it ran.
    CannotRun {
        /// Why.
        why: String,
    },
    /// It was cancelled and killed.
    Cancelled,
}

/// One gate that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateRun {
    /// The command.
    pub gate: String,
    /// How it came out.
    pub outcome: GateOutcome,
    /// The end of its output, redacted.
    pub output: String,
    /// How long it ran.
    pub duration: Duration,
}

impl GateRun {
    /// Its last lines, as they are shown.
    pub fn tail(&self) -> String {
        last_lines(&self.output, SHOWN_LINES)
    }

    /// The exit code, where there is one.
    pub fn exit(&self) -> Option<i32> {
        match &self.outcome {
            GateOutcome::Passed => Some(0),
            GateOutcome::Failed { exit } => *exit,
            GateOutcome::NotFound { .. } => Some(127),
            GateOutcome::TimedOut | GateOutcome::CannotRun { .. } | GateOutcome::Cancelled => None,
        }
    }

    /// What happened, in words.
    pub fn in_words(&self) -> String {
        let gate = &self.gate;
        match &self.outcome {
            GateOutcome::Passed => format!("the gate `{gate}` passed"),
            GateOutcome::Failed { exit: Some(exit) } => {
                format!("the gate `{gate}` failed with exit {exit}")
            }
            GateOutcome::Failed { exit: None } => {
                format!("the gate `{gate}` was killed by a signal")
            }
            GateOutcome::TimedOut => {
                format!("the gate `{gate}` ran out of time after {} s", self.duration.as_secs())
            }
            GateOutcome::NotFound { program } => format!(
                "the gate `{gate}` cannot run: `{program}` is not installed, or not on the PATH; \
                 install it, or correct the project's `gates` and restart"
            ),
            GateOutcome::CannotRun { why } => format!("the gate `{gate}` could not be run: {why}"),
            GateOutcome::Cancelled => format!("the gate `{gate}` was cancelled"),
        }
    }
}

/// What became of a list of gates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GateReport {
    /// Those that ran, in order; all but perhaps the last have passed.
    pub runs: Vec<GateRun>,
}

impl GateReport {
    /// The gate that did not pass, if any.
    pub fn failure(&self) -> Option<&GateRun> {
        self.runs.last().filter(|run| run.outcome != GateOutcome::Passed)
    }

    /// Whether all passed (also when there is none).
    pub fn passed(&self) -> bool {
        self.failure().is_none()
    }

    /// What happened, in a sentence, with the last lines of a gate that did not pass.
    pub fn summary(&self) -> String {
        match self.failure() {
            Some(run) => format!("{}\n{}", run.in_words(), run.tail()),
            None if self.runs.is_empty() => "there are no gates".to_owned(),
            None => format!("all {} gates passed", self.runs.len()),
        }
    }
}

/// Runs `gates` in `cwd`, each for at most `limit`; the first that does not pass ends it.
///
/// `env` is added to the environment, which holds only what finds programs. `progress` hears each
/// gate before it runs. Dropping the future, or `cancel`, kills the running gate with all it
/// started.
pub async fn run(
    gates: &[String],
    cwd: &Path,
    limit: Duration,
    env: &[(String, String)],
    cancel: &CancellationToken,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> GateReport {
    let mut report = GateReport::default();
    for gate in gates {
        progress(gate);
        let ran = shell::run(ShellCommand { command: gate, cwd, limit, env, cancel }).await;
        let run = match ran {
            Ok(ran) => GateRun {
                gate: gate.clone(),
                outcome: outcome(gate, ran.end),
                output: ran.output,
                duration: ran.duration,
            },
            Err(error) => GateRun {
                gate: gate.clone(),
                outcome: GateOutcome::CannotRun { why: error.to_string() },
                output: String::new(),
                duration: Duration::ZERO,
            },
        };
        let passed = run.outcome == GateOutcome::Passed;
        report.runs.push(run);
        if !passed {
            break;
        }
    }
    report
}

fn outcome(gate: &str, end: End) -> GateOutcome {
    match end {
        End::Exited(0) => GateOutcome::Passed,
        // Exit 127 of a program that is there comes from inside it.
        End::Exited(127) => match shell::missing_program(gate) {
            Some(program) => GateOutcome::NotFound { program },
            None => GateOutcome::Failed { exit: Some(127) },
        },
        End::Exited(code) => GateOutcome::Failed { exit: Some(code) },
        End::Signalled(_) => GateOutcome::Failed { exit: None },
        End::TimedOut => GateOutcome::TimedOut,
        End::Cancelled => GateOutcome::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn go(gates: &[&str], limit: Duration) -> GateReport {
        let gates: Vec<String> = gates.iter().map(|gate| (*gate).to_owned()).collect();
        let cancel = CancellationToken::new();
        run(&gates, &std::env::temp_dir(), limit, &[], &cancel, &|_gate| {}).await
    }

    #[tokio::test]
    async fn the_first_gate_that_does_not_pass_ends_the_run_and_names_itself() {
        let limit = Duration::from_secs(20);
        let report = go(&["echo FAILED", "echo no; exit 4", "echo never"], limit).await;
        assert_eq!(report.runs.len(), 2);
        let failure = report.failure().unwrap();
        assert_eq!(failure.outcome, GateOutcome::Failed { exit: Some(4) });
        assert_eq!(report.summary(), "the gate `echo no; exit 4` failed with exit 4\nno");
        assert!(go(&["true", "echo error: failed"], limit).await.passed());
        assert!(go(&[], limit).await.passed());
    }

    #[tokio::test]
    async fn a_missing_program_is_told_from_a_missing_script_of_the_project() {
        let limit = Duration::from_secs(20);
        for (gate, expected) in [
            (
                "X=1 no-such-tool --all",
                GateOutcome::NotFound { program: "no-such-tool".to_owned() },
            ),
            ("./no-such-script", GateOutcome::Failed { exit: Some(127) }),
            ("sh -c no-such-tool", GateOutcome::Failed { exit: Some(127) }),
            ("cd . && no-such-tool", GateOutcome::Failed { exit: Some(127) }),
        ] {
            let report = go(&[gate], limit).await;
            assert_eq!(report.failure().unwrap().outcome, expected, "{gate}");
        }
    }

    #[tokio::test]
    async fn a_gate_that_runs_out_of_time_or_is_cancelled_says_so() {
        let report = go(&["sleep 60"], Duration::from_millis(100)).await;
        assert_eq!(report.failure().unwrap().outcome, GateOutcome::TimedOut);
        let cancel = CancellationToken::new();
        cancel.cancel();
        let gates = ["sleep 60".to_owned()];
        let limit = Duration::from_secs(60);
        let report = run(&gates, &std::env::temp_dir(), limit, &[], &cancel, &|_gate| {}).await;
        assert_eq!(report.failure().unwrap().outcome, GateOutcome::Cancelled);
    }
}
