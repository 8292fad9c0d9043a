//! Carrying out a command: in one transaction, or beside the control lane.

use super::command::{Lane, MoveTarget};
use super::context::Context;
use super::{Command, CommandError, act, answers, outside, room, see};
use crate::mail::{self, MailError, Reply};
use crate::model::chat::Outgoing;
use crate::model::ids::{ItemId, MessageKey};
use crate::model::stage::{MoveTo, StageEvent};
use crate::store::mail as mail_rows;
use crate::store::{Tx, inbox, outbox};
use std::future::Future;
use std::pin::Pin;

/// What is left to do after a command was answered; safe to lose, because a loop repeats it.
pub type FollowUp = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Carries out a command and answers it.
///
/// Whatever it comes to, the message is done after it. An error means that nothing could be
/// written at all: the message stays open, and the command is tried again after the next start.
pub async fn execute(context: Context, command: Command) -> anyhow::Result<Option<FollowUp>> {
    if command.is_administrative() && !context.caller.admin {
        let text = "Only an administrator may do that: `admin_users` in `musher.toml` names them. \
                    Who adds somebody there has to restart me.";
        answer(&context, text.to_owned()).await?;
        return Ok(None);
    }
    let (lane, item) = (command.lane(), command.ends_agents_of());
    let outcome = match lane {
        Lane::Store => in_store(&context, command).await,
        Lane::Outside | Lane::Session => outside::run(&context, command).await,
    };
    match outcome {
        Ok(()) => {
            let follow_up = item.map(|item| -> FollowUp {
                Box::pin(async move { outside::end_agents(&context, item).await })
            });
            return Ok(follow_up);
        }
        Err(CommandError::Refused(text)) => answer(&context, text).await?,
        Err(CommandError::Internal(error)) => {
            let incident = incident();
            let person = &context.caller.person;
            tracing::error!(incident, %person, error = format!("{error:#}"), "a command failed");
            let text = format!(
                "Something went wrong on my side; nothing was changed. The log has it as \
                 incident `{incident}`."
            );
            answer(&context, text).await?;
        }
    }
    Ok(None)
}

/// A short name under which the log has an error.
fn incident() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..8].to_owned()
}

/// Answers the command and makes its message done.
pub async fn answer(context: &Context, text: String) -> anyhow::Result<()> {
    let caller = context.caller.clone();
    let write = context.services.store.write(move |tx| {
        if inbox::is_open(tx, &caller.key)? {
            post(tx, &caller, text)?;
        }
        Ok::<_, crate::store::StoreError>(())
    });
    Ok(write.await?)
}

/// Writes the answer and the message's end.
pub fn post(
    tx: &Tx<'_>,
    caller: &super::Caller,
    text: String,
) -> Result<(), crate::store::StoreError> {
    let outgoing = Outgoing::text(caller.session.clone(), text);
    outbox::enqueue(tx, &outgoing, Some(&format!("answer:{}", caller.key)))?;
    inbox::mark_done(tx, std::slice::from_ref(&caller.key))?;
    Ok(())
}

/// The commands that touch only the database: effect, answer and end in one transaction.
async fn in_store(context: &Context, command: Command) -> Result<(), CommandError> {
    let mut not_ready = None;
    if let Some(item) = starts(&command)
        && let Err(error) = crate::work::ready(&context.services.store, item).await
    {
        match CommandError::from(error) {
            CommandError::Refused(text) => not_ready = Some(text),
            error @ CommandError::Internal(_) => return Err(error),
        }
    }
    let context = context.clone();
    let store = context.services.store.clone();
    let write = store.write(move |tx| {
        // Done already when this is a repeat after a crash.
        if inbox::is_open(tx, &context.caller.key)? {
            let text = effect(&context, tx, &command)?;
            // What is wrong with the command itself is said first; nothing of this is kept.
            if let Some(text) = not_ready {
                return Err(CommandError::Refused(text));
            }
            post(tx, &context.caller, text)?;
        }
        Ok(())
    });
    write.await
}

/// The item that a command starts, if it starts one.
fn starts(command: &Command) -> Option<ItemId> {
    if let Command::Start { item, .. }
    | Command::Move { item, to: MoveTarget::Stage(MoveTo::Coding) } = command
    {
        return Some(*item);
    }
    None
}

