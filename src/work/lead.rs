//! Leads and their child items: who may file and start them, how their lead hears of them, and
//! when an item is finished that has no commit of its own.
//!
//! **Properties.** A child belongs to the project and the room of its parent, and to one lead at a
//! time: the agent that holds the parent. Depth is one: a child item is worked on by a coder, a
//! scout or a reviewer, never by another lead, and none of these files anything. What ends a child,
//! or holds it up, is mail to the lead, written in the transaction that moves the reader's
//! position: each is told once, whatever crashes. The mail wakes a lead that waits.
//!
//! **Known races.** A child that ends while its parent is held by nobody (the lead died and is not
//! back yet) is told to nobody; the next lead's first prompt lists the children as they stand.

use super::{NewItem, WorkError, apply_to, create, find, movers, start, system};
use crate::model::agent::{Role, SessionState, WaitingFor};
use crate::model::event::Event;
use crate::model::ids::{AgentName, ItemId};
use crate::model::item::{Item, Kind, Origin, OriginKind, QaMode};
use crate::model::mail::{MailType, Priority};
use crate::model::stage::{ArchiveReason, Stage, StageEvent};
use crate::store::agents::{self as sessions, AgentSession, Report};
use crate::store::decisions::{self, What};
use crate::store::log::{self, Log};
use crate::store::mail::{self, COORDINATOR, MUSHER};
use crate::store::{Tx, items};
use rusqlite::Connection;
use serde_json::{Value, json};

/// This reader's name in the table of cursors.
const SUBSCRIBER: &str = "work.leads";
/// How many rows one transaction reads.
const BATCH: usize = 200;
/// How many child items one item may have: a model that files without end is stopped here.
const MAX_CHILDREN: usize = 20;
/// How often a lead may start one child again that failed, before a person must look.
const MAX_RESTARTS: usize = 2;
/// How much of a report a letter shows, in bytes.
const REPORT_BYTES: usize = 4_000;

/// Files a child item of `parent` for its lead.
///
/// `pinned` is the role of the agent that `new` names, if it names one.
pub fn file_child(
    tx: &Tx<'_>,
    lead: &AgentName,
    parent: ItemId,
    new: NewItem,
    pinned: Option<Role>,
) -> Result<Item, WorkError> {
    let parent = led_by(tx, lead, parent)?;
    let refuse = |why: String| Err(WorkError::Refused(why));
    if new.project != parent.project {
        return refuse(format!(
            "a child item belongs to the project of its parent, which is {}: leave `project` out",
            parent.project
        ));
    }
    if new.kind == Kind::Epic {
        return refuse(
            "a child item is work for one agent, and no agent works on an epic: \
                       file the pieces themselves"
                .to_owned(),
        );
    }
    check_worker(pinned)?;
    if new.depends_on.contains(&parent.id) {
        return refuse(format!(
            "item {0} is finished when its children are, so no child can depend on it: leave {0} \
             out of `depends_on`",
            parent.id
        ));
    }
    let filed = items::handed_out(tx, parent.id)?.len();
    if filed >= MAX_CHILDREN {
        return refuse(format!(
            "item {} has {filed} child items, and more are not allowed: ask a person how to go on",
            parent.id
        ));
    }
    // Who wanted to see the whole wants to see its parts.
    let qa = strictest(parent.qa, new.qa.unwrap_or(parent.qa));
    let room = parent.room.clone();
    create(tx, NewItem { parent: Some(parent.id), epic: None, qa: Some(qa), room, ..new })
}

