//! Objects and refs: merging in memory, making commits, moving refs by compare-and-swap.

use super::{CHECKOUT_TIMEOUT, Git, GitError, REMOTE_TIMEOUT};
use std::path::Path;

/// The old value of a ref that must not exist yet.
const ABSENT: &str = "0000000000000000000000000000000000000000";

/// How a trial merge came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeTree {
    /// It is clean; this is the merged tree.
    Clean(String),
    /// These files are in conflict.
    Conflict(Vec<String>),
}

/// How a compare-and-swap of a ref came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefUpdate {
    /// The ref stands at the new value.
    Moved,
    /// The ref did not stand at the expected value and was left alone.
    Lost,
}

/// Whom a commit is authored and committed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name.
    pub name: String,
    /// The address.
    pub email: String,
}

impl Identity {
    /// Reads `Name <address>`; what has no address gets `musher@localhost`.
    pub fn parse(text: &str) -> Self {
        let clean = |part: &str| part.replace(['<', '>', '\n', '\r'], "").trim().to_owned();
        let (name, email) = text.split_once('<').unwrap_or((text, ""));
        let (name, email) = (clean(name), clean(email));
        Self {
            name: if name.is_empty() { "Musher".to_owned() } else { name },
            email: if email.is_empty() { "musher@localhost".to_owned() } else { email },
        }
    }
}

impl Git {
    /// Merges `theirs` into `ours` in memory; no checkout is touched.
    pub async fn merge_tree(&self, ours: &str, theirs: &str) -> Result<MergeTree, GitError> {
        let finished = self
            .call("merge-tree")
            .args(["--write-tree", "-z", "--name-only", "--no-messages", ours, theirs])
            .limit(CHECKOUT_TIMEOUT)
            .finish()
            .await?;
        let text = String::from_utf8_lossy(&finished.stdout).into_owned();
        let mut fields = text.split('\0').filter(|field| !field.is_empty());
        let tree = fields.next().unwrap_or_default().trim().to_owned();
        match finished.code {
            Some(0) if !tree.is_empty() => Ok(MergeTree::Clean(tree)),
            Some(1) => {
                let mut files: Vec<String> = fields.map(str::to_owned).collect();
                files.dedup();
                Ok(MergeTree::Conflict(files))
            }
            Some(_) | None => Err(finished.failure("merge-tree", &self.dir)),
        }
    }

    /// The tree of a commit.
    pub async fn tree_of(&self, commit: &str) -> Result<String, GitError> {
        self.find_object(&format!("{commit}^{{tree}}")).await?.ok_or_else(|| GitError::Unexpected {
            what: "rev-parse".to_owned(),
            answer: format!("there is no commit `{commit}`"),
        })
    }

    /// Makes a commit object of a tree; no ref is moved.
    pub async fn commit_tree(
        &self,
        tree: &str,
        parents: &[&str],
        message: &str,
        author: &Identity,
    ) -> Result<String, GitError> {
        let mut call = self.call("commit-tree").arg(tree);
        for parent in parents {
            call = call.args(["-p", parent]);
        }
        call.env("GIT_AUTHOR_NAME", &author.name)
            .env("GIT_AUTHOR_EMAIL", &author.email)
            .env("GIT_COMMITTER_NAME", &author.name)
            .env("GIT_COMMITTER_EMAIL", &author.email)
            .stdin(message)
            .text()
            .await
    }

    /// Moves `name` (in full, such as `refs/heads/main`) from `old` to `new`, if it still stands at
    /// `old`; `None` means that it must not exist yet.
    pub async fn update_ref(
        &self,
        name: &str,
        new: &str,
        old: Option<&str>,
        reason: &str,
    ) -> Result<RefUpdate, GitError> {
        let expected = old.unwrap_or(ABSENT);
        let outcome = self
            .call("update-ref")
            .args(["--create-reflog", "-m", reason, name, new, expected])
            .text()
            .await;
        match outcome {
            Ok(_) => Ok(RefUpdate::Moved),
            Err(error) => {
                // Whether it lost is read from the ref, not from the words of the complaint.
                let stands = self.find_commit(name).await?;
                if stands.as_deref() == old { Err(error) } else { Ok(RefUpdate::Lost) }
            }
        }
    }

    /// Deletes `name`, if it still stands at `old`.
    pub async fn delete_ref(&self, name: &str, old: &str) -> Result<(), GitError> {
        self.call("update-ref").args(["-d", name, old]).text().await.map(drop)
    }

