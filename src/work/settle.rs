//! What follows when an agent has ended: its work is checked, or it is started again, or the item
//! is blocked.
//!
//! Level-triggered: an item that is claimed and has no live session is due, whatever hint came or
//! was lost. [`settle`] carries out at once what needs no look at the outside and returns the items
//! whose work is to be looked at; [`verify`] looks; [`conclude`] writes what follows, if the item
//! still stands where it stood. A crash in between looks again.

use super::counters::{Counters, MAX_ASKS, MAX_IDLE_ASKS, Progress};
use super::world::{Checked, FailedGate, Leftovers, Trouble, World};
use super::{WorkError, apply_to, assign, each, lead, prompt, queue, system, text};
use crate::config::{AgentConfig, Config};
use crate::model::agent::{Failure, SessionState, TurnEnd, TurnResult};
use crate::model::event::Event;
use crate::model::ids::{AgentName, AgentSessionId, ItemId};
use crate::model::item::Item;
use crate::model::mail::MailType;
use crate::model::stage::{Column, Stage, StageEvent};
use crate::store::agents::{self as sessions, AgentSession, Report};
use crate::store::decisions::{self, What};
use crate::store::pauses::{self, Scope};
use crate::store::{Tx, items, log, meta};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long a session must have been dead before another takes its place, in milliseconds: a stop
/// kills first and writes the item afterwards.
const DEATH_GRACE_MS: i64 = 3_000;
/// The same when the agent was stopped on purpose: whoever stopped it says what follows.
const STOP_GRACE_MS: i64 = 30_000;
/// How long a live session may have nothing to run before it is told to go on, in milliseconds.
const IDLE_GRACE_MS: i64 = 15_000;
/// How often QA and merges together may send an item back before a person must look.
pub(super) const MAX_ROUNDS: u32 = 6;

/// An item whose work is to be looked at, as it stood.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Due {
    /// The item.
    pub item: Item,
    /// The session that made the work.
    pub session: AgentSessionId,
    /// How many different files the item's agents have read.
    pub files_read: u64,
    /// Paths that earlier gate runs left behind: no work of the agent's.
    pub leftovers: Vec<String>,
}

/// What a look at the work gave.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// Something is not committed, or nothing is.
    NotCommitted(Checked),
    /// A gate failed.
    GateFailed {
        /// The commit that it failed on.
        commit: String,
        /// Which, and how.
        failed: FailedGate,
        /// What the gates left behind.
        leftovers: Vec<String>,
    },
    /// All gates passed.
    Passed {
        /// The commit that they passed on.
        commit: String,
        /// What the gates left behind.
        left: Leftovers,
    },
    /// The look itself failed; not the item's fault.
    Trouble(Trouble),
}

/// Settles every claimed item whose agent has ended; returns those whose work is to be looked at.
pub(super) fn settle(tx: &Tx<'_>, config: &Config) -> Result<Vec<Due>, WorkError> {
    let mut due = Vec::new();
    let held = items::claimed(tx)?;
    each(
        tx,
        &held,
        |item| item.id,
        |tx, item| {
            due.extend(settle_one(tx, config, item)?);
            Ok(())
        },
    )?;
    Ok(due)
}

fn settle_one(tx: &Tx<'_>, config: &Config, item: &Item) -> Result<Option<Due>, WorkError> {
    let Some(agent) = item.stage.claim() else { return Ok(None) };
    if let Some(live) = sessions::live_session_of(tx, item.id)? {
        revive_idle(tx, config, item, &live)?;
        return Ok(None);
    }
    let newest = sessions::sessions_of_item(tx, item.id)?.pop();
    let Some(session) = newest.filter(|session| session.agent == *agent) else {
        let why = format!("{agent} has no session on it");
        apply_to(tx, item, &StageEvent::Unclaimed, &system(tx), &why)?;
        return Ok(None);
    };
    let reports = reports_of(tx, &session)?;
    let checks = matches!(item.stage, Stage::Qa { .. });
    // A lead, a scout or a reviewer ends with its report: without one there is nothing to look at.
    let looks = !checks && !lead::needs_no_commit(session.role);
    let ended = session.state == SessionState::Completed
        && (!reports.is_empty() || looks && exited_by_itself(tx, &session)?);
    if !ended {
        died(tx, config, item, &session)?;
    } else if lead::needs_no_commit(session.role) {
        reported_alone(tx, config, item, &session, &reports)?;
    } else if checks {
        qa_verdict(tx, config, item, &session, &reports)?;
    } else if let Some(report) = reports.last().filter(|last| last.kind == MailType::MergeFailed) {
        let reason = format!("{agent} could not resolve the failed merge: {}", report.summary);
        block(tx, item, &reason)?;
    } else if !stands_still(tx, item)? {
        let (item, session) = (item.clone(), session.id);
        let leftovers = known_leftovers(tx, item.id)?;
        let files_read = sessions::files_read(tx, item.id)?;
        return Ok(Some(Due { item, session, files_read, leftovers }));
    }
    Ok(None)
}

