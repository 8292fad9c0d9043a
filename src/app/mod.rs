//! Builds everything, joins the tasks, and shuts down in order.

use crate::config::Config;
use crate::upgrade::Replacement;
use std::path::PathBuf;

/// How people are heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In Matrix rooms.
    Server,
    /// At this terminal.
    Console,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// By a signal, or with the console's input.
    Stopped,
    /// To be replaced by another binary, after `rebuild` or `restart`.
    Replace(Replacement),
}

/// Runs Musher until it is told to end.
pub async fn run(
    config: Config,
    config_file: Option<PathBuf>,
    mode: Mode,
) -> anyhow::Result<Ended> {
    let _ = (config, config_file, mode);
    anyhow::bail!("the server is not put together yet")
}