    /// Makes a tree of the files that lie in the worktree (ignored ones aside), using the index
    /// file `index`, which must not be the worktree's own. Neither worktree nor index is touched.
    pub(crate) async fn tree_of_files(&self, index: &Path) -> Result<String, GitError> {
        if self.find_commit("HEAD").await?.is_some() {
            let read = self.call("read-tree").arg("HEAD").env("GIT_INDEX_FILE", index);
            read.text().await?;
        }
        self.call("add")
            .args(["--all", "--", "."])
            .env("GIT_INDEX_FILE", index)
            .limit(CHECKOUT_TIMEOUT)
            .text()
            .await?;
        self.call("write-tree").env("GIT_INDEX_FILE", index).text().await
    }

    /// Paths that are repositories of their own in `tree`: their content is not in it.
    pub(crate) async fn nested_repositories(&self, tree: &str) -> Result<Vec<String>, GitError> {
        let bytes = self.call("ls-tree").args(["-r", "-z", tree]).bytes().await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let links = text.split('\0').filter(|line| line.starts_with("160000 "));
        Ok(links
            .filter_map(|line| line.split_once('\t'))
            .map(|(_, path)| path.to_owned())
            .collect())
    }

    /// The stash's entries as (commit, subject), newest first; shared by all worktrees.
    pub(crate) async fn stashes(&self) -> Result<Vec<(String, String)>, GitError> {
        if self.find_object("refs/stash").await?.is_none() {
            return Ok(Vec::new());
        }
        let text =
            self.call("log").args(["-g", "--format=%H %gs", "refs/stash", "--"]).text().await?;
        let split = |line: &str| line.split_once(' ').map(|(id, s)| (id.to_owned(), s.to_owned()));
        Ok(text.lines().filter_map(split).collect())
    }

    /// Whether a checkout's index is exactly at `commit`, whatever its files hold.
    pub(crate) async fn index_is_at(&self, commit: &str) -> Result<bool, GitError> {
        self.same(&["--cached", commit]).await
    }

    /// Whether a checkout's files and index are exactly those of `commit`, new files aside.
    pub(crate) async fn files_are_at(&self, commit: &str) -> Result<bool, GitError> {
        // Refreshes the cached file times first; its exit code tells of differences, as the next
        // two calls do reliably.
        let refresh = self.call("update-index").args(["-q", "--refresh"]);
        refresh.limit(CHECKOUT_TIMEOUT).finish().await?;
        Ok(self.index_is_at(commit).await? && self.same(&["--no-ext-diff", commit]).await?)
    }

    async fn same(&self, args: &[&str]) -> Result<bool, GitError> {
        let mut call = self.call("diff-index").arg("--quiet");
        for arg in args {
            call = call.arg(arg);
        }
        let finished = call.arg("--").limit(CHECKOUT_TIMEOUT).finish().await?;
        match finished.code {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            Some(_) | None => Err(finished.failure("diff-index", &self.dir)),
        }
    }

    /// Takes a checkout whose files are at `old` to `new`; what was changed by hand is kept, and
    /// where that is not possible nothing is changed and it is an error. Safe to repeat.
    pub(crate) async fn advance_files(
        &self,
        old: &str,
        new: &str,
        dry_run: bool,
    ) -> Result<(), GitError> {
        let mut call = self.call("read-tree").args(["-m", "-u"]);
        if dry_run {
            call = call.arg("-n");
        }
        call.args([old, new]).limit(CHECKOUT_TIMEOUT).text().await.map(drop)
    }

    /// Throws away what is not committed in a worktree, new files included; what is ignored stays.
    pub async fn discard_changes(&self) -> Result<(), GitError> {
        self.call("reset").args(["-q", "--hard"]).limit(CHECKOUT_TIMEOUT).text().await?;
        self.call("clean").args(["-q", "-f", "-d"]).limit(CHECKOUT_TIMEOUT).text().await?;
        Ok(())
    }

    /// Moves the checked-out branch of a clean worktree forward to `commit`.
    pub(crate) async fn fast_forward(&self, commit: &str) -> Result<(), GitError> {
        let call = self.call("merge").args(["--ff-only", "--quiet", commit]);
        call.limit(CHECKOUT_TIMEOUT).text().await.map(drop)
    }

    /// Checks out a branch in a clean worktree.
    pub(crate) async fn switch(&self, branch: &str) -> Result<(), GitError> {
        let call = self.call("switch").args(["--quiet", "--no-guess", branch]);
        call.limit(CHECKOUT_TIMEOUT).text().await.map(drop)
    }

    /// Brings the checkout up to what its branch is at on the remote, if that is ahead of it.
    pub async fn pull_ff(&self) -> Result<(), GitError> {
        let call = self.call("pull").args(["--ff-only", "--quiet"]);
        call.limit(REMOTE_TIMEOUT).text().await.map(drop)
    }
}
