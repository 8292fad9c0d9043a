//! What work says in a room. Every text that people read stands here.

use super::world::DiffSummary;
use crate::model::ids::ItemId;
use crate::model::item::{Item, Origin, OriginKind};
use crate::model::stage::{MergeFailureKind, Stage};
use crate::project::git::FileChange;
use crate::store::gate_runs::GateRunRow;
use chrono::{DateTime, Duration, Utc};
use std::fmt::Write;

/// How many lines of output a message shows.
const TAIL_LINES: usize = 15;
/// The longest line of output that a message shows, in characters.
const LINE_MAX: usize = 300;
/// How many changed files a message lists.
const FILES_MAX: usize = 8;

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

/// What a person is to decide on: the commit, what it changes, and what the gates said.
pub(super) fn review(
    item: &Item,
    commit: &str,
    summary: Result<&DiffSummary, &str>,
    gates: &[GateRunRow],
) -> String {
    let id = item.id;
    let mut out = format!("{} waits for your verdict on {}.\n", head(item), short(commit));
    match summary {
        Ok(summary) => out.push_str(&changes(summary)),
        Err(why) => {
            let _ = writeln!(out, "\nWhat it changes cannot be shown: {}.", first_line(why));
        }
    }
    let failed = gates.iter().find(|run| !run.passed);
    let names: Vec<String> = gates.iter().map(|run| format!("`{}`", run.gate)).collect();
    let _ = match failed {
        None if gates.is_empty() => writeln!(out, "\nNo gate ran on it."),
        None => writeln!(out, "\nGates passed: {}.", names.join(", ")),
        Some(run) => {
            let how = match (run.timed_out, run.exit) {
                (true, _) => "ran out of time".to_owned(),
                (false, Some(exit)) => format!("failed with exit {exit}"),
                (false, None) => "was killed".to_owned(),
            };
            writeln!(out, "\n⚠️ The gate `{}` {how}:\n\n{}", run.gate, fenced(&run.output))
        }
    };
    let _ = write!(out, "\n`diff {id}` shows it.");
    out
}

/// Files with the lines added and removed, the largest changes first.
fn changes(summary: &DiffSummary) -> String {
    let size = |file: &FileChange| file.added.unwrap_or(0) + file.removed.unwrap_or(0);
    let mut files: Vec<&FileChange> = summary.files.iter().collect();
    files.sort_by_key(|file| std::cmp::Reverse(size(file)));
    let sum =
        |of: fn(&FileChange) -> Option<u64>| -> u64 { files.iter().copied().filter_map(of).sum() };
    let mut out = format!(
        "\n{}, +{} −{}, {}\n",
        count(files.len() as u64, "file"),
        sum(|file| file.added),
        sum(|file| file.removed),
        count(summary.commits, "commit")
    );
    for file in files.iter().take(FILES_MAX) {
        let path = cut(&file.path).replace('`', "'");
        let _ = match (file.added, file.removed) {
            (Some(added), Some(removed)) => writeln!(out, "- `{path}` +{added} −{removed}"),
            (None, _) | (_, None) => writeln!(out, "- `{path}` (binary)"),
        };
    }
    if files.len() > FILES_MAX {
        let _ = writeln!(out, "- and {} more", files.len() - FILES_MAX);
    }
    out
}

/// A number of things.
pub(super) fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// How a person says what they decided.
pub(super) fn how_to_decide(id: ItemId) -> String {
    format!(
        "**👍 merges it, 👎 turns it down.** Or reply to this message, or say `approve {id}` or \
         `reject {id} why`."
    )
}

/// What became of a question about an item that is now at `to`, or deleted.
pub(super) fn verdict(to: Option<&Stage>, cause: &str, origin: &Origin) -> String {
    let who = &origin.id;
    match (to, origin.kind) {
        (Some(Stage::Merge { .. }), OriginKind::User) => {
            format!("✅ **Approved** by {who}; it is in the merge queue.")
        }
        (Some(Stage::Rejected { reason }), OriginKind::User) => {
            format!("❌ **Rejected** by {who}: {}", first_line(reason))
        }
        (Some(Stage::ReviewHold { commit, .. }), _) => {
            format!("↪️ **Closed**: there is a newer commit, {}, and I ask anew.", short(commit))
        }
        (Some(to), _) => {
            let stage = to.name().replace('_', " ");
            format!("**Closed**: it is in {stage} now ({}).", first_line(cause))
        }
        (None, _) => format!("**Closed**: {}.", first_line(cause)),
    }
}

