//! What work says in a room. Every text that people read stands here.

use crate::model::item::Item;
use crate::model::stage::MergeFailureKind;
use chrono::{DateTime, Utc};

/// How many lines of output a message shows.
const TAIL_LINES: usize = 15;
/// The longest line of output that a message shows, in characters.
const LINE_MAX: usize = 300;

/// A commit as people write it.
pub(super) fn short(commit: &str) -> String {
    format!("`{}`", commit.get(..8).unwrap_or(commit))
}

/// The last lines of some output.
pub(super) fn tail(output: &str) -> String {
    let lines: Vec<String> = output.lines().map(cut).collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines[from..].join("\n")
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// The last lines of some output, as a code block that the output itself cannot close.
pub(super) fn fenced(output: &str) -> String {
    let tail = tail(output);
    if tail.trim().is_empty() {
        return "(no output)".to_owned();
    }
    let longest = tail.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}\n{tail}\n{fence}")
}

/// The first line of a text.
pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The item, as every message begins.
fn head(item: &Item) -> String {
    format!("**#{} {}**", item.id, item.name)
}

/// It started by itself.
pub(super) fn promoted(item: &Item, why: &str) -> String {
    format!("{} starts by itself: {why}.", head(item))
}

/// An agent began.
pub(super) fn claimed(item: &Item, agent: &str, qa: bool) -> String {
    let what = if qa { "QA" } else { "work" };
    format!("{}: {what} started by {agent}.", head(item))
}

/// A mergemaster began.
pub(super) fn resolving(item: &Item, agent: &str, kind: &MergeFailureKind) -> String {
    let what = match kind {
        MergeFailureKind::Conflict { .. } => "the conflict",
        MergeFailureKind::GateFailed { .. }
        | MergeFailureKind::GateTimeout { .. }
        | MergeFailureKind::NoCommits
        | MergeFailureKind::EmptyDiff
        | MergeFailureKind::BaseMoved
        | MergeFailureKind::PushRefused { .. }
        | MergeFailureKind::Infrastructure { .. } => "the failed merge",
    };
    format!("{}: {agent} resolves {what}.", head(item))
}

/// Its gates failed and its coder goes on.
pub(super) fn sent_back(item: &Item, why: &str, retries: u32) -> String {
    format!("{}: back to the coder (retry {retries}). {why}", head(item))
}

/// QA or a merge sent it back.
pub(super) fn returned(item: &Item, note: &str) -> String {
    format!("{} goes back to a coder. {note}", head(item))
}

/// A QA agent is to check it.
pub(super) fn to_qa(item: &Item, commit: &str) -> String {
    format!("{}: the gates pass on {}; QA checks it next.", head(item), short(commit))
}

/// A person is to decide.
pub(super) fn review(item: &Item, commit: &str) -> String {
    let id = item.id;
    format!(
        "{}: the gates pass on {}. `diff {id}` shows it, `approve {id}` merges it, `reject {id} \
         why` turns it down.",
        head(item),
        short(commit)
    )
}

/// It is in the merge queue.
pub(super) fn queued(item: &Item, commit: &str) -> String {
    format!("{}: the gates pass on {}; it is in the merge queue.", head(item), short(commit))
}

/// It is on the base branch.
pub(super) fn merged(item: &Item, commit: &str) -> String {
    format!("{} is merged as {}.", head(item), short(commit))
}

/// A merge failed.
pub(super) fn merge_failed(item: &Item, kind: &MergeFailureKind, output: &str) -> String {
    format!("{} could not be merged: {}.\n\n{}", head(item), failure_in_words(kind), fenced(output))
}

/// A merge failed too often.
pub(super) fn merge_failed_for_good(item: &Item, kind: &MergeFailureKind, output: &str) -> String {
    let id = item.id;
    format!(
        "{} could not be merged, for the third time: {}. It is not tried again by itself; \
         `start {id}` gives it to a mergemaster (or a coder, where there is none), `move {id} coding` \
         to a coder.\n\n{}",
        head(item),
        failure_in_words(kind),
        fenced(output)
    )
}

/// It is blocked.
pub(super) fn blocked(item: &Item, reason: &str) -> String {
    let id = item.id;
    let (first, rest) = reason.split_once('\n').unwrap_or((reason, ""));
    let first = first.trim_end_matches(['.', ':']);
    let rest = if rest.trim().is_empty() { String::new() } else { format!("\n\n{}", fenced(rest)) };
    format!("{} is blocked: {first}. `start {id}` tries again.{rest}", head(item))
}

/// An item that it depends on ended without being merged.
pub(super) fn orphaned(item: &Item, why: &str) -> String {
    format!("{} stays in the backlog: {why}.", head(item))
}

/// A provider made its agent wait.
pub(super) fn rate_limited(item: &Item, agent: &str, until: DateTime<Utc>) -> String {
    let until = until.format("%H:%M UTC");
    format!("{}: {agent} is rate limited and goes on by itself at {until}.", head(item))
}

/// An agent has something to say, or to ask.
pub(super) fn agent_said(item: &Item, agent: &str, said: &str) -> String {
    format!("{}: {agent}: {said}", head(item))
}

/// A runtime must not be used until a person acts.
pub(super) fn pool_paused(runtime: &str, reason: &str) -> String {
    format!("Agents that run on {runtime} are paused: {reason}")
}

/// A limit was reached.
pub(super) fn budget(what: &str) -> String {
    format!("A limit was reached: {what}")
}

/// What made a merge fail, as a clause.
pub(super) fn failure_in_words(kind: &MergeFailureKind) -> String {
    match kind {
        MergeFailureKind::Conflict { files } => {
            format!("it conflicts with the base branch in {}", files.join(", "))
        }
        MergeFailureKind::GateFailed { gate, exit: Some(exit) } => {
            format!("`{gate}` failed on the merged tree with exit code {exit}")
        }
        MergeFailureKind::GateFailed { gate, exit: None } => {
            format!("`{gate}` was ended by a signal on the merged tree")
        }
        MergeFailureKind::GateTimeout { gate } => {
            format!("`{gate}` ran out of time on the merged tree")
        }
        MergeFailureKind::NoCommits => "its branch has no commit of its own".to_owned(),
        MergeFailureKind::EmptyDiff => {
            "its commits change nothing against the base branch".to_owned()
        }
        MergeFailureKind::BaseMoved => "the base branch moved under every attempt".to_owned(),
        MergeFailureKind::PushRefused { reason } => {
            format!("the remote did not take it ({reason})")
        }
        MergeFailureKind::Infrastructure { what } => {
            format!("the machine failed ({what}); it is tried again by itself")
        }
    }
}
