//! What a branch holds: its commits, the last release below them, and where its remote stands.

use super::{Git, GitError};
use crate::model::ids::ItemId;

/// A commit on a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landed {
    /// Its id, as git shortens it.
    pub short: String,
    /// The first line of its message.
    pub subject: String,
    /// The day on which it was committed, such as `2026-05-01`.
    pub day: String,
    /// The item that it landed, by the trailer of its message.
    pub item: Option<ItemId>,
}

impl Git {
    /// The commits of `branch` along its first parents, newest first: those that `since` has not,
    /// at most `limit`.
    pub async fn landed(
        &self,
        since: Option<&str>,
        branch: &str,
        limit: usize,
    ) -> Result<Vec<Landed>, GitError> {
        let count = format!("--max-count={limit}");
        let range = match since {
            Some(since) => format!("{since}..{branch}"),
            None => branch.to_owned(),
        };
        let format =
            "--format=%h%x1f%s%x1f%cs%x1f%(trailers:key=Musher-Item,valueonly,separator=%x2C)%x1e";
        let text = self
            .call("log")
            .args(["--first-parent", "--no-color", format, &count, "--end-of-options"])
            .args([range.as_str(), "--"])
            .text()
            .await?;
        let commit = |record: &str| {
            let mut fields = record.trim_start_matches('\n').split('\x1f').map(str::to_owned);
            let (short, subject, day) = (fields.next()?, fields.next()?, fields.next()?);
            let trailer = fields.next().unwrap_or_default();
            let item = trailer.trim().parse().ok().filter(|number| *number > 0).map(ItemId);
            Some(Landed { short, subject, day, item })
        };
        Ok(text
            .split('\x1e')
            .filter(|record| !record.trim().is_empty())
            .filter_map(commit)
            .collect())
    }

    /// The newest tag that `branch` holds; `None` when it holds none.
    pub async fn newest_tag(&self, branch: &str) -> Result<Option<String>, GitError> {
        let finished =
            self.call("describe").args(["--tags", "--abbrev=0", branch]).finish().await?;
        match finished.code {
            Some(0) => Ok(Some(String::from_utf8_lossy(&finished.stdout).trim().to_owned())),
            // It says so on stderr when there is no tag; that the branch is there, the caller knows.
            Some(128) if self.find_commit(branch).await?.is_some() => Ok(None),
            Some(_) | None => Err(finished.failure("describe", &self.dir)),
        }
    }

    /// The remote branch that a local one follows, such as `origin/main`.
    pub async fn upstream_of(&self, branch: &str) -> Result<Option<String>, GitError> {
        let name = format!("refs/heads/{branch}");
        let call = self.call("for-each-ref").args(["--format=%(upstream:short)", &name]);
        let text = call.text().await?.trim().to_owned();
        Ok((!text.is_empty()).then_some(text))
    }

    /// How many commits `one` has that `other` has not, and the other way round; `None` when
    /// `other` is not here.
    pub async fn ahead_behind(
        &self,
        one: &str,
        other: &str,
    ) -> Result<Option<(u64, u64)>, GitError> {
        if self.find_commit(other).await?.is_none() {
            return Ok(None);
        }
        let range = format!("{one}...{other}");
        let call = self.call("rev-list").args(["--left-right", "--count", "--end-of-options"]);
        let text = call.args([range.as_str(), "--"]).text().await?;
        let mut numbers = text.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(ahead)), Some(Ok(behind))) => Ok(Some((ahead, behind))),
            _ => Err(GitError::Unexpected { what: "rev-list".to_owned(), answer: text }),
        }
    }
}