/// Starts a child item for the lead of its parent, with `agent` or with whoever is free.
pub fn start_child(
    tx: &Tx<'_>,
    lead: &AgentName,
    parent: ItemId,
    id: ItemId,
    agent: Option<(&AgentName, Role)>,
    origin: &Origin,
) -> Result<Item, WorkError> {
    let parent = led_by(tx, lead, parent)?;
    let item = find(tx, id)?;
    if item.parent != Some(parent.id) {
        return Err(WorkError::Refused(format!(
            "item {id} is no child of item {}: a lead starts what it has filed itself",
            parent.id
        )));
    }
    check_worker(agent.map(|(_name, role)| role))?;
    let moves = log::transitions_of(tx, id)?;
    let last = moves.last().map(|moved| moved.origin.kind);
    if matches!(item.stage, Stage::Blocked { .. }) && last == Some(OriginKind::User) {
        return Err(WorkError::Refused(format!(
            "a person stopped item {id}: ask them with `ask_human` whether it shall go on"
        )));
    }
    let again = moves.iter().filter(|moved| {
        moved.origin.kind == OriginKind::Agent
            && matches!(moved.to, Stage::Coding { .. })
            && !matches!(moved.from, Some(Stage::Upcoming | Stage::Backlog))
    });
    let again = again.count();
    if again >= MAX_RESTARTS {
        return Err(WorkError::Refused(format!(
            "you have started item {id} {again} times again: ask a person with `ask_human`"
        )));
    }
    start(tx, id, agent.map(|(name, _role)| name), origin)
}

/// The child items of `parent` that a lead waits for: those that have not ended.
pub fn open_children(conn: &Connection, parent: ItemId) -> Result<Vec<Item>, WorkError> {
    let mut open = items::handed_out(conn, parent)?;
    open.retain(|child| !child.stage.is_terminal());
    Ok(open)
}

/// Why nothing would wake a lead that waits for its children, if so.
pub fn cannot_wait(conn: &Connection, parent: ItemId) -> Result<Option<String>, WorkError> {
    let open = open_children(conn, parent)?;
    if open.is_empty() {
        return Ok(Some(
            "You have no open child item, so nothing would wake you: file and start what is \
             missing (`item_create`, `item_start`), or finish with `report_done`."
                .to_owned(),
        ));
    }
    for child in &open {
        let dormant = matches!(child.stage, Stage::Upcoming | Stage::Backlog)
            && (child.depends_on.is_empty()
                || movers::unmet(conn, child)?.iter().any(movers::Unmet::is_dead));
        if !dormant {
            return Ok(None);
        }
    }
    Ok(Some(format!(
        "None of your child items goes on by itself, so nothing would wake you:\n{}\n\n`item_start` \
         starts one; what depends on something that was given up is filed anew, or a person is \
         asked with `ask_human`.",
        children_in_words(&open)
    )))
}

/// Child items as a lead reads them, a line each; empty when there are none.
pub fn children_in_words(children: &[Item]) -> String {
    let lines =
        children.iter().map(|child| format!("- #{} {}: {}", child.id, child.name, state(child)));
    lines.collect::<Vec<_>>().join("\n")
}

/// The item, if `lead` holds it and may hand out parts of it.
fn led_by(conn: &Connection, lead: &AgentName, id: ItemId) -> Result<Item, WorkError> {
    let item = find(conn, id)?;
    if item.stage.claim() != Some(lead) {
        return Err(WorkError::Refused(format!(
            "item {id} is not yours any more, so you hand out nothing for it: end your turn"
        )));
    }
    if let Some(parent) = item.parent {
        return Err(WorkError::Refused(format!(
            "item {id} is itself a child of item {parent} and is not split again: say in your \
             report what it would need"
        )));
    }
    Ok(item)
}

/// Whether an agent of a role may work on a child item.
fn check_worker(role: Option<Role>) -> Result<(), WorkError> {
    match role {
        None | Some(Role::Coder | Role::Scout | Role::Reviewer) => Ok(()),
        Some(role @ (Role::Lead | Role::Qa | Role::Mergemaster)) => {
            Err(WorkError::Refused(format!(
                "a child item is worked on by a coder, a scout or a reviewer, not by a {}: name \
                 another agent, or none",
                role.as_str()
            )))
        }
    }
}

