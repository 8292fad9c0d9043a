//! The command line beside the server: reads and changes the same rows, through the same code.
//!
//! Nothing here needs an async runtime but `init`, `doctor` and the server's end of the socket, so
//! a call such as `musher mail send` starts in milliseconds. A call is typed ([`request::Call`]),
//! carried out by one function ([`serve::handle`]) in whichever process owns the database, and
//! shown as JSON or as text (`show`). Results go to stdout, everything else to stderr.

pub mod args;
mod call;
mod check;
pub mod client;
pub mod failure;
mod init;
mod items;
mod mcp;
pub mod request;
pub mod serve;
mod show;
pub mod socket;

pub use check::check_named;
pub use failure::{Code, Failure};

use crate::doctor::{self, Check, State};
use args::{Cli, Command};
use clap::CommandFactory;
use serde_json::json;
use std::path::Path;

/// Carries out every subcommand but `run` and `console`, which are the program's own.
pub fn execute(cli: Cli) -> Result<u8, Failure> {
    let (config, json) = (cli.config.as_deref(), cli.json);
    match cli.command {
        Command::Run | Command::Console { .. } => {
            Err(Failure::new(Code::Usage, "this is the server's to do"))
        }
        Command::Check => check::check(config, json),
        Command::Doctor { quick } => run_doctor(config, quick, json),
        Command::Init(args) => init::init(config, *args, json),
        Command::Mcp { agent } => mcp::serve(config, &agent),
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "musher", &mut out);
            client::print(&String::from_utf8_lossy(&out)).map(|()| 0)
        }
        Command::Version => {
            let version = crate::version::version();
            let text = if json {
                format!("{}\n", json!({ "version": version }))
            } else {
                format!("musher {version}\n")
            };
            client::print(&text).map(|()| 0)
        }
        command @ (Command::Mail(_)
        | Command::ReportDone(_)
        | Command::Status { .. }
        | Command::Items(_)
        | Command::Agents
        | Command::Logs { .. }
        | Command::Replay { .. }
        | Command::Nudge { .. }
        | Command::Cost { .. }
        | Command::Export) => call::run(config, command, json).map(|()| 0),
    }
}

/// Prints a failure as its reader wants it, and returns the exit code.
pub fn fail(failure: &Failure, json: bool) -> u8 {
    if json {
        // Without a reader there is nobody to tell.
        let _ = client::print(&format!("{}\n", json!({ "error": failure })));
    } else {
        eprintln!("musher: {failure}");
    }
    failure.code.exit()
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Failed, format!("cannot start: {error}")))
}

fn run_doctor(given: Option<&Path>, quick: bool, json: bool) -> Result<u8, Failure> {
    let found = crate::config::find(given).and_then(|path| crate::config::load(&path));
    let checks = match found {
        Ok(config) => runtime()?.block_on(doctor::run(&config, None, quick)),
        Err(errors) => vec![Check::failed(
            "config",
            errors.to_string(),
            "put the configuration right; `musher check` shows the same",
        )],
    };
    let failed = checks.iter().any(|check| check.state == State::Failed);
    let text = if json {
        format!("{}\n", json!({ "ok": !failed, "checks": checks }))
    } else {
        doctor::text(&checks)
    };
    client::print(&text)?;
    Ok(u8::from(failed))
}