/// What follows when an agent has reported whose work is no commit: a lead, a scout, a reviewer.
fn reported_alone(
    tx: &Tx<'_>,
    config: &Config,
    item: &Item,
    session: &AgentSession,
    reports: &[Report],
) -> Result<(), WorkError> {
    let Some(report) = reports.last() else { return Ok(()) };
    match lead::reported(tx, item, session, report)? {
        lead::Reported::Finished => Ok(()),
        lead::Reported::Stuck(reason) => block(tx, item, &reason),
        lead::Reported::GoOn(prompt) => {
            let reason = format!("{} reported while child items are open", session.agent);
            if Counters::of(tx, item.id)?.revivals >= config.watchdog.max_recoveries {
                return block(tx, item, &format!("{reason}, also after it was told so"));
            }
            if held(tx, item)? {
                return Ok(());
            }
            revived(tx, item, &reason, true)?;
            again(tx, config, item, prompt, true)
        }
    }
}

/// Whether an agent that did not report yielded by itself: its work is looked at all the same.
pub(super) fn exited_by_itself(
    conn: &Connection,
    session: &AgentSession,
) -> Result<bool, WorkError> {
    let last = sessions::turns_of_session(conn, session.id)?.pop();
    Ok(last.and_then(|turn| turn.result).is_some_and(|result| yielded(&result)))
}

/// Whether a turn ended its session by itself. One that ended clean and left it waiting, or with
/// more to be said, did not: somebody else ended the session afterwards.
fn yielded(result: &TurnResult) -> bool {
    result.is_clean() && result.state_after == SessionState::Completed
}

/// Whether nothing can be looked at in the item's project now.
fn stands_still(conn: &Connection, item: &Item) -> Result<bool, WorkError> {
    let project = Scope::Project(item.project.clone());
    Ok(pauses::find(conn, &Scope::Machine)?.is_some() || pauses::find(conn, &project)?.is_some())
}

/// The reports that belong to a session: made in it, or at the command line while it lasted.
fn reports_of(conn: &Connection, session: &AgentSession) -> Result<Vec<Report>, WorkError> {
    let mut reports = sessions::reports_of_item(conn, session.item)?;
    reports.retain(|report| {
        report.agent == session.agent
            && report.session.map_or(report.at >= session.created_at, |id| id == session.id)
    });
    Ok(reports)
}

fn known_leftovers(conn: &Connection, item: ItemId) -> Result<Vec<String>, WorkError> {
    let mut known: Vec<String> = Vec::new();
    for what in [What::SentBack, What::Passed] {
        let newest = decisions::newest_from(conn, item, what, "gates")?;
        let listed = newest.and_then(|decision| decision.inputs.get("leftovers").cloned());
        let listed = listed.and_then(|list| serde_json::from_value(list).ok());
        known.extend::<Vec<String>>(listed.unwrap_or_default());
    }
    Ok(known)
}

/// Looks at the work of an item; `None` when it was cancelled.
pub(super) async fn verify(
    world: &dyn World,
    due: &Due,
    cancel: &CancellationToken,
) -> Option<Verdict> {
    let mut checked = match world.check(&due.item).await {
        Ok(checked) => checked,
        Err(trouble) => return Some(Verdict::Trouble(trouble)),
    };
    checked.dirty.retain(|path| !due.leftovers.contains(path));
    let finished = checked.dirty.is_empty() && checked.elsewhere.is_none();
    let Some(commit) = checked.commit.clone().filter(|_| finished) else {
        return Some(Verdict::NotCommitted(checked));
    };
    let outcome = world.run_gates(&due.item, &commit, cancel).await;
    if cancel.is_cancelled() {
        return None;
    }
    Some(match outcome {
        Err(trouble) => Verdict::Trouble(trouble),
        Ok(outcome) => match outcome.failed {
            None => Verdict::Passed { commit, left: outcome.left },
            Some(failed) => {
                let leftovers = [due.leftovers.clone(), outcome.left.paths].concat();
                Verdict::GateFailed { commit, failed, leftovers }
            }
        },
    })
}

