//! What becomes of a session when its turn has ended, and the one transaction that says so.
//!
//! [`verdict`] is pure and decides; [`settle`] first sees that what must not live on is verified
//! gone, then writes: result, state, what is to be said next, events, mail given back, lease. A
//! session that was moved meanwhile (a stop, the watchdog) keeps the state that it was given.

use super::implied::implied;
use super::{Begun, Ended, Inner, Stop, start};
use crate::agents::asks;
use crate::agents::process::ExitReport;
use crate::config::AgentConfig;
use crate::model::agent::{Failure, SessionState, TurnEnd, TurnResult, Waiting, WaitingFor};
use crate::model::event::Event;
use crate::store::agents::{self as sessions, AgentSession, MoveOutcome};
use crate::store::pauses::{self, Scope};
use crate::store::timers::{self, NewTimer, TimerKind};
use crate::store::{StoreError, Tx, items, log, mail};
use chrono::{DateTime, Duration, Utc};
use rusqlite::Connection;
use std::sync::Arc;

/// Why a turn ended that goes on after the next start of the server.
pub(in crate::agents) const SHUTDOWN: &str = "the server shut down";

/// How often a provider may fail in a row before the session is given up.
const PROVIDER_FAILURES_MAX: u32 = 8;

/// The first pause after a failure of the provider; doubled by each further one.
const PROVIDER_PAUSE_S: i64 = 15;

/// The longest pause after a failure of the provider.
const PROVIDER_PAUSE_MAX_S: i64 = 600;

/// The failure of the provider in a row that the room hears about.
const TOLD_AT: u32 = 2;

/// How long a provider is left alone that refuses again without saying until when; doubled by each
/// further time.
const LIMIT_PAUSE_S: i64 = 60;

/// The longest such time.
const LIMIT_PAUSE_MAX_S: i64 = 900;

/// What a session waits for that a provider refuses.
pub(in crate::agents) const RATE_LIMIT: &str = "a rate limit of the provider";

/// What an agent is told that ended its turn without saying why.
const ASK_TO_REPORT: &str = "You ended your turn without a report. If the work is finished and \
    committed, call `report_done` now. If you wait for something, say so with `wait_for` (or ask \
    with `ask_human`). If it is not finished, go on with it now.";

/// What is known when a turn has ended.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub end: TurnEnd,
    /// Whether the agent reported in this turn.
    pub reported: bool,
    /// What it said that it waits for.
    pub waiting: Option<Waiting>,
    /// Whether it was asked before to report.
    pub contract_asked: bool,
    /// Whether the model has the prompt.
    pub consumed: bool,
    /// Resumptions after a crash so far, and at most.
    pub recoveries: (u32, u32),
    /// How often the provider failed in a row, with this time.
    pub provider_failures: u32,
    /// How often the provider refused in a row before, because of a rate limit.
    pub limits_before: u32,
    pub now: DateTime<Utc>,
}

/// What becomes of the session.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// It reported.
    Complete,
    /// It waits.
    Wait(Waiting),
    /// It is asked once to report.
    AskToReport,
    /// It was asked and did not.
    Violation,
    /// It goes on by itself at that time. `told`: it is too early or too late to say so.
    Later { until: DateTime<Utc>, why: String, limited: bool, told: bool },
    /// It goes on as soon as it can; `counted` against its resumptions.
    GoOn { why: String, counted: bool },
    /// An operator stopped it.
    Close,
    /// Nothing that would fail in the same way starts until the cause is gone.
    Pause { failure: Failure, reason: String },
    /// It is given up.
    Die { reason: String },
}

impl Verdict {
    /// Whether the runtime is kept up.
    fn keeps_process(&self) -> bool {
        match self {
            Verdict::Wait(_) | Verdict::AskToReport => true,
            Verdict::Complete
            | Verdict::Violation
            | Verdict::Later { .. }
            | Verdict::GoOn { .. }
            | Verdict::Close
            | Verdict::Pause { .. }
            | Verdict::Die { .. } => false,
        }
    }
}

/// The end of a turn that we ended.
pub(super) fn stopped(why: Option<&Stop>) -> TurnEnd {
    let why = match why {
        Some(Stop::Limit(reached)) => return reached.clone().into(),
        Some(Stop::Operator(why)) => why.clone(),
        Some(Stop::Shutdown) | None => SHUTDOWN.to_owned(),
    };
    TurnEnd::Stopped { why }
}