fn strictest(one: QaMode, other: QaMode) -> QaMode {
    let rank = |qa| match qa {
        QaMode::Gates => 0,
        QaMode::Agent => 1,
        QaMode::Human => 2,
    };
    if rank(one) >= rank(other) { one } else { other }
}

fn list(items: &[Item]) -> String {
    items.iter().map(|item| format!("#{}", item.id)).collect::<Vec<_>>().join(", ")
}

/// Where a child stands, as a clause.
fn state(child: &Item) -> String {
    match &child.stage {
        Stage::Blocked { reason, .. } => format!("blocked: {}", super::text::first_line(reason)),
        Stage::Backlog if !child.depends_on.is_empty() => {
            let numbers: Vec<String> = child.depends_on.iter().map(|id| format!("#{id}")).collect();
            format!("in the backlog, starts by itself after {}", numbers.join(", "))
        }
        Stage::Backlog | Stage::Upcoming => "not started".to_owned(),
        Stage::Archived { reason: ArchiveReason::Finished, .. } => "finished".to_owned(),
        Stage::Coding { .. }
        | Stage::Qa { .. }
        | Stage::ReviewHold { .. }
        | Stage::Merge { .. }
        | Stage::MergeFailure { .. }
        | Stage::MergeFailureFinal { .. }
        | Stage::Done { .. }
        | Stage::Archived { .. }
        | Stage::Frozen { .. }
        | Stage::Abandoned { .. }
        | Stage::Superseded { .. }
        | Stage::Rejected { .. } => child.stage.name().replace('_', " "),
    }
}

/// Whether a session waits for its child items and so takes no place.
pub(super) fn rests(session: &AgentSession) -> bool {
    session.state == SessionState::Waiting
        && session.waiting.as_ref().is_some_and(|waiting| waiting.what == WaitingFor::Children)
}

// What a lead hears.

/// Tells leads what became of their child items, and whose agents died; says whether there may be
/// more to read.
pub(super) fn tell(tx: &Tx<'_>) -> Result<bool, WorkError> {
    let position = log::position(tx, SUBSCRIBER, Log::Transitions)?;
    let moves = log::transitions_after(tx, position, BATCH)?;
    for moved in &moves {
        let Some((kind, what)) = worth_telling(moved.from.as_ref(), &moved.to) else { continue };
        let Some(child) = child_of(tx, moved.item)? else { continue };
        write_letter(tx, &child, kind, &what)?;
    }
    if let Some(last) = moves.last() {
        log::advance(tx, SUBSCRIBER, Log::Transitions, last.seq)?;
    }
    let position = log::position(tx, SUBSCRIBER, Log::Events)?;
    let events = log::events_after(tx, position, BATCH)?;
    for row in &events {
        if let Event::WorkerDied { session, agent, item, reason, seen_by } = &row.event {
            let session = sessions::find_session(tx, *session)?;
            tell_death(tx, session.as_ref(), agent, *item, reason, seen_by)?;
        }
    }
    if let Some(last) = events.last() {
        log::advance(tx, SUBSCRIBER, Log::Events, last.seq)?;
    }
    Ok(moves.len() == BATCH || events.len() == BATCH)
}

/// A child item, or what is still known of one that was deleted.
struct Child {
    id: ItemId,
    parent: ItemId,
    /// `None`: deleted, and its name with it.
    item: Option<Item>,
}

/// The child item of this number, if it is or was one.
fn child_of(conn: &Connection, id: ItemId) -> Result<Option<Child>, WorkError> {
    let item = items::find(conn, id)?;
    let parent = match &item {
        Some(item) => item.parent,
        None => decisions::newest_of(conn, id, What::Deleted)?
            .and_then(|deleted| deleted.inputs.get("parent").and_then(Value::as_i64))
            .map(ItemId),
    };
    Ok(parent.map(|parent| Child { id, parent, item }))
}