/// Writes what follows from a look at the work, if the item still stands where it stood.
pub(super) fn conclude(
    tx: &Tx<'_>,
    config: &Config,
    due: &Due,
    verdict: Verdict,
) -> Result<(), WorkError> {
    let Some(item) = items::find(tx, due.item.id)? else { return Ok(()) };
    let newest = sessions::sessions_of_item(tx, item.id)?.pop().map(|session| session.id);
    if item.stage != due.item.stage || newest != Some(due.session) {
        return Ok(());
    }
    if !matches!(verdict, Verdict::Trouble(_)) {
        pauses::succeeded(tx, &Scope::Machine)?;
        pauses::succeeded(tx, &Scope::Project(item.project.clone()))?;
    }
    match verdict {
        Verdict::NotCommitted(checked) => {
            ask_to_commit(tx, config, &item, &checked, due.files_read)
        }
        Verdict::GateFailed { commit, failed, leftovers } => {
            gate_failed(tx, config, &item, &commit, &failed, &leftovers)
        }
        Verdict::Passed { commit, left } => passed(tx, &item, &commit, &left),
        Verdict::Trouble(trouble) => put_off(tx, &item, &trouble),
    }
}

/// Notes that the work could not be looked at. What no retry mends pauses what it concerns; the
/// room hears of anything else once.
fn put_off(tx: &Tx<'_>, item: &Item, trouble: &Trouble) -> Result<(), WorkError> {
    let what = format!("its work could not be checked: {}", trouble.words);
    let inputs = json!({"pauses": trouble.pauses.as_ref().map(Scope::in_words)});
    let news = decisions::note(tx, item.id, What::PutOff, "check", &what, &inputs)?;
    if let Some(scope) = &trouble.pauses {
        pauses::begin(tx, scope, &trouble.words)?;
    } else if news {
        log::append_event(tx, &Event::Trouble { item: item.id, what })?;
    }
    Ok(())
}

fn passed(tx: &Tx<'_>, item: &Item, commit: &str, left: &Leftovers) -> Result<(), WorkError> {
    let summary = "all gates passed".to_owned();
    gates_ran(tx, item.id, commit, true, &summary)?;
    committed(tx, item.id, commit)?;
    let why = format!("its gates pass on {}", text::short(commit));
    decisions::record(
        tx,
        Some(item.id),
        What::Passed,
        &why,
        &json!({
            "from": "gates",
            "commit": commit,
            "qa": item.qa,
            "leftovers": left.paths,
            "fingerprint": left.fingerprint,
        }),
    )?;
    let commit = commit.to_owned();
    let event = if item.stage.column() == Column::Merge {
        StageEvent::Resolved { commit }
    } else {
        StageEvent::GatesPassed { commit, qa: item.qa }
    };
    apply_to(tx, item, &event, &system(tx), &why)?;
    Ok(())
}

fn gates_ran(
    tx: &Tx<'_>,
    item: ItemId,
    commit: &str,
    passed: bool,
    summary: &str,
) -> Result<(), WorkError> {
    let (commit, summary) = (commit.to_owned(), summary.to_owned());
    log::append_event(tx, &Event::GatesRan { item, commit, passed, summary })?;
    Ok(())
}

/// Notes that a commit landed on the item's branch, once a commit: what was counted is forgotten.
fn committed(tx: &Tx<'_>, item: ItemId, commit: &str) -> Result<(), WorkError> {
    let known = decisions::newest_of(tx, item, What::Committed)?;
    let known = known.and_then(|decision| decision.inputs.get("commit").cloned());
    if known.as_ref().and_then(Value::as_str) != Some(commit) {
        let why = format!("{} is on its branch", text::short(commit));
        decisions::record(tx, Some(item), What::Committed, &why, &json!({"commit": commit}))?;
    }
    Ok(())
}

