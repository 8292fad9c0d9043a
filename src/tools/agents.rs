//! Tools about agents, and those by which agents report and wait.

use super::args::{Item as Number, Nothing};
use super::{Answer, Context, Tool, Who, data, reading, refuse, writing};
use crate::agents::TellError;
use crate::agents::asks::{self, Asker, Question};
use crate::llm::tools::ToolCaller;
use crate::mail::{NewMail, send_reporting};
use crate::model::agent::{Role, Waiting, WaitingFor};
use crate::model::mail::{MailType, Priority};
use crate::store::pauses::{self, Scope};
use crate::store::{Tx, agents as sessions};
use crate::work;
use chrono::TimeDelta;
use rusqlite::Connection;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// How many events `agent_output` shows unless asked, and at most.
const EVENTS: usize = 30;
const EVENTS_MAX: usize = 200;

/// The longest that an agent may wait, and how long it waits unless it says.
const WAIT_MAX_MINUTES: u32 = 7 * 24 * 60;
const WAIT_DEFAULT_MINUTES: u32 = 24 * 60;

pub fn tools() -> Vec<Tool> {
    vec![
        reading(
            "agents_list",
            Who::Planners,
            "The agents: role, runtime, and what each works on.",
            agents_list,
        ),
        reading(
            "agent_output",
            Who::Coordinator,
            "The last things that agents did on an item.",
            agent_output,
        ),
        writing(
            "nudge",
            Who::Planners,
            "Pokes an agent, which reads it at its next step or is woken by it; dropped after 30 minutes (urgent: two hours). What must not be lost is mail.",
            nudge,
        ),
        writing(
            "report_done",
            Who::Agents,
            "Reports that your work on the item is finished. Call it last, once, when all is committed.",
            report_done,
        ),
        writing(
            "ask_human",
            Who::Agents,
            "Asks a person a question in the room. Then end your turn: you are woken with the answer.",
            ask_human,
        ),
        writing(
            "wait_for",
            Who::Agents,
            "Says what you wait for before you end your turn without being done. You are woken when it comes.",
            wait_for,
        ),
    ]
}

