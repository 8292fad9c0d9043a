//! Options, configuration, logging, the program, the exit code.

use clap::Parser;
use musher::cli::args::{Cli, Command};
use musher::cli::{self, Code, Failure};
use std::process::ExitCode;

#[path = "main/logging.rs"]
mod logging;
#[path = "main/serve.rs"]
mod serve;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let json = cli.json;
    let outcome = match &cli.command {
        Command::Run => serve::run(cli.config.as_deref()),
        Command::Console { project } => serve::console(cli.config.as_deref(), project.clone()),
        Command::Check
        | Command::Doctor { .. }
        | Command::Init(_)
        | Command::Mail(_)
        | Command::ReportDone(_)
        | Command::Status { .. }
        | Command::Items(_)
        | Command::Agents
        | Command::Logs { .. }
        | Command::Replay { .. }
        | Command::Nudge { .. }
        | Command::Cost { .. }
        | Command::Export
        | Command::Mcp { .. }
        | Command::Completions { .. }
        | Command::Version => cli::execute(cli),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => ExitCode::from(cli::fail(&failure, json)),
    }
}

/// Help and version are answers; the rest is wrong use, as JSON when that was asked for.
fn misused(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let (message, hint) = text.split_once("\n\n").unwrap_or((&text, ""));
        let message = message.trim_start_matches("error: ").trim();
        let failure = Failure::new(Code::Usage, message).hint(hint.trim());
        return ExitCode::from(cli::fail(&failure, true));
    }
    // When stderr is closed there is nobody to tell.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { Code::Usage.exit() } else { 0 })
}
