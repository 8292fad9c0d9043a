//! Reading a branch without a checkout: searching it, and showing a file or folder of it.

use super::{Git, GitError};

/// The most that a search or a file gives: what is beyond is cut.
const SHOWN_MAX: usize = 512 * 1024;

impl Git {
    /// The lines of `name`'s tree that an extended regular expression fits, as `path:line:text`;
    /// empty when there is none.
    pub async fn grep(
        &self,
        name: &str,
        pattern: &str,
        path: Option<&str>,
        ignore_case: bool,
    ) -> Result<String, GitError> {
        let tree = self.tree_of(name).await?;
        let mut call = self
            .call("grep")
            .args(["-n", "-I", "-E", "--no-color", "--full-name", "-e", pattern])
            .cap(SHOWN_MAX);
        if ignore_case {
            call = call.arg("-i");
        }
        let mut call = call.arg(&tree).arg("--");
        if let Some(path) = path.filter(|path| !path.trim_matches('/').is_empty()) {
            call = call.arg(format!(":(literal){}", path.trim_matches('/')));
        }
        let finished = call.finish().await?;
        // 1: nothing found.
        if !matches!(finished.code, Some(0 | 1)) && !finished.truncated {
            return Err(finished.failure("grep", &self.dir));
        }
        let text = String::from_utf8_lossy(&finished.stdout).into_owned();
        let prefix = format!("{tree}:");
        let lines = text.lines().map(|line| line.strip_prefix(&prefix).unwrap_or(line));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }

    /// A file of `name`'s tree, or a list of what is in a folder of it.
    pub async fn show_path(&self, name: &str, path: &str) -> Result<String, GitError> {
        let tree = self.tree_of(name).await?;
        let finished = self
            .call("show")
            .args(["--no-color", "--end-of-options"])
            .arg(format!("{tree}:{path}"))
            .cap(SHOWN_MAX)
            .finish()
            .await?;
        if finished.code != Some(0) && !finished.truncated {
            return Err(finished.failure("show", &self.dir));
        }
        let text = String::from_utf8_lossy(&finished.stdout).into_owned();
        let heading = format!("tree {tree}:{path}");
        Ok(text.strip_prefix(&heading).map(|list| list.trim_start().to_owned()).unwrap_or(text))
    }
}