/// Decides what becomes of a session. Pure.
pub(super) fn verdict(facts: &Facts) -> Verdict {
    if let TurnEnd::Stopped { why } = &facts.end
        && why != SHUTDOWN
    {
        return Verdict::Close;
    }
    // After a report nothing is a death: what was reported is checked by gates, not by exit codes.
    if facts.reported {
        return Verdict::Complete;
    }
    match &facts.end {
        TurnEnd::Clean => match (&facts.waiting, facts.contract_asked) {
            (Some(waiting), _) => Verdict::Wait(waiting.clone()),
            (None, false) => Verdict::AskToReport,
            (None, true) => Verdict::Violation,
        },
        TurnEnd::Stopped { why } => Verdict::GoOn { why: why.clone(), counted: false },
        TurnEnd::CutOff => recover(facts, "the server ended while it worked"),
        TurnEnd::Stalled => {
            Verdict::Die { reason: "nothing was heard from it for too long".to_owned() }
        }
        // The pool lets it go on when the day has turned.
        TurnEnd::Limit { what, resumes: true } => {
            Verdict::GoOn { why: what.clone(), counted: false }
        }
        TurnEnd::Limit { what, resumes: false } => Verdict::Die { reason: what.clone() },
        TurnEnd::RateLimited { until } => {
            // One that refuses again is asked more and more rarely; that is no news.
            let again = facts.limits_before;
            let rest = (LIMIT_PAUSE_S << again.saturating_sub(1).min(10)).min(LIMIT_PAUSE_MAX_S);
            let rest = facts.now + Duration::seconds(if again > 0 { rest } else { 0 });
            let (until, told) = ((*until).max(rest), again > 0);
            Verdict::Later { until, why: RATE_LIMIT.to_owned(), limited: true, told }
        }
        TurnEnd::Failed { failure, message } => failed(facts, *failure, message),
    }
}

fn failed(facts: &Facts, failure: Failure, message: &str) -> Verdict {
    match failure {
        Failure::Auth | Failure::Unusable | Failure::Project | Failure::Machine => {
            Verdict::Pause { failure, reason: message.to_owned() }
        }
        Failure::Provider if facts.provider_failures < PROVIDER_FAILURES_MAX => {
            let doubled = PROVIDER_PAUSE_S << facts.provider_failures.saturating_sub(1).min(10);
            let pause = Duration::seconds(doubled.min(PROVIDER_PAUSE_MAX_S));
            // Once may be chance; the second time in a row people should know, and only then.
            let told = facts.provider_failures != TOLD_AT;
            let (until, why) = (facts.now + pause, message.to_owned());
            Verdict::Later { until, why, limited: false, told }
        }
        Failure::Crash | Failure::Protocol => recover(facts, message),
        Failure::Provider | Failure::BadRequest | Failure::ContextFull | Failure::SessionLost => {
            Verdict::Die { reason: message.to_owned() }
        }
    }
}

fn recover(facts: &Facts, why: &str) -> Verdict {
    let (recoveries, max) = facts.recoveries;
    if recoveries < max {
        Verdict::GoOn { why: why.to_owned(), counted: true }
    } else {
        Verdict::Die { reason: why.to_owned() }
    }
}

/// Settles the turn: ends what must not live on, then writes everything in one transaction.
pub(super) async fn settle(inner: &Arc<Inner>, begun: &Begun, ended: Ended) -> anyhow::Result<()> {
    let Ended { end, mut progress } = ended;
    let (max_recoveries, now) = (inner.config.watchdog.max_recoveries, inner.store.clock().now());
    let asked = Asked {
        session: begun.session.id,
        baseline: begun.baseline,
        end,
        consumed: progress.consumed(),
        max_recoveries,
        now,
    };
    let first = {
        let asked = asked.clone();
        inner.store.read(move |conn| asked.facts(conn)).await?
    };
    let keep = first.is_some_and(|(_, facts, _)| verdict(&facts).keeps_process());
    if !keep && let Some(report) = start::down(inner, begun.session.id).await {
        progress.exit = Some(report);
    }
    let exit = progress.exit.take().unwrap_or_default();
    let result = result(begun, &asked.end, &progress, &exit);
    let (turn, prompt) = (begun.turn, begun.prompt.clone());
    let (config, zone) = (begun.config.clone(), inner.config.time_zone.clone());
    let after = inner
        .store
        .write(move |tx| {
            let Some((session, facts, report)) = asked.facts(tx)? else { return Ok(None) };
            let mut result = result;
            result.report = report;
            let verdict = verdict(&facts);
            result.contract_violation = verdict == Verdict::Violation;
            if begun_work(&facts) {
                pauses::succeeded(tx, &Scope::of_agent(&config))?;
                pauses::succeeded(tx, &Scope::Pool)?;
            }
            let moves = Moves {
                prompt: &prompt,
                consumed: facts.consumed,
                config: Some(&config),
                zone: &zone,
                seen_by: if facts.end == TurnEnd::Stalled { WATCHDOG } else { RUNNER },
            };
            apply(tx, &session, &verdict, &moves)?;
            result.state_after = sessions::find_session(tx, session.id)?
                .map_or(session.state, |session| session.state);
            write(tx, &session, turn, &result)?;
            Ok::<_, StoreError>(Some((verdict, result.state_after)))
        })
        .await?;
    if let Some((verdict, state)) = after {
        tracing::info!(agent = %begun.session.agent, item = %begun.session.item, turn = %begun.turn,
                       ?verdict, state = state.as_str(), "turn settled");
    }
    Ok(())
}

