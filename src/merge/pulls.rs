//! Pull requests, for projects in which people merge.
//!
//! An item's branch is tested on the remote's base, pushed as it is, and the configured command
//! opens the pull request. The row stays in the queue, holds up nobody, and goes with the item's
//! work: as soon as the remote's base holds it, however it was merged there.

use super::batch::Link;
use super::remote::Remote;
use super::{MergeService, Step, Stop};
use crate::model::chat::Outgoing;
use crate::model::event::Event;
use crate::model::ids::SessionKey;
use crate::model::stage::MergeFailureKind;
use crate::project::git::{Git, GitError, MergeTree, Push};
use crate::project::shell::{self, End, ShellCommand};
use crate::project::{Project, worktree};
use crate::redact::redact;
use crate::store::merge_pulls::{self, Landed, Pull};
use crate::store::{items, log, merge_queue, merge_state, outbox};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long the command that opens a pull request may take.
const OPEN_LIMIT: Duration = Duration::from_secs(120);

/// How many of the remote's newest commits are searched for an item's work in one look.
const SEARCHED: usize = 500;

/// How many lines of the command's output are shown.
const SHOWN_LINES: usize = 15;

impl MergeService {
    /// Pushes an item's branch, whose merge has passed, and opens its pull request.
    pub(super) async fn open_pull(
        &self,
        project: &Project,
        remote: &Remote,
        link: &Link,
        cancel: &CancellationToken,
    ) -> Result<(), Stop> {
        let (item, git) = (link.row.item, project.git());
        let refused = |reason: String| MergeFailureKind::PushRefused { reason };
        let branch = worktree::find_branch(&git, item).await?;
        let branch = branch.unwrap_or_else(|| worktree::branch_of(item, &link.facts.name));
        match git.push(&remote.name, &link.row.commit, &branch, None).await? {
            Push::Done => {}
            Push::Moved { .. } => {
                let reason = format!("`{branch}` was moved on {} by somebody else", remote.name);
                return Ok(self.give_back(&link.row, refused(reason.clone()), reason).await?);
            }
            Push::Refused { reason } => {
                return Ok(self.give_back(&link.row, refused(reason.clone()), reason).await?);
            }
        }
        self.reached(Step::Pushed).await;
        let url = match self.run_pr_command(project, remote, link, &branch, cancel).await? {
            Ok(url) => url,
            Err((reason, output)) => {
                return Ok(self.give_back(&link.row, refused(reason), output).await?);
            }
        };
        self.reached(Step::Opened).await;
        let seen = remote.tip.clone().unwrap_or_default();
        let pull = Pull { item, branch, commit: link.row.commit.clone(), url, seen };
        let (name, bound, title) =
            (project.name.clone(), project.room.clone(), link.facts.name.clone());
        self.store
            .write(move |tx| {
                let row = merge_queue::find(tx, item)?;
                merge_pulls::put(tx, &name, &pull)?;
                merge_state::set_polled(tx, &name)?;
                let room = merge_queue::room_for(tx, item, &name, bound)?;
                let Some(room) = room.filter(|_| row.is_some()) else { return Ok(()) };
                let text = format!(
                    "**#{item} {title}**: pull request open: {}. It is done as soon as that is \
                     merged.",
                    pull.url
                );
                let outgoing = Outgoing::text(SessionKey::main(room), text).about(item);
                let key = format!("merge-pull:{item}:{}", pull.commit);
                outbox::enqueue(tx, &outgoing, Some(&key)).map(drop)
            })
            .await?;
        self.reached(Step::PullNoted).await;
        Ok(())
    }