/// Somebody has not decided yet.
pub(super) fn review_reminder(item: &Item, commit: &str, waited: &str) -> String {
    let id = item.id;
    format!(
        "⏰ {} has waited for your verdict on {} for {waited}. 👍 or 👎 this message, reply to it, or \
         say `approve {id}` or `reject {id} why`; `diff {id}` shows it.",
        head(item),
        short(commit)
    )
}

/// A span of time, as people say it.
pub(super) fn span(span: Duration) -> String {
    let minutes = span.num_minutes();
    match minutes {
        ..1 => "less than a minute".to_owned(),
        1..120 => count(minutes.unsigned_abs(), "minute"),
        120..2880 => count(span.num_hours().unsigned_abs(), "hour"),
        _ => count(span.num_days().unsigned_abs(), "day"),
    }
}

/// It is in the merge queue.
pub(super) fn queued(item: &Item, commit: &str) -> String {
    format!("{}: the gates pass on {}; it is in the merge queue.", head(item), short(commit))
}

/// It is on the base branch.
pub(super) fn merged(item: &Item, commit: &str) -> String {
    format!("{} is merged as {}.", head(item), short(commit))
}

/// It is complete without a merge of its own.
pub(super) fn finished(item: &Item, why: &str) -> String {
    format!("🎉 {} is finished: {}.", head(item), why.trim_end_matches('.'))
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

/// Something must not be used until a condition clears.
pub(super) fn paused(what: &str, reason: &str) -> String {
    let reason = reason.trim().trim_end_matches('.');
    format!(
        "{what} are paused: {reason}. It is tried again by itself, more and more rarely; \
         `resume all` tries it at once."
    )
}

/// What was paused works again.
pub(super) fn goes_on(what: &str) -> String {
    format!("{what} go on: what kept them is over.")
}

/// Something on our side keeps an item from going on.
pub(super) fn trouble(item: &Item, what: &str) -> String {
    let what = what.trim().trim_end_matches('.');
    format!(
        "{} has to wait, through no fault of its own: {what}. It is tried again by itself.",
        head(item)
    )
}

/// Work landed although its item had ended otherwise.
pub(super) fn landed_late(item: &Item, commit: &str) -> String {
    format!(
        "{} is on the base branch as {}, although it was {}: it stays there unless somebody \
         reverts it.",
        head(item),
        short(commit),
        item.stage.name().replace('_', " ")
    )
}

/// What the watchdog saw or did.
pub(super) fn watched(item: &Item, agent: &str, what: &str) -> String {
    format!("⏳ {}: {agent} {}.", head(item), what.trim().trim_end_matches('.'))
}

/// An agent cannot reach its model.
pub(super) fn unreachable(item: &Item, agent: &str, message: &str, until: DateTime<Utc>) -> String {
    let (message, until) = (message.trim().trim_end_matches('.'), until.format("%H:%M:%S UTC"));
    format!(
        "{}: {agent} cannot reach its model: {message}. It tries again by itself, next at {until}.",
        head(item)
    )
}

/// Work of an item that has ended was saved from its worktree.
pub(super) fn rescued(item: ItemId, name: &str, refs: &[String]) -> String {
    let refs: Vec<String> = refs.iter().map(|name| format!("`{name}`")).collect();
    format!(
        "**#{item} {name}**: its worktree is removed. What was in it and on no branch is kept as \
         {}; `git branch NAME REF` brings it back.",
        refs.join(", ")
    )
}

/// The worktree of an item that has ended cannot be removed.
pub(super) fn worktree_stays(item: ItemId, name: &str, error: &str) -> String {
    let error = error.trim().trim_end_matches('.');
    format!(
        "**#{item} {name}** has ended, but its worktree stays: {error}. It is tried again by itself."
    )
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