/// What the facts of a turn are read with.
#[derive(Debug, Clone)]
pub(in crate::agents) struct Asked {
    pub(in crate::agents) session: crate::model::ids::AgentSessionId,
    pub(in crate::agents) baseline: Option<i64>,
    pub(in crate::agents) end: TurnEnd,
    pub(in crate::agents) consumed: bool,
    pub(in crate::agents) max_recoveries: u32,
    pub(in crate::agents) now: DateTime<Utc>,
}

impl Asked {
    /// The session, the facts, and the report of this turn.
    pub(super) fn facts(
        &self,
        conn: &Connection,
    ) -> Result<Option<(AgentSession, Facts, Option<i64>)>, StoreError> {
        let Some(session) = sessions::find_session(conn, self.session)? else { return Ok(None) };
        let report = sessions::newest_report(conn, &session.agent, session.item)?
            .filter(|report| Some(report.id) > self.baseline)
            .filter(|report| report.session.is_none_or(|of| of == session.id))
            .map(|report| report.id);
        let turns = sessions::turns_of_session(conn, session.id)?;
        let in_a_row = |is: fn(&TurnEnd) -> bool| {
            let ends = turns.iter().rev().filter_map(|turn| turn.result.as_ref());
            let count = ends.take_while(|result| is(&result.end)).count();
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        let provider_failures =
            in_a_row(|end| matches!(end, TurnEnd::Failed { failure: Failure::Provider, .. }));
        let limits_before = in_a_row(|end| matches!(end, TurnEnd::RateLimited { .. }));
        // What a person has not answered is waited for, whether it was announced or not.
        let open = asks::open_of(conn, session.id)?;
        let for_person =
            open.map(|detail| Waiting { what: WaitingFor::Person, until: None, detail });
        let waiting = session.waiting.clone().or(for_person);
        let facts = Facts {
            end: self.end.clone(),
            reported: report.is_some(),
            waiting: match waiting {
                Some(waiting) => Some(waiting),
                None => implied(conn, &session, self.now)?,
            },
            contract_asked: session.contract_asked,
            consumed: self.consumed,
            recoveries: (session.recoveries, self.max_recoveries),
            provider_failures: provider_failures.saturating_add(1),
            limits_before,
            now: self.now,
        };
        Ok(Some((session, facts, report)))
    }
}

fn result(
    begun: &Begun,
    end: &TurnEnd,
    progress: &super::drive::Progress,
    exit: &ExitReport,
) -> TurnResult {
    let clean = *end == TurnEnd::Clean;
    let mut warnings = progress.warnings.clone();
    if progress.resume_mismatch {
        warnings.push("it went on with another conversation than it was asked to".to_owned());
    }
    TurnResult {
        end: end.clone(),
        exit_code: exit.code,
        native_id: progress.native_id.clone(),
        resume_mismatch: progress.resume_mismatch,
        report: None,
        duration_ms: u64::try_from(begun.at.elapsed().as_millis()).unwrap_or(u64::MAX),
        state_before: begun.session.state,
        state_after: begun.session.state,
        contract_violation: false,
        last_text: crate::redact::redact(&progress.last_text),
        stderr_tail: if clean { String::new() } else { exit.stderr_tail.clone() },
        warnings,
        usage: progress.spent.usage,
        cost_microusd: progress.spent.microusd,
    }
}

/// Writes the result, its event, and gives back what the turn held.
pub(in crate::agents) fn write(
    tx: &Tx<'_>,
    session: &AgentSession,
    turn: crate::model::ids::TurnId,
    result: &TurnResult,
) -> Result<(), StoreError> {
    if sessions::finish_turn(tx, turn, result)? {
        if let TurnEnd::Failed { message, .. } = &result.end {
            sessions::append_turn_event(tx, turn, session.id, "error", message)?;
        }
        log::append_event(
            tx,
            &Event::TurnFinished {
                session: session.id,
                turn,
                agent: session.agent.clone(),
                item: session.item,
            },
        )?;
    }
    mail::give_back(tx, session.agent.as_str(), turn)?;
    sessions::release_lease(tx, &session.agent, session.id)
}

/// What a move of a session is made from.
struct Moves<'a> {
    prompt: &'a str,
    consumed: bool,
    /// The agent, where it is known.
    config: Option<&'a AgentConfig>,
    /// The installation's time zone.
    zone: &'a str,
    /// Who saw the end.
    seen_by: &'static str,
}

