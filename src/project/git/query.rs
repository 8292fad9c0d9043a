//! Questions that change nothing.

use super::call::Call;
use super::{Git, GitError};

/// A path that differs from the last commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedFile {
    /// Git's two letters, such as ` M` or `??`.
    pub state: String,
    /// The path, relative to the worktree.
    pub path: String,
}

/// What a branch changed of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// The path, relative to the repository.
    pub path: String,
    /// Lines added; `None` for a binary file.
    pub added: Option<u64>,
    /// Lines removed; `None` for a binary file.
    pub removed: Option<u64>,
}

/// A diff, perhaps cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffText {
    /// The diff.
    pub text: String,
    /// Whether there is more.
    pub truncated: bool,
}

impl Git {
    /// Whether the directory is the top of a repository or worktree.
    pub async fn is_repo(&self) -> Result<bool, GitError> {
        match self.call("rev-parse").args(["--git-dir"]).text().await {
            Ok(_) => Ok(true),
            Err(GitError::NotARepository(_) | GitError::NoDirectory(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The shared git directory, as an absolute path: the same for all worktrees of a repository.
    pub async fn common_dir(&self) -> Result<std::path::PathBuf, GitError> {
        let text = self
            .call("rev-parse")
            .args(["--path-format=absolute", "--git-common-dir"])
            .text()
            .await?;
        let path = std::path::PathBuf::from(text);
        Ok(path.canonicalize().unwrap_or(path))
    }

    /// The git directory of this worktree alone, as an absolute path.
    pub async fn git_dir(&self) -> Result<std::path::PathBuf, GitError> {
        let text = self.call("rev-parse").args(["--path-format=absolute", "--absolute-git-dir"]);
        Ok(text.text().await?.into())
    }

    /// The branch that is checked out, also when it has no commit yet; `None` when detached.
    pub async fn head_branch(&self) -> Result<Option<String>, GitError> {
        let finished =
            self.call("symbolic-ref").args(["--quiet", "--short", "HEAD"]).finish().await?;
        match finished.code {
            Some(0) => Ok(Some(String::from_utf8_lossy(&finished.stdout).trim().to_owned())),
            Some(1) => Ok(None),
            Some(_) | None => Err(finished.failure("symbolic-ref", &self.dir)),
        }
    }

    /// The commit that `name` stands for; `None` when there is none.
    pub async fn find_commit(&self, name: &str) -> Result<Option<String>, GitError> {
        self.find_object(&format!("{name}^{{commit}}")).await
    }

    /// The object that `name` stands for; `None` when there is none.
    pub async fn find_object(&self, name: &str) -> Result<Option<String>, GitError> {
        let finished = self
            .call("rev-parse")
            .args(["--verify", "--quiet", "--end-of-options", name])
            .finish()
            .await?;
        match finished.code {
            Some(0) => Ok(Some(String::from_utf8_lossy(&finished.stdout).trim().to_owned())),
            Some(1) => Ok(None),
            Some(_) | None => Err(finished.failure("rev-parse", &self.dir)),
        }
    }

    /// The commit that `name` stands for; an error when there is none.
    pub async fn rev_parse(&self, name: &str) -> Result<String, GitError> {
        self.find_commit(name).await?.ok_or_else(|| GitError::Unexpected {
            what: "rev-parse".to_owned(),
            answer: format!("there is no commit `{name}`"),
        })
    }

    /// The tip of a local branch; `None` when there is no such branch.
    pub async fn branch_tip(&self, branch: &str) -> Result<Option<String>, GitError> {
        self.find_commit(&format!("refs/heads/{branch}")).await
    }

    /// Whether a local branch exists.
    pub async fn branch_exists(&self, branch: &str) -> Result<bool, GitError> {
        Ok(self.branch_tip(branch).await?.is_some())
    }

    /// The names of refs under `prefix` (such as `refs/heads/item/7-`), without `refs/heads/`.
    ///
    /// The prefix is matched as text, whole path segments or not.
    pub async fn refs_under(&self, prefix: &str) -> Result<Vec<String>, GitError> {
        let folder = &prefix[..=prefix.rfind('/').unwrap_or(0)];
        let call = self.call("for-each-ref").args(["--format=%(refname)", folder]);
        let text = call.text().await?;
        Ok(text.lines().filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
    }

    /// Local branches under `folder` (such as `item/`) and `also` by name, each with its tip: one
    /// question for all.
    pub async fn branch_tips(
        &self,
        folder: &str,
        also: &str,
    ) -> Result<Vec<(String, String)>, GitError> {
        let (folder, also) = (format!("refs/heads/{folder}"), format!("refs/heads/{also}"));
        let call = self.call("for-each-ref").args(["--format=%(objectname) %(refname)"]);
        let text = call.args(["--", &folder, &also]).text().await?;
        let split = |line: &str| {
            let (tip, name) = line.split_once(' ')?;
            Some((name.strip_prefix("refs/heads/")?.to_owned(), tip.to_owned()))
        };
        Ok(text.lines().filter_map(split).collect())
    }

    /// The commits on the first-parent path from `from` (not included) to `to`, oldest first, at
    /// most the newest `limit` of them.
    pub async fn path_between(
        &self,
        from: &str,
        to: &str,
        limit: usize,
    ) -> Result<Vec<String>, GitError> {
        let (range, count) = (format!("{from}..{to}"), format!("--max-count={limit}"));
        let args = ["--first-parent", &count, "--end-of-options", &range, "--"];
        let text = self.call("rev-list").args(args).text().await?;
        let mut commits: Vec<String> = text.lines().map(str::to_owned).collect();
        commits.reverse();
        Ok(commits)
    }

    /// The names of the local branches.
    pub async fn branches(&self) -> Result<Vec<String>, GitError> {
        let names = self.refs_under("refs/heads/").await?;
        Ok(names.iter().filter_map(|n| n.strip_prefix("refs/heads/")).map(str::to_owned).collect())
    }

    /// What differs from the last commit; with `untracked`, new files that are not ignored too.
    pub async fn changed_files(&self, untracked: bool) -> Result<Vec<ChangedFile>, GitError> {
        let mode = if untracked { "--untracked-files=all" } else { "--untracked-files=no" };
        let bytes = self.call("status").args(["--porcelain=v1", "-z", mode]).bytes().await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut fields = text.split('\0').filter(|field| !field.is_empty());
        let mut files = Vec::new();
        while let Some(field) = fields.next() {
            let Some((state, path)) = field.split_at_checked(2) else { continue };
            if state.contains(['R', 'C']) {
                // A rename's second field is where it came from.
                let _ = fields.next();
            }
            files.push(ChangedFile { state: state.to_owned(), path: path[1..].to_owned() });
        }
        Ok(files)
    }

    /// Whether anything is uncommitted, new files included.
    pub async fn is_dirty(&self) -> Result<bool, GitError> {
        Ok(!self.changed_files(true).await?.is_empty())
    }

    /// How many commits `branch` has that `base` has not.
    pub async fn commits_ahead(&self, base: &str, branch: &str) -> Result<u64, GitError> {
        let range = format!("{base}..{branch}");
        let text = self
            .call("rev-list")
            .args(["--count", "--end-of-options", &range, "--"])
            .text()
            .await?;
        text.parse().map_err(|_not_a_number| GitError::Unexpected {
            what: "rev-list".to_owned(),
            answer: text,
        })
    }

    /// Whether `ancestor` is reachable from `descendant` (or the same).
    pub async fn is_ancestor(&self, ancestor: &str, descendant: &str) -> Result<bool, GitError> {
        let call = self.call("merge-base").args(["--is-ancestor", ancestor, descendant]);
        let finished = call.finish().await?;
        match finished.code {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            Some(_) | None => Err(finished.failure("merge-base", &self.dir)),
        }
    }

    /// The best common ancestor of two commits; `None` when their histories are unrelated.
    pub async fn merge_base(&self, one: &str, other: &str) -> Result<Option<String>, GitError> {
        let finished = self.call("merge-base").args([one, other]).finish().await?;
        match finished.code {
            Some(0) => Ok(Some(String::from_utf8_lossy(&finished.stdout).trim().to_owned())),
            Some(1) => Ok(None),
            Some(_) | None => Err(finished.failure("merge-base", &self.dir)),
        }
    }

    /// The parents of a commit.
    pub(crate) async fn parents_of(&self, commit: &str) -> Result<Vec<String>, GitError> {
        let call = self.call("log").args(["-1", "--format=%P", "--end-of-options", commit, "--"]);
        Ok(call.text().await?.split_whitespace().map(str::to_owned).collect())
    }

    /// Whether a local or remote branch holds `commit`.
    pub(crate) async fn is_on_a_branch(&self, commit: &str) -> Result<bool, GitError> {
        let contains = format!("--contains={commit}");
        let args = ["--count=1", "--format=%(refname)", &contains, "refs/heads/", "refs/remotes/"];
        Ok(!self.call("for-each-ref").args(args).text().await?.is_empty())
    }

    /// What `branch` changed since it left `base`, as a table of files.
    pub async fn diff_stat(&self, base: &str, branch: &str) -> Result<String, GitError> {
        self.diff(base, branch, &["--stat=100"]).text().await
    }

    /// What `branch` changed since it left `base`, file names only.
    pub async fn diff_names(&self, base: &str, branch: &str) -> Result<Vec<String>, GitError> {
        let bytes = self.diff(base, branch, &["--name-only", "-z"]).bytes().await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(text.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// What `branch` changed since it left `base`, file by file with the lines added and removed.
    pub async fn diff_numbers(
        &self,
        base: &str,
        branch: &str,
    ) -> Result<Vec<FileChange>, GitError> {
        let call = self.diff(base, branch, &["--numstat", "-z", "--no-renames"]);
        let bytes = call.bytes().await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let change = |line: &str| {
            let mut fields = line.splitn(3, '\t');
            let (added, removed) = (fields.next()?.parse().ok(), fields.next()?.parse().ok());
            Some(FileChange { path: fields.next()?.to_owned(), added, removed })
        };
        Ok(text.split('\0').filter_map(change).collect())
    }

    /// What `branch` changed since it left `base`, at most `max_bytes` of it.
    pub async fn diff_text(
        &self,
        base: &str,
        branch: &str,
        max_bytes: usize,
    ) -> Result<DiffText, GitError> {
        let finished = self.diff(base, branch, &[]).cap(max_bytes).finish().await?;
        if finished.code != Some(0) {
            return Err(finished.failure("diff", &self.dir));
        }
        let text = String::from_utf8_lossy(&finished.stdout).into_owned();
        Ok(DiffText { text, truncated: finished.truncated })
    }

    /// What the checkout is, in words for a version: a tag or commit, and whether it is dirty.
    pub async fn describe(&self) -> Result<String, GitError> {
        let text = self.call("describe").args(["--always", "--dirty"]).text().await?;
        Ok(text.trim().to_owned())
    }

    fn diff(&self, base: &str, branch: &str, options: &[&str]) -> Call {
        let range = format!("{base}...{branch}");
        let mut call = self.call("diff").args(["--no-color", "--no-ext-diff", "--no-textconv"]);
        for option in options {
            call = call.arg(option);
        }
        call.args(["--end-of-options", &range, "--"])
    }
}