/// What of a child's move its lead must know: the sort of mail, and what happened.
fn worth_telling(from: Option<&Stage>, to: &Stage) -> Option<(MailType, String)> {
    Some(match to {
        Stage::Done { .. } => (MailType::Merged, "is done and merged".to_owned()),
        Stage::Archived { reason: ArchiveReason::Finished, .. }
            if !matches!(from, Some(Stage::Done { .. })) =>
        {
            (MailType::Result, "is finished".to_owned())
        }
        Stage::Archived { reason: ArchiveReason::Finished, .. } => return None,
        Stage::Archived { reason: ArchiveReason::Abandoned { reason, .. }, .. } => {
            (MailType::Status, format!("was put away unfinished: {reason}"))
        }
        Stage::Blocked { reason, .. } => (MailType::Escalation, format!("is blocked: {reason}")),
        Stage::MergeFailureFinal { kind, .. } => {
            let what = super::text::failure_in_words(kind);
            (MailType::Escalation, format!("could not be merged, for good: {what}"))
        }
        Stage::Frozen { .. } => (MailType::Status, "was put on ice by a person".to_owned()),
        Stage::Abandoned { reason } => (MailType::Status, format!("was abandoned: {reason}")),
        Stage::Superseded { by } => (MailType::Status, format!("was superseded by #{by}")),
        Stage::Rejected { reason } => (MailType::Status, format!("was rejected: {reason}")),
        Stage::Upcoming
        | Stage::Backlog
        | Stage::Coding { .. }
        | Stage::Qa { .. }
        | Stage::ReviewHold { .. }
        | Stage::Merge { .. }
        | Stage::MergeFailure { .. } => return None,
    })
}

/// The parent of a child, and who leads it now.
fn lead_of(conn: &Connection, parent: ItemId) -> Result<Option<(Item, AgentName)>, WorkError> {
    let Some(parent) = items::find(conn, parent)? else { return Ok(None) };
    let lead = parent.stage.claim().cloned();
    Ok(lead.map(|lead| (parent, lead)))
}

fn write_letter(tx: &Tx<'_>, child: &Child, kind: MailType, what: &str) -> Result<(), WorkError> {
    let Some((parent, lead)) = lead_of(tx, child.parent)? else { return Ok(()) };
    let mut body = match &child.item {
        Some(item) => format!("#{} {} {what}.", child.id, item.name),
        None => format!("#{} {what}.", child.id),
    };
    if let Some(report) = sessions::reports_of_item(tx, child.id)?.pop() {
        let end = report.summary.floor_char_boundary(REPORT_BYTES);
        body.push_str(&format!("\n\n{} reported:\n{}", report.agent, &report.summary[..end]));
    }
    let open = open_children(tx, parent.id)?;
    body.push_str(&if open.is_empty() {
        "\n\nAll your child items have ended: check the whole against your item, then report."
            .to_owned()
    } else {
        format!("\n\nStill open:\n{}", children_in_words(&open))
    });
    let payload: Option<Value> = match (kind, child.item.as_ref().map(|item| &item.stage)) {
        (MailType::Merged, Some(Stage::Done { commit, .. })) => Some(json!({"commit": commit})),
        // Archived since, or told late: the commit is no secret, but it is not at hand.
        (MailType::Merged, _later) => Some(json!({"commit": "on the base branch"})),
        (MailType::Escalation, _stage) => Some(json!({"reason": what})),
        (_kind, _stage) => None,
    };
    let subject = format!("#{} {}", child.id, super::text::first_line(what));
    send(tx, lead.as_str(), &subject, &body, kind, payload.as_ref(), Some(child.id))
}