/// Who sees how turns end.
pub(in crate::agents) const RUNNER: &str = "runner";

/// Who sees what no turn sees.
pub(in crate::agents) const WATCHDOG: &str = "watchdog";

/// Whether a turn got as far as the model: its runtime works.
fn begun_work(facts: &Facts) -> bool {
    match &facts.end {
        TurnEnd::Clean | TurnEnd::RateLimited { .. } => true,
        TurnEnd::Failed { .. }
        | TurnEnd::Stopped { .. }
        | TurnEnd::Stalled
        | TurnEnd::Limit { .. }
        | TurnEnd::CutOff => facts.reported,
    }
}

/// What stands still after a failure that no retry mends.
fn scope_of(
    tx: &Tx<'_>,
    session: &AgentSession,
    failure: Failure,
    config: Option<&AgentConfig>,
) -> Result<Scope, StoreError> {
    Ok(match failure {
        Failure::Machine => Scope::Machine,
        Failure::Project => match items::find(tx, session.item)? {
            Some(item) => Scope::Project(item.project),
            None => Scope::Machine,
        },
        Failure::Auth
        | Failure::Unusable
        | Failure::Provider
        | Failure::BadRequest
        | Failure::ContextFull
        | Failure::SessionLost
        | Failure::Protocol
        | Failure::Crash => config.map_or(Scope::Runtime(session.runtime, None), Scope::of_agent),
    })
}

/// Moves the session as decided. One that was moved meanwhile is left alone.
fn apply(
    tx: &Tx<'_>,
    session: &AgentSession,
    verdict: &Verdict,
    moves: &Moves<'_>,
) -> Result<(), StoreError> {
    let id = session.id;
    let moved = match verdict {
        Verdict::Complete | Verdict::Violation => {
            sessions::move_state(tx, id, SessionState::Completed)?
        }
        Verdict::Wait(waiting) => wait(tx, id, waiting)?,
        Verdict::Later { until, why, .. } => {
            let waiting =
                Waiting { what: WaitingFor::RateLimit, until: Some(*until), detail: why.clone() };
            wait(tx, id, &waiting)?
        }
        Verdict::AskToReport | Verdict::GoOn { .. } => {
            sessions::move_state(tx, id, SessionState::BetweenTurns)?
        }
        Verdict::Close | Verdict::Pause { .. } | Verdict::Die { .. } => {
            sessions::move_state(tx, id, SessionState::Zombie)?
        }
    };
    if moved != MoveOutcome::Ok || session.state == SessionState::Zombie {
        tracing::info!(session = %id, ?moved, ?verdict, "the session was moved meanwhile");
        return Ok(());
    }
    follow(tx, session, verdict, moves)
}

/// What follows from the move.
fn follow(
    tx: &Tx<'_>,
    session: &AgentSession,
    verdict: &Verdict,
    moves: &Moves<'_>,
) -> Result<(), StoreError> {
    let id = session.id;
    let Moves { prompt, consumed, config, zone, seen_by } = *moves;
    match verdict {
        Verdict::Complete => {}
        Verdict::Wait(_) => {
            sessions::set_contract_asked(tx, id, false)?;
            sessions::clear_recoveries(tx, id)?;
        }
        Verdict::AskToReport => {
            sessions::set_contract_asked(tx, id, true)?;
            sessions::clear_recoveries(tx, id)?;
            // Somebody has said something new meanwhile: that is the next turn.
            if session.pending_prompt.is_none() {
                sessions::set_prompt(tx, id, ASK_TO_REPORT)?;
            }
        }
        Verdict::Violation => {
            let reason = "it ended without a report, also when it was asked for one";
            died(tx, session, reason, seen_by)?;
        }
        Verdict::Later { until, why, limited, told } => {
            sessions::set_prompt(tx, id, &go_on(why, prompt, consumed))?;
            let (item, agent, until) = (session.item, session.agent.clone(), *until);
            if *limited {
                resume_at(tx, session, until, why, zone)?;
                if !told {
                    log::append_event(tx, &Event::RateLimited { item, agent, until })?;
                }
            } else if !told {
                let message = why.clone();
                log::append_event(tx, &Event::Unreachable { item, agent, message, until })?;
            }
        }
        Verdict::GoOn { why, counted } => {
            if *counted {
                sessions::count_recovery(tx, id)?;
            }
            sessions::set_prompt(tx, id, &go_on(why, prompt, consumed))?;
        }
        Verdict::Close => {
            sessions::close_zombie(tx, id)?;
        }
        Verdict::Pause { failure, reason } => {
            pauses::begin(tx, &scope_of(tx, session, *failure, config)?, reason)?;
        }
        Verdict::Die { reason } => died(tx, session, reason, seen_by)?,
    }
    Ok(())
}