    /// Runs the command; gives the URL that it printed last, or why there is none with its output.
    async fn run_pr_command(
        &self,
        project: &Project,
        remote: &Remote,
        link: &Link,
        branch: &str,
        cancel: &CancellationToken,
    ) -> Result<Result<String, (String, String)>, Stop> {
        let item = link.row.item;
        let command = project.pr_command.as_deref().unwrap_or_default();
        let known = self.store.read(move |conn| merge_pulls::find(conn, item)).await?;
        let env = [
            ("MUSHER_ITEM", item.to_string()),
            ("MUSHER_BRANCH", branch.to_owned()),
            ("MUSHER_BASE", project.base.clone()),
            ("MUSHER_REMOTE", remote.name.clone()),
            ("MUSHER_TITLE", link.facts.name.clone()),
            ("MUSHER_BODY", link.facts.body.clone()),
            ("MUSHER_PR_URL", known.map(|pull| pull.url).unwrap_or_default()),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let shell =
            ShellCommand { command, cwd: &project.path, limit: OPEN_LIMIT, env: &env, cancel };
        let ran = shell::run(shell).await;
        let ran = ran.map_err(|error| Stop::pause(format!("cannot run `{command}`: {error}")))?;
        let output = worktree::last_lines(&ran.output, SHOWN_LINES);
        let failed = |how: String| Ok(Err((format!("`{command}` {how}"), output.clone())));
        match ran.end {
            End::Exited(0) => match last_url(&ran.output) {
                Some(url) => Ok(Ok(redact(url))),
                None => failed("printed no URL of a pull request".to_owned()),
            },
            End::Exited(code) => failed(format!("failed with exit {code}")),
            End::Signalled(_) => failed("was ended by a signal".to_owned()),
            End::TimedOut => failed(format!("took longer than {} s", OPEN_LIMIT.as_secs())),
            End::Cancelled => Err(Stop::Cancelled),
        }
    }

    /// Looks whether the remote's base holds the work of open pull requests by now.
    pub(super) async fn look_at_pulls(
        &self,
        project: &Project,
        remote: &Remote,
    ) -> Result<(), Stop> {
        let name = project.name.clone();
        let pulls = self.store.read(move |conn| merge_pulls::list(conn, &name)).await?;
        let git = project.git();
        for pull in pulls {
            let tip = remote.tip.clone().unwrap_or_default();
            if tip == pull.seen {
                continue;
            }
            let held = match holder(&git, &pull, &tip).await {
                Ok(held) => held,
                Err(error) => {
                    tracing::warn!(item = %pull.item, %error, "cannot look for a pull request");
                    continue;
                }
            };
            let (item, name) = (pull.item, project.name.clone());
            self.store
                .write(move |tx| {
                    if items::find(tx, item)?.is_none() {
                        return merge_pulls::remove(tx, item);
                    }
                    let Some(landed) = held else { return merge_pulls::set_seen(tx, item, &tip) };
                    merge_pulls::remove(tx, item)?;
                    // A row with a newer commit is dropped too: its item is done.
                    merge_queue::remove(tx, item)?;
                    let (commit, holds) = (pull.commit, landed.clone());
                    merge_pulls::put_landed(tx, item, &name, &Landed { commit, landed: holds })?;
                    log::append_event(tx, &Event::Merged { item, commit: landed }).map(drop)
                })
                .await?;
        }
        let name = project.name.clone();
        self.store.write(move |tx| merge_state::set_polled(tx, &name)).await?;
        Ok(())
    }

    /// Forgets the pull requests of a project in which Musher merges: its items are merged then.
    pub(super) async fn forget_pulls(&self, project: &Project) -> Result<(), Stop> {
        let name = project.name.clone();
        let pulls = self.store.read(move |conn| merge_pulls::list(conn, &name)).await?;
        if !pulls.is_empty() {
            self.store
                .write(move |tx| {
                    pulls.iter().try_for_each(|pull| merge_pulls::remove(tx, pull.item))
                })
                .await?;
        }
        Ok(())
    }
}

/// The commit of the remote's base with which it holds the work of a pull request; `None`: not yet.
///
/// Merged or rebased as it is, the commit is reachable. Squashed, there is a commit to which
/// merging the work would add nothing; later ones may have changed the same lines again.
async fn holder(git: &Git, pull: &Pull, tip: &str) -> Result<Option<String>, GitError> {
    let path = if !pull.seen.is_empty() && git.is_ancestor(&pull.seen, tip).await? {
        git.path_between(&pull.seen, tip, SEARCHED).await?
    } else {
        vec![tip.to_owned()]
    };
    let reachable = git.is_ancestor(&pull.commit, tip).await?;
    for commit in path {
        let holds = if reachable {
            git.is_ancestor(&pull.commit, &commit).await?
        } else {
            match git.merge_tree(&commit, &pull.commit).await? {
                MergeTree::Clean(tree) => tree == git.tree_of(&commit).await?,
                MergeTree::Conflict(_) => false,
            }
        };
        if holds {
            return Ok(Some(commit));
        }
    }
    Ok(reachable.then(|| tip.to_owned()))
}

/// The last URL in some output.
fn last_url(output: &str) -> Option<&str> {
    output.split_whitespace().rev().find_map(|word| {
        let word = word.trim_matches(['<', '>', '"', '\'', '(', ')', '.', ',']);
        (word.starts_with("https://") || word.starts_with("http://")).then_some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_url_of_the_output_is_the_pull_requests() {
        for (output, expected) in [
            ("https://forge.example.org/7\n", Some("https://forge.example.org/7")),
            (
                "remote: see https://forge.example.org/help\ncreated <http://x/pulls/8>.\n",
                Some("http://x/pulls/8"),
            ),
            ("created it\n", None),
        ] {
            assert_eq!(last_url(output), expected);
        }
    }
}
