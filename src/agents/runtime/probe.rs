//! Whether a runtime can be used here, and whether its version was tested.

use super::acp::program_and_arguments;
use super::shown;
use crate::agents::process::{Line, LineReader, base_env, find_program};
use crate::config::RuntimeKind;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long `--version` may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// A CLI that is asked for its version.
struct Cli {
    /// Its name for people.
    name: &'static str,
    /// Its usual program.
    program: &'static str,
    /// Its npm package.
    package: &'static str,
    /// The versions that its protocol was tested with: from, and below.
    tested: (&'static str, &'static str),
    /// The one that the tests run with.
    best: &'static str,
}

const CLAUDE: Cli = Cli {
    name: "Claude Code",
    program: "claude",
    package: "@anthropic-ai/claude-code",
    tested: ("2.1.0", "2.2.0"),
    best: "2.1.197",
};

/// Its app-server is experimental and changes with each release.
const CODEX: Cli = Cli {
    name: "Codex",
    program: "codex",
    package: "@openai/codex",
    tested: ("0.169.0", "0.170.0"),
    best: "0.169.0",
};

/// A runtime that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The version, as far as there is one.
    pub version: String,
    /// What a person should know, such as an untested version with its remedy.
    pub warning: Option<String>,
}

/// Why a runtime cannot be used. Each message is a sentence with the remedy.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProbeError {
    /// The program is not there.
    #[error("{program} is not installed: {remedy}")]
    NotInstalled {
        /// Which.
        program: String,
        /// What to do.
        remedy: String,
    },
    /// The program is there and does not work.
    #[error("{program} does not start ({why}): reinstall it, or set `command` of the agent")]
    Broken {
        /// Which.
        program: String,
        /// What happened.
        why: String,
    },
    /// This build has no such runtime.
    #[error("the runtime {0} is not built in yet: use claude-code, codex, acp, api or replay")]
    NotBuiltIn(&'static str),
}

/// Checks that a runtime can be used; `command` overrides its usual program.
pub async fn probe(kind: RuntimeKind, command: Option<&str>) -> Result<ProbeReport, ProbeError> {
    match kind {
        RuntimeKind::ClaudeCode => version_of(&CLAUDE, command).await,
        RuntimeKind::Codex => version_of(&CODEX, command).await,
        RuntimeKind::Api | RuntimeKind::Replay => {
            Ok(ProbeReport { version: crate::version::version().to_owned(), warning: None })
        }
        RuntimeKind::Acp => acp(command).await,
    }
}

/// The agents whose protocol was tested: name, from, and below.
const ACP_TESTED: &[(&str, &str, &str)] =
    &[("@agentclientprotocol/claude-agent-acp", "0.100.0", "0.101.0")];

/// Starts an agent, hears who it is, and ends it.
async fn acp(command: Option<&str>) -> Result<ProbeReport, ProbeError> {
    let (program, arguments) = program_and_arguments(command);
    let path = find_program(&program).ok_or_else(|| ProbeError::NotInstalled {
        program: format!("the agent's program `{program}`"),
        remedy: "install it, or set `command` of the agent to a program that speaks the Agent \
                 Client Protocol"
            .to_owned(),
    })?;
    let broken = |why: String| ProbeError::Broken { program: path.display().to_string(), why };
    let mut child = Command::new(&path)
        .args(arguments)
        .env_clear()
        .envs(base_env(&[]))
        .env("DISABLE_AUTOUPDATER", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| broken(error.to_string()))?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(broken("it has no pipes".to_owned()));
    };
    let exchange = async {
        let hello = serde_json::json!({
            "jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": {"protocolVersion": 1, "clientCapabilities": {}},
        });
        stdin
            .write_all(format!("{hello}\n").as_bytes())
            .await
            .map_err(|error| error.to_string())?;
        let mut lines = LineReader::new(stdout);
        loop {
            match lines.next().await {
                Ok(Line::Text(line)) => {
                    let answer: serde_json::Value = serde_json::from_str(&line)
                        .map_err(|_error| format!("it said {:?}", shown::one_line(&line)))?;
                    if answer["id"] == 0 {
                        return Ok(answer["result"].clone());
                    }
                }
                _ended => return Err("it ended without an answer to `initialize`".to_owned()),
            }
        }
    };
    let answer = tokio::time::timeout(PROBE_TIMEOUT, exchange)
        .await
        .map_err(|_elapsed| broken("`initialize` was not answered".to_owned()))?
        .map_err(broken)?;
    // Its stdin is closed: it ends, or is killed when dropped.
    introduced(&answer).map_err(broken)
}

