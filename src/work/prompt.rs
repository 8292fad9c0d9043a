//! What an agent is told when it is started on an item.
//!
//! The item's text was written by people and goes in verbatim, between marks that say so. The
//! role's own rules stand in `prompts/ROLE.md` and reach the agent through its runtime.

use super::{lead, text};
use crate::model::agent::Role;
use crate::model::item::Item;
use crate::model::stage::MergeFailureKind;

/// The first prompt of a session on `item`: the task, and `note`, what an earlier attempt left.
pub(super) fn coder(item: &Item, base: &str, gates: &[String], note: Option<&str>) -> String {
    let mut text = task(item);
    text.push_str(&format!(
        "\n\nYou are in a git worktree of your own, on a branch made for this item from `{base}`. \
         Work only inside it. When the work is finished, commit all of it on this branch with a \
         clear message (nothing may be left uncommitted), then call `report_done` with a summary \
         of one or two sentences."
    ));
    push_gates(&mut text, gates);
    if let Some(note) = note {
        text.push_str(&format!(
            "\n\nThe work was begun before; look at what the branch already holds. Why it comes \
             back:\n\n{note}"
        ));
    }
    text
}

/// The first prompt of a QA agent.
pub(super) fn qa(item: &Item, base: &str, commit: &str) -> String {
    format!(
        "{}\n\nA coder says that this is done, and the project's gates pass. Check the work: it \
         stands in this worktree as commit {commit} on a branch made from `{base}`. Change no file. \
         Report with `report_done`: `outcome` `qa_passed`, or `qa_failed` with `findings` that a \
         coder can act on.",
        task(item)
    )
}

/// The first prompt of a mergemaster: the branch that does not go onto its base.
pub(super) fn mergemaster(
    item: &Item,
    base: &str,
    gates: &[String],
    kind: &MergeFailureKind,
    output: &str,
) -> String {
    let mut text = format!(
        "{}\n\nThe work is done and stands on the branch of this worktree, but it could not be \
         merged onto `{base}`: {}.\n\n{}\n\nBring `{base}` into the branch (`git merge {base}`), \
         resolve what conflicts so that both sides keep their meaning, and commit. Do not move \
         `{base}` itself.",
        task(item),
        text::failure_in_words(kind),
        text::fenced(output)
    );
    if !gates.is_empty() {
        text.push_str("\n\nThese commands must succeed on the result:\n");
        for gate in gates {
            text.push_str(&format!("\n    {gate}"));
        }
    }
    text.push_str(
        "\n\nThen call `report_done` with `outcome` `merged` and the `commit` (`git rev-parse \
         HEAD`). If the two sides contradict each other in meaning, report `merge_failed` and say \
         what a person has to decide.",
    );
    text
}

/// The first prompt of a lead; `children` is what an earlier lead has handed out.
pub(super) fn lead(item: &Item, base: &str, children: &[Item]) -> String {
    let mut text = format!(
        "{}\n\nYou lead this. You are in a worktree that shows `{base}`, to read in. Split the item \
         into child items, start them, and wait for them (`wait_for` with `children`). The item is \
         finished when you report and all child items are done.",
        task(item)
    );
    if !children.is_empty() {
        text.push_str("\n\nHanded out so far:\n");
        text.push_str(&lead::children_in_words(children));
    }
    text
}

/// The first prompt of a scout or reviewer.
pub(super) fn reader(item: &Item, base: &str, note: Option<&str>) -> String {
    let mut text = format!(
        "{}\n\nYou are in a worktree that shows `{base}`, to read in; change nothing. What you find \
         goes into the summary of `report_done`, which ends the item.",
        task(item)
    );
    if let Some(note) = note {
        text.push_str(&format!("\n\nIt was begun before. Why it comes back:\n\n{note}"));
    }
    text
}

/// Asks for nothing but a commit.
pub(super) fn commit_only(dirty: &[String]) -> String {
    let what = if dirty.is_empty() {
        "Your branch has no commit of its own.".to_owned()
    } else {
        format!("These changes are not committed: {}.", list(dirty))
    };
    format!(
        "{what} Commit all the work that belongs to the item on this branch (what must not be \
         committed goes into .gitignore or away), then call `report_done` again. Do nothing else."
    )
}

/// Hands failing output back.
pub(super) fn mend(why: &str) -> String {
    format!(
        "{why}\n\nMend it, commit on this branch, and call `report_done` again. Mend the cause: do \
         not weaken or remove a check to make it pass."
    )
}

/// Goes on after an end that was not wanted.
pub(super) fn go_on(role: Role, item: &Item, reason: &str) -> String {
    let (look, end) = match role {
        Role::Coder | Role::Mergemaster => (
            "Look at what the worktree holds",
            "When it is finished, commit all of it on this branch and call `report_done`.",
        ),
        Role::Qa => (
            "Look at what you have found so far",
            "When you know, call `report_done` with `qa_passed`, or with `qa_failed` and findings.",
        ),
        Role::Lead => (
            "Look at what is handed out (`items_list`)",
            "While child items are open, wait for them with `wait_for`; when all are done, call \
             `report_done`.",
        ),
        Role::Scout | Role::Reviewer => (
            "Look at what you have found so far",
            "When you know, call `report_done` with your findings as its summary.",
        ),
    };
    format!(
        "Your work on this item was cut off ({reason}). {look}, and go on where it stopped.\n\n{}\n\n\
         {end}",
        task(item)
    )
}

fn push_gates(text: &mut String, gates: &[String]) {
    if !gates.is_empty() {
        text.push_str("\n\nThese commands must succeed before the work is accepted:\n");
        for gate in gates {
            text.push_str(&format!("\n    {gate}"));
        }
    }
}

fn task(item: &Item) -> String {
    let body = if item.body.trim().is_empty() { "(no further description)" } else { &item.body };
    format!(
        "Item {} of project {} ({}): {}\n\n<item>\n{}\n</item>",
        item.id,
        item.project,
        item.kind.as_str(),
        item.name,
        body
    )
}

fn list(paths: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = paths.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match paths.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