/// Sets the timer at which a session goes on that a provider refuses: one an item.
fn resume_at(
    tx: &Tx<'_>,
    session: &AgentSession,
    until: DateTime<Utc>,
    why: &str,
    zone: &str,
) -> Result<(), StoreError> {
    timers::cancel_resumes(tx, session.item)?;
    timers::insert(
        tx,
        &NewTimer {
            kind: TimerKind::Resume,
            session: None,
            person: None,
            created_by: mail::MUSHER.to_owned(),
            item: Some(session.item),
            text: format!("{} goes on after {why}", session.agent),
            due_at: until,
            cron: None,
            zone: zone.to_owned(),
        },
    )?;
    Ok(())
}

fn wait(
    tx: &Tx<'_>,
    id: crate::model::ids::AgentSessionId,
    waiting: &Waiting,
) -> Result<MoveOutcome, StoreError> {
    // Waiting is not entered from booting: a provider may refuse before anything was heard.
    let moved = sessions::move_state(tx, id, SessionState::BetweenTurns)?;
    if moved != MoveOutcome::Ok {
        return Ok(moved);
    }
    sessions::move_to_waiting(tx, id, waiting)
}

/// Says that a session ended without a report: called once, in the transaction that ends it.
pub(in crate::agents) fn died(
    tx: &Tx<'_>,
    session: &AgentSession,
    reason: &str,
    seen_by: &str,
) -> Result<(), StoreError> {
    let event = Event::WorkerDied {
        session: session.id,
        agent: session.agent.clone(),
        item: session.item,
        reason: reason.to_owned(),
        seen_by: seen_by.to_owned(),
    };
    log::append_event(tx, &event)?;
    Ok(())
}

/// The prompt after a turn that was cut off. A prompt that the model never saw is said again.
fn go_on(why: &str, prompt: &str, consumed: bool) -> String {
    const CUT_OFF: &str = "You were cut off";
    if !consumed {
        return prompt.to_owned();
    }
    let task = match prompt.split_once("\n\nWhat you were told: ") {
        Some((begin, told)) if begin.starts_with(CUT_OFF) => told,
        _fresh => prompt,
    };
    format!(
        "{CUT_OFF} ({why}). A command that ran then may be half done: look at what the worktree \
         holds (`git status`), and go on where you stopped.\n\nWhat you were told: {task}"
    )
}

/// Settles a turn that a crash of the server cut off; called at the start, when nothing runs.
pub(in crate::agents) fn settle_cut_off(
    tx: &Tx<'_>,
    asked: &Asked,
    turn: &sessions::Turn,
    progressed: bool,
) -> Result<(), StoreError> {
    let Some((session, mut facts, report)) = asked.facts(tx)? else { return Ok(()) };
    if progressed {
        // A crash of ours after it did something is not its fault; its limits bound it anyway.
        facts.recoveries.0 = 0;
        sessions::clear_recoveries(tx, session.id)?;
    }
    let verdict = verdict(&facts);
    let moves = Moves {
        prompt: &turn.prompt,
        consumed: facts.consumed,
        config: None,
        zone: "UTC",
        seen_by: WATCHDOG,
    };
    apply(tx, &session, &verdict, &moves)?;
    let state_after =
        sessions::find_session(tx, session.id)?.map_or(session.state, |session| session.state);
    let elapsed = (tx.now() - turn.started_at.timestamp_millis()).max(0);
    let last_heard = session.last_activity.timestamp_millis() - turn.started_at.timestamp_millis();
    let result = TurnResult {
        end: TurnEnd::CutOff,
        exit_code: None,
        native_id: session.native_id.clone(),
        resume_mismatch: false,
        report,
        duration_ms: elapsed.min(last_heard.max(0)).cast_unsigned(),
        state_before: session.state,
        state_after,
        contract_violation: false,
        last_text: String::new(),
        stderr_tail: String::new(),
        warnings: vec![],
        usage: crate::model::llm::Usage::default(),
        cost_microusd: 0,
    };
    write(tx, &session, turn.id, &result)
}