fn introduced(answer: &serde_json::Value) -> Result<ProbeReport, String> {
    if answer["protocolVersion"] != 1 {
        let theirs = &answer["protocolVersion"];
        return Err(format!("it speaks version {theirs} of the protocol, this Musher version 1"));
    }
    let info = &answer["agentInfo"];
    let (name, version) = (shown::text(info, "name"), shown::text(info, "version"));
    let name = if name.is_empty() { "an agent without a name".to_owned() } else { name };
    let tested = ACP_TESTED.iter().find(|(known, ..)| *known == name);
    let fits = tested.is_some_and(|(_, from, below)| {
        parse(&version) >= parse(from) && parse(&version) < parse(below)
    });
    let warning = (!fits).then(|| match tested {
        Some((_, from, below)) => format!(
            "{name} {version} was not tested with this version of Musher (tested: {from} up to, \
             but not, {below}); if agents fail, run `npm install -g {name}@{from}`"
        ),
        None => format!("{name} {version} was not tested with this version of Musher"),
    });
    Ok(ProbeReport { version: format!("{name} {version}").trim().to_owned(), warning })
}

async fn version_of(cli: &Cli, command: Option<&str>) -> Result<ProbeReport, ProbeError> {
    let program = command.unwrap_or(cli.program);
    let path = find_program(program).ok_or_else(|| ProbeError::NotInstalled {
        program: format!("{} (`{program}`)", cli.name),
        remedy: format!(
            "run `npm install -g {}`, or set `command` of the agent to where it is",
            cli.package
        ),
    })?;
    let broken = |why: String| ProbeError::Broken { program: path.display().to_string(), why };
    let run = Command::new(&path)
        .arg("--version")
        .env_clear()
        .envs(base_env(&[]))
        .env("DISABLE_AUTOUPDATER", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PROBE_TIMEOUT, run)
        .await
        .map_err(|_elapsed| broken("`--version` did not answer".to_owned()))?
        .map_err(|error| broken(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `2.1.197 (Claude Code)`, `codex-cli 0.169.0`
    let version = text.split_whitespace().find(|word| parse(word).is_some());
    let Some(version) = version.filter(|_| output.status.success()) else {
        return Err(broken(format!("`--version` said {:?}", text.trim())));
    };
    Ok(ProbeReport { warning: untested(cli, version), version: version.to_owned() })
}

/// The warning about a version outside the tested range.
fn untested(cli: &Cli, version: &str) -> Option<String> {
    let Cli { name, package, tested: (from, below), best, .. } = cli;
    let tested = parse(version) >= parse(from) && parse(version) < parse(below);
    (!tested).then(|| {
        format!(
            "{name} {version} was not tested with this version of Musher (tested: {from} up to, \
             but not, {below}); if agents fail, run `npm install -g {package}@{best}`"
        )
    })
}

fn parse(version: &str) -> Option<(u64, u64, u64)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_outside_the_tested_range_is_named_with_the_remedy() {
        for cli in [CLAUDE, CODEX] {
            assert_eq!(untested(&cli, cli.best), None);
            for version in ["0.168.9", "2.0.9", "2.2.0", "3.0.0"] {
                let warning = untested(&cli, version).unwrap();
                assert!(warning.contains("npm install") && warning.contains(version), "{warning}");
            }
        }
    }

    #[test]
    fn an_agent_of_another_protocol_is_refused_and_an_unknown_one_is_named() {
        let says = |version: u64, name: &str, number: &str| {
            introduced(&serde_json::json!({
                "protocolVersion": version, "agentInfo": {"name": name, "version": number},
            }))
        };
        let (known, from, below) = ACP_TESTED[0];
        assert_eq!(says(1, known, from).unwrap().warning, None);
        assert!(says(1, known, below).unwrap().warning.unwrap().contains("npm install"));
        assert!(says(1, "other", "1.0.0").unwrap().warning.unwrap().contains("not tested"));
        assert!(says(2, known, from).unwrap_err().contains("version 2"));
    }

    #[tokio::test]
    async fn a_missing_program_is_said_with_what_to_do() {
        for kind in [RuntimeKind::ClaudeCode, RuntimeKind::Codex, RuntimeKind::Acp] {
            let error = probe(kind, Some("no-such-program")).await.unwrap_err();
            assert!(error.to_string().contains("is not installed: "), "{error}");
        }
    }
}