fn gate_failed(
    tx: &Tx<'_>,
    config: &Config,
    item: &Item,
    commit: &str,
    failed: &FailedGate,
    leftovers: &[String],
) -> Result<(), WorkError> {
    let what = &failed.words;
    gates_ran(tx, item.id, commit, false, &format!("{what}\n{}", failed.tail))?;
    committed(tx, item.id, commit)?;
    let tried = item.retries;
    if tried >= config.limits.max_retries {
        let tail = text::tail(&failed.tail);
        let reason = format!("{what}, after {tried} retries\n{tail}");
        return block(tx, item, &reason);
    }
    let why = format!("{what} on {}:\n\n{}", text::short(commit), text::fenced(&failed.tail));
    decisions::record(
        tx,
        Some(item.id),
        What::SentBack,
        &format!("{what}; retry {} of {}", tried + 1, config.limits.max_retries),
        &json!({"from": "gates", "commit": commit, "leftovers": leftovers}),
    )?;
    let item = apply_to(tx, item, &StageEvent::SentBack { why: why.clone() }, &system(tx), what)?;
    again(tx, config, &item, prompt::mend(&why), true)
}

fn ask_to_commit(
    tx: &Tx<'_>,
    config: &Config,
    item: &Item,
    checked: &Checked,
    files_read: u64,
) -> Result<(), WorkError> {
    let progress = Progress { fingerprint: checked.fingerprint.clone(), files_read };
    let counters = Counters::of(tx, item.id)?.asked(progress);
    let state = match &checked.elsewhere {
        _ if !checked.dirty.is_empty() => {
            "its worktree holds changes that are not committed".to_owned()
        }
        Some(on) => format!("its worktree stands on {on} instead of the item's branch"),
        None => "its branch has no commit".to_owned(),
    };
    if counters.idle_asks >= MAX_IDLE_ASKS || counters.asks >= MAX_ASKS {
        let reason = format!(
            "{state}: the agent ended {} times without committing its work ({} of them in a row \
             without any progress)",
            counters.asks, counters.idle_asks
        );
        return block(tx, item, &reason);
    }
    decisions::record(
        tx,
        Some(item.id),
        What::AskedToCommit,
        &format!("{state} (attempt {} of {MAX_ASKS})", counters.asks),
        &json!({
            "fingerprint": checked.fingerprint,
            "files_read": files_read,
            "dirty": checked.dirty,
            "stands_on": checked.elsewhere,
            "idle_asks": counters.idle_asks,
        }),
    )?;
    let mut prompt = prompt::commit_only(&checked.dirty);
    if let Some(on) = &checked.elsewhere {
        prompt = format!(
            "Your worktree stands on {on}, and not on the branch that was made for this item \
             (`git branch --list 'item/{}-*'`): bring your commits onto that branch and switch to \
             it.\n\n{prompt}",
            item.id
        );
    }
    again(tx, config, item, prompt, true)
}

fn qa_verdict(
    tx: &Tx<'_>,
    config: &Config,
    item: &Item,
    session: &AgentSession,
    reports: &[Report],
) -> Result<(), WorkError> {
    let by_report = reports.iter().rev().find_map(|report| match report.kind {
        MailType::QaPassed => Some((true, report.summary.clone())),
        MailType::QaFailed => {
            Some((false, queue::findings(&report.summary, report.payload.as_ref())))
        }
        MailType::Status
        | MailType::Question
        | MailType::Result
        | MailType::Error
        | MailType::Dispatch
        | MailType::Assign
        | MailType::WorkerDone
        | MailType::WorkerDied
        | MailType::MergeReady
        | MailType::Merged
        | MailType::MergeFailed
        | MailType::Escalation
        | MailType::HealthCheck
        | MailType::DecisionGate
        | MailType::RateLimited => None,
    });
    let verdict = match by_report {
        Some(verdict) => Some(verdict),
        None => queue::verdict_mail(tx, &session.agent, item.id, session.created_at)?,
    };
    match verdict {
        None => died(tx, config, item, session),
        Some((true, _summary)) => {
            let why = format!("{} found it good", session.agent);
            let inputs = verdict_inputs(item, session);
            decisions::record(tx, Some(item.id), What::Passed, &why, &inputs)?;
            apply_to(tx, item, &StageEvent::QaPassed, &system(tx), &why)?;
            Ok(())
        }
        Some((false, findings)) => {
            let rounds = Counters::of(tx, item.id)?.rounds;
            if rounds >= MAX_ROUNDS {
                let reason = format!("it was sent back {rounds} times. QA's last word: {findings}");
                return block(tx, item, &reason);
            }
            let why = format!("{} found faults", session.agent);
            let mut inputs = verdict_inputs(item, session);
            inputs["rounds"] = json!(rounds + 1);
            decisions::record(tx, Some(item.id), What::SentBack, &why, &inputs)?;
            apply_to(tx, item, &StageEvent::QaFailed { findings }, &system(tx), &why)?;
            Ok(())
        }
    }
}