/// Does what a command says, and returns the answer.
fn effect(context: &Context, tx: &Tx<'_>, command: &Command) -> Result<String, CommandError> {
    let prefix = &context.services.config.chat.prefix;
    match command {
        Command::Help { topic: None } => Ok(context.registry.help(prefix)),
        Command::Help { topic: Some(topic) } => Ok(context.registry.help_on(topic, prefix)),
        Command::Show(item) => see::show(context, tx, *item),
        Command::Why(item) => see::why(context, tx, *item),
        Command::Logs { item, lines } => see::logs(context, tx, *item, *lines),
        Command::Mail { agent } => see::mail(context, tx, agent.as_ref()),
        Command::Cost(of) => see::cost(context, tx, *of, tx.now()),
        Command::Version => Ok(see::version()),
        Command::Whoami => see::whoami(context, tx),
        Command::NewItem { kind, name, body } => act::new_item(context, tx, *kind, name, body),
        Command::Start { item, agent } => act::start(context, tx, *item, agent.as_ref()),
        Command::ResumeAll => act::resume_all(tx),
        Command::Move { item, to } => act::move_item(context, tx, *item, *to),
        Command::Depends { .. }
        | Command::Assign { .. }
        | Command::Priority { .. }
        | Command::Qa { .. } => act::update(context, tx, command),
        Command::Freeze(item) => act::apply(context, tx, *item, &StageEvent::Frozen, "frozen"),
        Command::Unfreeze(item) => {
            act::apply(context, tx, *item, &StageEvent::Unfrozen, "unfrozen")
        }
        Command::Block { item, why } => {
            let event = StageEvent::Blocked { reason: why.clone() };
            act::apply(context, tx, *item, &event, "blocked")
        }
        Command::Unblock(item) => {
            act::apply(context, tx, *item, &StageEvent::Unblocked, "unblocked")
        }
        Command::Approve { item, commit } => act::approve(context, tx, *item, commit.as_deref()),
        Command::Reject { item, why } => {
            let event = StageEvent::Rejected { reason: why.clone() };
            act::apply(context, tx, *item, &event, "rejected")
        }
        Command::Permit { request, permit } => answers::permit(context, tx, *request, permit),
        Command::Answer { request, text } => answers::answer(context, tx, *request, text),
        Command::Abandon { item, why } => {
            let event = StageEvent::Abandoned { reason: why.clone() };
            act::apply(context, tx, *item, &event, "abandoned")
        }
        Command::Supersede { item, by } => {
            let event = StageEvent::Superseded { by: *by };
            act::apply(context, tx, *item, &event, "superseded")
        }
        Command::EpicOf { items, epic } => act::epic_of(context, tx, items, *epic),
        Command::Tell { agent, text } => act::tell(context, tx, agent, text),
        Command::Nudge { agent, urgent, text } => act::nudge(context, tx, agent, text, *urgent),
        Command::Projects => room::projects(context, tx),
        Command::Switch(name) => room::switch(context, tx, name),
        Command::Remind { text } => room::remind(context, tx, text),
        Command::Timers => room::list_timers(tx),
        Command::TimerCancel(id) => room::cancel_timer(tx, *id),
        Command::Ambient(on) => room::ambient(context, tx, *on),
        Command::Queue(mode) => room::queue(context, tx, *mode),
        Command::Status(_)
        | Command::Agents
        | Command::Replay { .. }
        | Command::Diff(_)
        | Command::Doctor
        | Command::Git
        | Command::Unreleased
        | Command::RunTests { .. }
        | Command::Worktrees
        | Command::WorktreesClean { .. }
        | Command::Stop(_)
        | Command::Delete { .. }
        | Command::NewProject(_)
        | Command::Project { .. }
        | Command::Rebuild { .. }
        | Command::Reset
        | Command::Retry => Err(anyhow::anyhow!("{command:?} is not in the store's lane").into()),
    }
}

/// Takes a reply to a message that carried mail as the answer to the mail, and says whether it was
/// one: the answer, its acknowledgement and "done" are one transaction.
pub async fn answer_mail(context: Context, to: MessageKey, text: String) -> anyhow::Result<bool> {
    let store = context.services.store.clone();
    let write = store.write(move |tx| {
        let Some(to_mail) = mail_rows::of_message(tx, &to)? else { return Ok(false) };
        let caller = &context.caller;
        if !inbox::is_open(tx, &caller.key)? {
            return Ok(true);
        }
        let reply = Reply {
            to_mail,
            from: caller.person.0.clone(),
            body: text,
            to: None,
            subject: None,
            kind: None,
            priority: None,
            payload: None,
        };
        let said = match tx.nested(|tx| mail::reply(tx, &context.services.directory, reply)) {
            Ok(sent) => {
                let first = sent.first().copied();
                let mail = first.map(|id| mail_rows::find(tx, id)).transpose()?.flatten();
                let whom = mail.map_or_else(|| "its sender".to_owned(), |mail| mail.to);
                format!("Passed on to {whom} as mail.")
            }
            Err(MailError::Store(error)) => return Err(error.into()),
            Err(refusal) => format!("That was not passed on: {refusal}"),
        };
        post(tx, caller, said)?;
        Ok::<_, anyhow::Error>(true)
    });
    write.await
}