fn tell_death(
    tx: &Tx<'_>,
    session: Option<&AgentSession>,
    agent: &AgentName,
    id: ItemId,
    reason: &str,
    seen_by: &str,
) -> Result<(), WorkError> {
    let Some(item) = items::find(tx, id)? else { return Ok(()) };
    let to = match item.parent {
        Some(parent) => match lead_of(tx, parent)? {
            Some((_parent, lead)) => lead.0,
            None => return Ok(()),
        },
        None => COORDINATOR.to_owned(),
    };
    let mut payload = json!({"agent": agent, "reason": reason, "seen_by": seen_by});
    if let Some(session) = session {
        payload["role"] = json!(session.role.as_str());
        payload["last_activity"] = json!(session.last_activity);
    }
    let subject = format!("#{id}: {agent} ended without a report");
    let body = format!(
        "{agent}, at work on #{id} {}, ended without a report: {reason}. It is started once more \
         by itself, or the item is blocked; you hear of that.",
        item.name
    );
    send(tx, &to, &subject, &body, MailType::WorkerDied, Some(&payload), Some(id))
}

fn send(
    tx: &Tx<'_>,
    to: &str,
    subject: &str,
    body: &str,
    kind: MailType,
    payload: Option<&Value>,
    item: Option<ItemId>,
) -> Result<(), WorkError> {
    // A deleted item has no mail any more; what is said stands in the text.
    let item = match item {
        Some(id) if items::find(tx, id)?.is_some() => Some(id),
        Some(_) | None => None,
    };
    let subject = &subject[..subject.floor_char_boundary(200)];
    mail::insert(
        tx,
        &mail::NewRow {
            from: MUSHER,
            to,
            subject,
            body,
            kind,
            priority: Priority::Normal,
            payload,
            item,
            thread: None,
        },
    )?;
    Ok(())
}

// How items end that have no commit of their own.

/// What follows when a lead has reported.
pub(super) enum Reported {
    /// The item is finished.
    Finished,
    /// It must be told to go on with this.
    GoOn(String),
    /// A person must look.
    Stuck(String),
}

/// Whether an agent of this role ends its item without a commit.
pub(super) fn needs_no_commit(role: Role) -> bool {
    match role {
        Role::Lead | Role::Scout | Role::Reviewer => true,
        Role::Coder | Role::Qa | Role::Mergemaster => false,
    }
}

/// Ends an item whose lead, scout or reviewer has reported, or says what keeps it open.
///
/// It goes to Archived(finished) and not to Done: Done names the commit on the base branch that
/// holds the item's work, and there is none. Both satisfy a dependency.
pub(super) fn reported(
    tx: &Tx<'_>,
    item: &Item,
    session: &AgentSession,
    report: &Report,
) -> Result<Reported, WorkError> {
    let mut inputs = json!({"agent": session.agent, "role": session.role, "report": report.id});
    let agent = &session.agent;
    let why = if session.role == Role::Lead {
        let children = items::handed_out(tx, item.id)?;
        let open: Vec<Item> =
            children.iter().filter(|child| !child.stage.is_terminal()).cloned().collect();
        if !open.is_empty() {
            return Ok(Reported::GoOn(unfinished(&open)));
        }
        let done: Vec<Item> =
            children.iter().filter(|child| child.stage.meets_dependency()).cloned().collect();
        if done.is_empty() {
            let none = if children.is_empty() {
                "handed nothing out"
            } else {
                "has no child item that was finished"
            };
            return Ok(Reported::Stuck(format!(
                "{agent} reported, but {none}: {}",
                report.summary
            )));
        }
        inputs["children"] = json!(children.iter().map(|child| child.id).collect::<Vec<_>>());
        format!("its child items are done ({}). {agent}: {}", list(&done), report.summary)
    } else {
        format!("{agent} reported.\n\n{}", report.summary)
    };
    decisions::record(tx, Some(item.id), What::Finished, &why, &inputs)?;
    let at = crate::clock::from_millis(tx.now());
    apply_to(tx, item, &StageEvent::Finished { at }, &system(tx), &why)?;
    Ok(Reported::Finished)
}

/// What a lead is told that reported while child items are open.
pub fn unfinished(open: &[Item]) -> String {
    format!(
        "Your item is finished when its child items are, and these are open:\n{}\n\nWait for them \
         (`wait_for` with `children`) and end your turn; start again what is blocked, or ask a \
         person with `ask_human`.",
        children_in_words(open)
    )
}