/// What a verdict of QA was about.
fn verdict_inputs(item: &Item, session: &AgentSession) -> Value {
    json!({
        "from": "qa",
        "agent": session.agent,
        "session": session.id,
        "commit": item.stage.commit(),
    })
}

/// What follows the end of an agent that left no result.
enum AfterDeath {
    /// Nothing yet.
    Wait,
    /// Another session of the same agent, counted or not, warm or cold.
    Revive { counts: bool, resume: bool },
    /// Any agent, as soon as one may start.
    Release,
    /// A person must look.
    Block,
}

fn after_death(result: Option<&TurnResult>, dead_for_ms: i64) -> AfterDeath {
    let revive = |counts, resume, grace| {
        if dead_for_ms < grace { AfterDeath::Wait } else { AfterDeath::Revive { counts, resume } }
    };
    let ended_by_others = result.is_some_and(|result| result.is_clean() && !yielded(result));
    match result.map(|result| &result.end) {
        Some(TurnEnd::Clean) if ended_by_others => revive(false, true, STOP_GRACE_MS),
        Some(TurnEnd::Stopped { .. }) => revive(false, true, STOP_GRACE_MS),
        Some(TurnEnd::CutOff | TurnEnd::RateLimited { .. }) => revive(false, true, 0),
        None | Some(TurnEnd::Clean | TurnEnd::Stalled) => revive(true, true, DEATH_GRACE_MS),
        Some(TurnEnd::Limit { .. }) => AfterDeath::Block,
        Some(TurnEnd::Failed { failure, .. }) => match failure {
            // The runtime is paused until a person acts; the item waits without holding an agent.
            Failure::Auth | Failure::Unusable | Failure::Project | Failure::Machine => {
                AfterDeath::Release
            }
            Failure::ContextFull | Failure::SessionLost => revive(true, false, DEATH_GRACE_MS),
            // The turn runner has waited, retried and resumed as often as it may.
            Failure::BadRequest | Failure::Provider | Failure::Protocol | Failure::Crash => {
                AfterDeath::Block
            }
        },
    }
}

fn died(
    tx: &Tx<'_>,
    config: &Config,
    item: &Item,
    session: &AgentSession,
) -> Result<(), WorkError> {
    let result = sessions::turns_of_session(tx, session.id)?.pop().and_then(|turn| turn.result);
    let reason = death_in_words(&session.agent, result.as_ref());
    let dead_for_ms = tx.now() - session.updated_at.timestamp_millis();
    match after_death(result.as_ref(), dead_for_ms) {
        AfterDeath::Wait => Ok(()),
        AfterDeath::Release => {
            let inputs = json!({"agent": session.agent, "takes_back": true});
            decisions::record(tx, Some(item.id), What::Withdrawn, &reason, &inputs)?;
            apply_to(tx, item, &StageEvent::Unclaimed, &system(tx), &reason)?;
            Ok(())
        }
        AfterDeath::Block => block(tx, item, &reason),
        AfterDeath::Revive { counts, resume } => {
            if counts && Counters::of(tx, item.id)?.revivals >= config.watchdog.max_recoveries {
                return block(tx, item, &format!("{reason}, also after it was started again"));
            }
            if held(tx, item)? {
                return Ok(());
            }
            revived(tx, item, &reason, counts)?;
            again(tx, config, item, prompt::go_on(session.role, item, &reason), resume)
        }
    }
}

