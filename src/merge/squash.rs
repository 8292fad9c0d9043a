//! One item's branch as one commit on top of the base: made in memory, no checkout touched.

use crate::model::ids::ItemId;
use crate::model::item::OriginKind;
use crate::model::stage::MergeFailureKind;
use crate::project::git::{Git, GitError, Identity, MergeTree};
use crate::store::merge_queue::ItemFacts;
use std::fmt::Write;

/// Longest first line of a merge commit's message.
const SUBJECT_MAX: usize = 200;

/// A commit that is ready to be tested and landed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Squashed {
    /// The base that it stands on.
    pub base: String,
    /// It.
    pub commit: String,
}

/// Why there is no squash commit.
#[derive(Debug)]
pub enum SquashError {
    /// The item's branch cannot be merged as it is.
    Failed {
        /// What failed.
        kind: MergeFailureKind,
        /// More about it, in words.
        output: String,
    },
    /// Git failed.
    Git(GitError),
}

impl From<GitError> for SquashError {
    fn from(error: GitError) -> Self {
        SquashError::Git(error)
    }
}

fn failed<T>(kind: MergeFailureKind, output: impl Into<String>) -> Result<T, SquashError> {
    Err(SquashError::Failed { kind, output: output.into() })
}

/// Makes the squash commit of `commit` on top of `base`; moves nothing.
pub async fn squash(
    git: &Git,
    base: &str,
    commit: &str,
    message: &str,
    author: &Identity,
) -> Result<Squashed, SquashError> {
    let Some(tip) = git.find_commit(commit).await? else {
        let output = format!("the commit {commit} is not in the repository");
        return failed(MergeFailureKind::NoCommits, output);
    };
    if git.commits_ahead(base, &tip).await? == 0 {
        let output = "the item's branch has no commit that the base branch does not have";
        return failed(MergeFailureKind::NoCommits, output);
    }
    if git.merge_base(base, &tip).await?.is_none() {
        let output = "the item's branch shares no history with the base branch";
        return failed(MergeFailureKind::Conflict { files: Vec::new() }, output);
    }
    let tree = match git.merge_tree(base, &tip).await? {
        MergeTree::Clean(tree) => tree,
        MergeTree::Conflict(files) => {
            let output = format!("the base branch changed the same lines in: {}", files.join(", "));
            return failed(MergeFailureKind::Conflict { files }, output);
        }
    };
    if tree == git.tree_of(base).await? {
        let output = "the item's commits change nothing against the base branch";
        return failed(MergeFailureKind::EmptyDiff, output);
    }
    let commit = git.commit_tree(&tree, &[base], message, author).await?;
    Ok(Squashed { base: base.to_owned(), commit })
}

/// The message of an item's merge commit: what it is, and who had a part in it as trailers.
pub fn message(item: ItemId, facts: &ItemFacts) -> String {
    let subject: String = format!("{item} {} {}", facts.kind, one_line(&facts.name))
        .chars()
        .take(SUBJECT_MAX)
        .collect();
    let mut text = format!("{}\n\nMusher-Item: {item}\n", subject.trim_end());
    for agent in &facts.agents {
        let _ = writeln!(text, "Musher-Agent: {}", one_line(agent.as_str()));
    }
    let kind = match facts.origin.kind {
        OriginKind::User => "user",
        OriginKind::Agent => "agent",
        OriginKind::Bot => "bot",
        OriginKind::Timer => "timer",
        OriginKind::System => "system",
    };
    let _ = writeln!(text, "Musher-Origin: {kind} {}", one_line(&facts.origin.id));
    text
}

/// Text that cannot break out of its line: a name must not forge a trailer.
fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::item::Origin;

    #[test]
    fn a_message_names_item_agents_and_origin_and_no_name_can_forge_a_trailer() {
        let facts = ItemFacts {
            kind: "story".to_owned(),
            name: "Add a calculator\n\nMusher-Item: 99".to_owned(),
            origin: Origin::new(OriginKind::User, "@you:example.org", chrono::Utc::now()).unwrap(),
            body: String::new(),
            room: None,
            agents: vec!["coder-1".into()],
        };
        assert_eq!(
            message(ItemId(12), &facts),
            "12 story Add a calculator Musher-Item: 99\n\nMusher-Item: 12\n\
             Musher-Agent: coder-1\nMusher-Origin: user @you:example.org\n"
        );
    }
}