fn agents_list(context: &Context, conn: &Connection, _: &ToolCaller, _: Nothing) -> Answer {
    let agents = &context.services.config.agents;
    if agents.is_empty() {
        return Ok(
            "No agents are configured: add one to musher.toml, [[agents]], and restart.".to_owned()
        );
    }
    let mut text = String::new();
    for agent in agents {
        let live = sessions::live_sessions_of_agent(conn, &agent.name)?;
        let doing: Vec<String> = live
            .iter()
            .map(|session| format!("{} on #{}", session.state.as_str(), session.item))
            .collect();
        let doing = if doing.is_empty() { "free".to_owned() } else { doing.join(", ") };
        let runtime = agent.runtime.as_str();
        let _ = write!(text, "{} ({}, {runtime}): {doing}", agent.name, agent.role.as_str());
        if let Some(pause) = pauses::find(conn, &Scope::of_agent(agent))? {
            let _ = write!(text, "; {runtime} is paused: {}", pause.reason);
        }
        text.push('\n');
    }
    Ok(text)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AgentOutput {
    /// The item.
    item: Number,
    /// How many of the last events; 30 when left out.
    count: Option<usize>,
}

fn agent_output(_: &Context, conn: &Connection, _: &ToolCaller, args: AgentOutput) -> Answer {
    let item = work::find(conn, args.item.0)?;
    let count = args.count.unwrap_or(EVENTS).clamp(1, EVENTS_MAX);
    let events = sessions::turn_events(conn, item.id, count)?;
    if events.is_empty() {
        return Ok(format!("No agent has done anything on #{} yet.", item.id));
    }
    let mut text = String::new();
    for event in events {
        let _ = writeln!(text, "{} {}: {}", event.at.format("%H:%M:%S"), event.kind, event.text);
    }
    Ok(data(&text))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NudgeArgs {
    /// The agent.
    agent: String,
    /// What to say; when left out, that it look at its mail.
    #[serde(default)]
    text: String,
    /// Whether it comes before other nudges and waits longer.
    #[serde(default)]
    urgent: bool,
}

fn nudge(context: &Context, tx: &Tx<'_>, caller: &ToolCaller, args: NudgeArgs) -> Answer {
    if context.services.directory.role_of(&args.agent).is_none() {
        return refuse(format!("There is no agent {}: agents_list shows them.", args.agent));
    }
    let agent = args.agent.as_str().into();
    let from = super::sender(caller);
    match crate::agents::nudge(tx, &agent, &from, &args.text, args.urgent) {
        Ok(Some(item)) => Ok(format!("Nudged {agent}, who is on #{item}.")),
        Ok(None) => Ok(format!("Nudged {agent}, who has no work now.")),
        Err(TellError::Store(error)) => Err(error.into()),
        Err(refusal) => refuse(refusal.to_string()),
    }
}

/// How the work came out.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// The work is done (every role but QA and mergemaster).
    Done,
    /// QA: the work is good.
    QaPassed,
    /// QA: it is not; give `findings`.
    QaFailed,
    /// Mergemaster: the branch is ready; give `commit`.
    Merged,
    /// Mergemaster: it cannot be merged.
    MergeFailed,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReportDone {
    /// What was done and how it was checked, what is open.
    summary: String,
    /// How it came out; `done` when left out.
    outcome: Option<Outcome>,
    /// QA that failed: what is wrong, one entry each.
    #[serde(default)]
    findings: Vec<String>,
    /// The last commit of the work.
    commit: Option<String>,
}

fn report_done(context: &Context, tx: &Tx<'_>, caller: &ToolCaller, args: ReportDone) -> Answer {
    let ToolCaller::Agent { agent, role, session, item, .. } = caller else {
        return refuse("Only agents report.");
    };
    let (kind, payload) = report(*role, &args)?;
    if *role == Role::Lead {
        let open = work::open_children(tx, *item)?;
        if !open.is_empty() {
            return refuse(work::unfinished(&open));
        }
    }
    let mail = NewMail {
        from: agent.0.clone(),
        to: crate::store::mail::COORDINATOR.to_owned(),
        subject: format!("#{item}: {}", kind.as_str().replace('_', " ")),
        body: args.summary,
        kind,
        priority: Priority::Normal,
        payload: Some(payload),
        item: Some(*item),
        reply_to: None,
    };
    send_reporting(tx, &context.services.directory, mail, Some(*session))?;
    Ok("Reported. You are done: end your turn.".to_owned())
}

/// The terminal mail that a role's outcome is.
fn report(role: Role, args: &ReportDone) -> Result<(MailType, Value), super::Refusal> {
    let own: &[&str] = match role {
        Role::Coder | Role::Lead | Role::Scout | Role::Reviewer => &["done"],
        Role::Qa => &["qa_passed", "qa_failed"],
        Role::Mergemaster => &["merged", "merge_failed"],
    };
    let wrong = || {
        let role = role.as_str();
        refuse(format!("As {role} give `outcome` as one of: {}.", own.join(", ")))
    };
    let summary = args.summary.trim();
    if summary.is_empty() {
        return refuse("Give `summary`: what was done and how it was checked.");
    }
    let is_worker = matches!(role, Role::Coder | Role::Lead | Role::Scout | Role::Reviewer);
    Ok(match (args.outcome, role) {
        (None | Some(Outcome::Done), _) if is_worker => {
            let mut payload = json!({"summary": summary});
            if let Some(commit) = &args.commit {
                payload["commit"] = json!(commit);
            }
            (MailType::WorkerDone, payload)
        }
        (Some(Outcome::QaPassed), Role::Qa) => (MailType::QaPassed, json!({"summary": summary})),
        (Some(Outcome::QaFailed), Role::Qa) => {
            if args.findings.is_empty() {
                return refuse("Give `findings`: what is wrong, one entry each.");
            }
            (MailType::QaFailed, json!({"findings": args.findings}))
        }
        (Some(Outcome::Merged), Role::Mergemaster) => match &args.commit {
            Some(commit) => (MailType::Merged, json!({"commit": commit})),
            None => {
                return refuse(
                    "Give `commit`: the last commit of the branch (`git rev-parse HEAD`).",
                );
            }
        },
        (Some(Outcome::MergeFailed), Role::Mergemaster) => {
            (MailType::MergeFailed, json!({"kind": "conflict", "output": summary}))
        }
        (Some(_) | None, _) => return wrong(),
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AskHuman {
    /// The question, complete in itself: the person has not seen what you have.
    question: String,
    /// The answers to choose from, if there are such.
    #[serde(default)]
    options: Vec<String>,
}

/// A question with its options, as it is posted.
pub fn question(text: &str, options: &[String]) -> String {
    let mut text = text.trim().to_owned();
    for (number, option) in options.iter().enumerate() {
        let _ = write!(text, "\n{}. {option}", number + 1);
    }
    text
}

fn ask_human(context: &Context, tx: &Tx<'_>, caller: &ToolCaller, args: AskHuman) -> Answer {
    let ToolCaller::Agent { agent, session, item, .. } = caller else {
        return refuse("Agents ask with this; use ask_person.");
    };
    if args.question.trim().is_empty() {
        return refuse("Give `question`.");
    }
    let detail = args.question.chars().take(300).collect();
    let asker = Asker {
        agent: agent.clone(),
        session: *session,
        item: *item,
        turn: None,
        patience: Duration::from_secs(context.services.config.chat.permission_timeout_s),
    };
    let question = Question { text: args.question, options: args.options, several: false };
    if !asks::ask_after_turn(tx, &asker, &question)? {
        return refuse(
            "Nobody can be asked: no room hears of this item. Decide yourself, and say in your \
             report what you decided.",
        );
    }
    let waiting = Waiting { what: WaitingFor::Person, until: None, detail };
    sessions::announce_wait(tx, *session, &waiting)?;
    Ok("Asked. End your turn now: you are woken with the answer.".to_owned())
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum WaitFor {
    /// Items that you handed out.
    Children,
    /// An answer to mail that you sent.
    Reply,
    /// A while: give `minutes`.
    Timer,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WaitArgs {
    /// What you wait for.
    what: WaitFor,
    /// Wake me after so many minutes at the latest; a day when left out.
    minutes: Option<u32>,
    /// What exactly, in a sentence.
    #[serde(default)]
    detail: String,
}

fn wait_for(_: &Context, tx: &Tx<'_>, caller: &ToolCaller, args: WaitArgs) -> Answer {
    let ToolCaller::Agent { session, item, .. } = caller else {
        return refuse("Only agents wait.");
    };
    let what = match args.what {
        WaitFor::Children => match work::cannot_wait(tx, *item)? {
            Some(why) => return refuse(why),
            None => WaitingFor::Children,
        },
        WaitFor::Reply => WaitingFor::Reply,
        WaitFor::Timer if args.minutes.is_none() => {
            return refuse("Give `minutes`: how long to wait.");
        }
        WaitFor::Timer => WaitingFor::Timer,
    };
    let now = crate::clock::from_millis(tx.now());
    let minutes = args.minutes.unwrap_or(WAIT_DEFAULT_MINUTES).clamp(1, WAIT_MAX_MINUTES);
    let until = Some(now + TimeDelta::minutes(i64::from(minutes)));
    sessions::announce_wait(tx, *session, &Waiting { what, until, detail: args.detail })?;
    Ok("Noted. End your turn now: you are woken when it comes.".to_owned())
}
