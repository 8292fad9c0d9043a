//! Remotes: what they have, fetching it, and pushing with the answer read back.
//!
//! Whether a push arrived is read from the remote afterwards, never from the words of a complaint:
//! a connection can break after the remote has moved, and a hook can refuse in any language.

use super::{Git, GitError, REMOTE_TIMEOUT};
use crate::redact::redact;

/// How many lines of what the remote said are shown.
const REASON_LINES: usize = 8;

/// How a push came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Push {
    /// The remote's branch stands at the commit.
    Done,
    /// The remote's branch stands somewhere else than was expected, and was left alone.
    Moved {
        /// Where; `None`: it is gone.
        tip: Option<String>,
    },
    /// The remote would not take it: a hook, a protected branch.
    Refused {
        /// What it said, redacted.
        reason: String,
    },
}

impl Git {
    /// The remote that `branch` is pushed to.
    pub async fn remote_of(&self, branch: &str) -> Result<String, GitError> {
        let key = format!("branch.{branch}.remote");
        let finished = self.call("config").args(["--get", &key]).finish().await?;
        let name = String::from_utf8_lossy(&finished.stdout).trim().to_owned();
        Ok(if name.is_empty() || name == "." { "origin".to_owned() } else { name })
    }

    /// Where a branch stands on the remote now; `None` when it has none of that name.
    pub async fn remote_tip(&self, remote: &str, branch: &str) -> Result<Option<String>, GitError> {
        let wanted = format!("refs/heads/{branch}");
        let call = self.call("ls-remote").args(["--", remote, &wanted]);
        let answer = call.limit(REMOTE_TIMEOUT).text().await?;
        // The pattern also fits names that only end in it.
        let line = answer.lines().find_map(|line| {
            line.split_once('\t').filter(|(_, name)| *name == wanted).map(|(tip, _)| tip)
        });
        Ok(line.map(str::to_owned))
    }

    /// Where a branch stands on the remote, with the commit brought here; `None` when it has none
    /// of that name. Moves nothing but the remote-tracking branch.
    pub async fn fetch(&self, remote: &str, branch: &str) -> Result<Option<String>, GitError> {
        let Some(tip) = self.remote_tip(remote, branch).await? else { return Ok(None) };
        if self.find_commit(&tip).await?.is_some() {
            return Ok(Some(tip));
        }
        let from = format!("refs/heads/{branch}");
        let plain = remote.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let to = match plain {
            true => format!(":refs/remotes/{remote}/{branch}"),
            false => String::new(),
        };
        let spec = format!("+{from}{to}");
        let args = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"];
        let call = self.call("fetch").args(args).args(["--", remote, &spec]);
        call.limit(REMOTE_TIMEOUT).text().await?;
        match self.find_commit(&tip).await? {
            Some(tip) => Ok(Some(tip)),
            // It moved back between the two questions.
            None => Err(GitError::Unexpected {
                what: "fetch".to_owned(),
                answer: format!("{tip} of {from} did not come"),
            }),
        }
    }

    /// Pushes `commit` to `branch` of `remote`, never by force, and reads the remote back.
    ///
    /// With `expected`, only if the remote's branch stands there (`Some(None)`: only if there is no
    /// such branch). An error means that the remote could not be asked.
    pub async fn push(
        &self,
        remote: &str,
        commit: &str,
        branch: &str,
        expected: Option<Option<&str>>,
    ) -> Result<Push, GitError> {
        let target = format!("refs/heads/{branch}");
        let mut call = self.call("push").args(["--porcelain", "--no-verify"]);
        if let Some(expected) = expected {
            // The caller pushes a descendant of what is expected: a lease makes the push exact and
            // overwrites nothing.
            let expected = expected.unwrap_or_default();
            call = call.arg(format!("--force-with-lease={target}:{expected}"));
        }
        let call = call.args(["--", remote, &format!("{commit}:{target}")]);
        let finished = call.limit(REMOTE_TIMEOUT).finish().await?;
        let tip = self.remote_tip(remote, branch).await?;
        if tip.as_deref() == Some(commit) {
            return Ok(Push::Done);
        }
        let answer = String::from_utf8_lossy(&finished.stdout).into_owned();
        let Some(refused) = answer.lines().find_map(|line| line.strip_prefix("!\t")) else {
            if finished.code == Some(0) {
                return Ok(Push::Moved { tip });
            }
            return Err(finished.failure("push", &self.dir));
        };
        match expected {
            Some(expected) if expected != tip.as_deref() => Ok(Push::Moved { tip }),
            Some(_) | None => Ok(Push::Refused { reason: reason(refused, &finished.stderr) }),
        }
    }
}

/// What the remote said: git's summary of the ref, and the remote's own lines.
fn reason(refused: &str, stderr: &str) -> String {
    let summary = refused.split_once('\t').map_or(refused, |(_, summary)| summary);
    let mut lines: Vec<String> = vec![redact(summary.trim())];
    let said = stderr.lines().filter_map(|line| line.strip_prefix("remote:"));
    let said: Vec<&str> = said.map(str::trim).filter(|line| !line.is_empty()).collect();
    let from = said.len().saturating_sub(REASON_LINES);
    lines.extend(said[from..].iter().map(|line| redact(line)));
    lines.join("; ")
}