/// Records a revival; one that does not count is told apart by its kind.
fn revived(tx: &Tx<'_>, item: &Item, reason: &str, counts: bool) -> Result<(), WorkError> {
    let what = if counts { What::Revived } else { What::Resumed };
    let inputs = json!({"agent": item.stage.claim(), "stage": item.stage.name()});
    decisions::record(tx, Some(item.id), what, reason, &inputs)?;
    Ok(())
}

/// Whether nothing may start for the item now: the emergency stop, or its project is paused.
fn held(conn: &Connection, item: &Item) -> Result<bool, WorkError> {
    Ok(meta::find(conn, meta::STOPPED_ALL)?.is_some()
        || queue::project(conn, &item.project)?.is_none_or(|project| project.paused))
}

/// A live session that has nothing to run and ran into nothing that would wake it: told to go on.
fn revive_idle(
    tx: &Tx<'_>,
    config: &Config,
    item: &Item,
    live: &AgentSession,
) -> Result<(), WorkError> {
    let idle = match live.state {
        SessionState::Booting | SessionState::BetweenTurns => live.pending_prompt.is_none(),
        SessionState::InTurn
        | SessionState::Waiting
        | SessionState::Stalled
        | SessionState::Completed
        | SessionState::Zombie => false,
    };
    let quiet_for_ms =
        tx.now() - live.updated_at.timestamp_millis().max(live.last_activity.timestamp_millis());
    if !idle || quiet_for_ms < IDLE_GRACE_MS || held(tx, item)? {
        return Ok(());
    }
    let turn = sessions::turns_of_session(tx, live.id)?.pop();
    if turn.as_ref().is_some_and(|turn| turn.result.is_none()) {
        return Ok(());
    }
    let reason = death_in_words(&live.agent, turn.and_then(|turn| turn.result).as_ref());
    if Counters::of(tx, item.id)?.revivals >= config.watchdog.max_recoveries {
        return block(tx, item, &format!("{reason}, also after it was told to go on"));
    }
    revived(tx, item, &reason, true)?;
    sessions::set_prompt(tx, live.id, &prompt::go_on(live.role, item, &reason))?;
    Ok(())
}

pub(super) fn death_in_words(agent: &AgentName, result: Option<&TurnResult>) -> String {
    let Some(result) = result else { return format!("{agent} ended before it began") };
    match &result.end {
        TurnEnd::Clean if !yielded(result) => format!("{agent} was stopped while it waited"),
        TurnEnd::Clean => format!("{agent} ended without reporting"),
        TurnEnd::Stopped { why } => format!("{agent} was stopped: {why}"),
        TurnEnd::Stalled => format!("{agent} was silent for too long and was ended"),
        TurnEnd::Limit { what, .. } => what.clone(),
        TurnEnd::RateLimited { until } => {
            format!("{agent} is rate limited until {}", until.format("%H:%M UTC"))
        }
        TurnEnd::Failed { message, .. } => format!("{agent} failed: {message}"),
        TurnEnd::CutOff => format!("{agent} was cut off when musher itself ended"),
    }
}

/// Gives an item to the agent that holds it once more; when that is not configured any more, the
/// item waits for another.
fn again(
    tx: &Tx<'_>,
    config: &Config,
    item: &Item,
    prompt: String,
    resume: bool,
) -> Result<(), WorkError> {
    let (claim, role) = (item.stage.claim(), assign::role_for(config, item));
    let agent: Option<&AgentConfig> =
        config.agents.iter().find(|agent| Some(&agent.name) == claim && Some(agent.role) == role);
    match agent {
        Some(agent) => assign::create(tx, item, agent, prompt, resume),
        None => {
            let why = "its agent is not configured any more";
            apply_to(tx, item, &StageEvent::Unclaimed, &system(tx), why)?;
            Ok(())
        }
    }
}

/// Blocks an item, with the cause in words.
pub(super) fn block(tx: &Tx<'_>, item: &Item, reason: &str) -> Result<(), WorkError> {
    let counters = Counters::of(tx, item.id)?;
    let inputs = json!({"stage": item.stage, "retries": item.retries, "counted": counters});
    decisions::record(tx, Some(item.id), What::Blocked, reason, &inputs)?;
    let event = StageEvent::Blocked { reason: reason.to_owned() };
    let cause = reason.lines().next().unwrap_or_default();
    apply_to(tx, item, &event, &system(tx), cause)?;
    Ok(())
}
