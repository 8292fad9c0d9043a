//! Making repositories and worktrees.

use super::{CHECKOUT_TIMEOUT, CLONE_TIMEOUT, Git, GitError, Identity};
use std::path::{Path, PathBuf};

/// A worktree as git lists it, the main one included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedWorktree {
    /// Where it is, or was.
    pub path: PathBuf,
    /// Its commit; `None` for a bare repository.
    pub head: Option<String>,
    /// Its branch, in full; `None` when detached or bare.
    pub branch: Option<String>,
}

impl Git {
    /// All worktrees of the repository.
    pub async fn worktrees(&self) -> Result<Vec<ListedWorktree>, GitError> {
        let bytes = self.call("worktree").args(["list", "--porcelain", "-z"]).bytes().await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut list: Vec<ListedWorktree> = Vec::new();
        for field in text.split('\0') {
            if let Some(path) = field.strip_prefix("worktree ") {
                list.push(ListedWorktree { path: path.into(), head: None, branch: None });
            } else if let Some(last) = list.last_mut() {
                if let Some(head) = field.strip_prefix("HEAD ") {
                    last.head = Some(head.to_owned());
                } else if let Some(branch) = field.strip_prefix("branch ") {
                    last.branch = Some(branch.to_owned());
                }
            }
        }
        Ok(list)
    }

    /// Adds a worktree at `path` on the existing `branch`.
    pub async fn worktree_add(&self, path: &Path, branch: &str) -> Result<(), GitError> {
        let call = self.call("worktree").args(["add", "--quiet", "--"]).arg(path).arg(branch);
        call.limit(CHECKOUT_TIMEOUT).text().await.map(drop)
    }

    /// Adds a worktree at `path` on no branch, at `commit`.
    pub async fn worktree_add_detached(&self, path: &Path, commit: &str) -> Result<(), GitError> {
        let call = self.call("worktree").args(["add", "--quiet", "--detach", "--"]);
        call.arg(path).arg(commit).limit(CHECKOUT_TIMEOUT).text().await.map(drop)
    }

    /// Removes a worktree with all that is in it, also one that was never finished or whose
    /// directory is gone. Save what it holds first. Safe to repeat.
    pub async fn worktree_remove(&self, path: &Path) -> Result<(), GitError> {
        let known = self.worktrees().await?.iter().any(|listed| same_path(&listed.path, path));
        if known {
            let call = self.call("worktree").args(["remove", "--force", "--force", "--"]).arg(path);
            if let Err(error) = call.limit(CHECKOUT_TIMEOUT).text().await {
                tracing::debug!(%error, path = %path.display(), "removing the worktree by hand");
            }
        }
        let io = |source| GitError::Io { what: "worktree remove".to_owned(), source };
        match tokio::fs::remove_dir_all(path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            Ok(()) | Err(_) => {}
        }
        if known && self.worktrees().await?.iter().any(|listed| same_path(&listed.path, path)) {
            // What git would not remove while files lay there, it removes now.
            let call = self.call("worktree").args(["remove", "--force", "--force", "--"]).arg(path);
            call.text().await?;
        }
        Ok(())
    }

    /// Makes an empty repository whose first branch will be `base`.
    pub async fn init(&self, base: &str) -> Result<(), GitError> {
        self.call("init").args(["--quiet", "--initial-branch", base]).text().await.map(drop)
    }

    /// Commits all files of a repository that `init` or a clone of an empty one made.
    pub async fn first_commit(
        &self,
        branch: &str,
        message: &str,
        author: &Identity,
    ) -> Result<String, GitError> {
        self.call("add").args(["--all", "--", "."]).text().await?;
        let tree = self.call("write-tree").text().await?;
        let commit = self.commit_tree(&tree, &[], message, author).await?;
        self.update_ref(&format!("refs/heads/{branch}"), &commit, None, "first commit").await?;
        Ok(commit)
    }

    /// Clones `url` into `target`, which must not exist; this call's directory is where it runs.
    ///
    /// Credentials come from the person's own git configuration; none may stand in the URL (see
    /// [`check_url`]). `progress` hears git's progress lines.
    pub async fn clone_into(
        &self,
        url: &str,
        target: &Path,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), GitError> {
        let call = self.call("clone").args(["--progress", "--", url]).arg(target);
        let finished = call.limit(CLONE_TIMEOUT).finish_with(progress).await?;
        if finished.code == Some(0) {
            return Ok(());
        }
        Err(GitError::Failed {
            what: "clone".to_owned(),
            code: finished.code,
            stderr: finished.stderr,
        })
    }
}

fn same_path(one: &Path, other: &Path) -> bool {
    one == other
        || match (one.canonicalize(), other.canonicalize()) {
            (Ok(one), Ok(other)) => one == other,
            _ => false,
        }
}

/// Refuses a URL that git should not be given; the error says what to change.
///
/// Allowed are https, ssh and git, and the short form of ssh (`git@host:path`), without
/// credentials. A user name is fine for ssh and nowhere else.
pub fn check_url(url: &str) -> Result<(), String> {
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("the URL holds a space or control character: check it".to_owned());
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        let short = url.split_once(':').filter(|(host, path)| {
            let host = host.rsplit('@').next().unwrap_or_default();
            !host.is_empty()
                && !path.is_empty()
                && !path.starts_with(':')
                && !url.starts_with('-')
                && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c))
                && !host.starts_with('-')
        });
        return match short {
            Some(_) => Ok(()),
            None => Err("the URL must begin with https://, ssh:// or git://, or be of the form \
                         git@host:path"
                .to_owned()),
        };
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let secret = "the URL holds credentials, which would end up in logs and `git config`: leave \
                  them out and use git's credential helper or an SSH key";
    match scheme {
        "https" | "git" if !user.is_empty() => Err(secret.to_owned()),
        "ssh" if user.contains(':') => Err(secret.to_owned()),
        "https" | "git" | "ssh" if host.is_empty() || host.starts_with('-') => {
            Err("the URL names no host".to_owned())
        }
        "https" | "git" | "ssh" => Ok(()),
        _ => Err(format!("`{scheme}://` is not allowed: use https://, ssh:// or git://")),
    }
}
