//! The commands about a room's settings, the projects, and the time.

use super::CommandError;
use super::context::{Context, refused, sentence};
use crate::clock::from_millis;
use crate::model::chat::QueueMode;
use crate::model::ids::{ProjectName, TimerId};
use crate::store::{Tx, rooms};
use crate::timers::{
    self, NewTimer, TimerError, TimerKind, When, Whom, find_person, parse_remind, zone_of,
};
use rusqlite::Connection;
use std::fmt::Write;

/// `projects`
pub fn projects(context: &Context, conn: &Connection) -> Result<String, CommandError> {
    let projects = context.services.projects.list();
    if projects.is_empty() {
        // Says what to do.
        return context.project(conn).map(|_| String::new());
    }
    let here = context.find_project(conn)?.map(|project| project.name);
    let mut out = String::new();
    for project in projects {
        let items = crate::work::board(conn, Some(&project.name))?;
        let open = items.iter().filter(|item| !item.stage.is_terminal()).count();
        let _ = write!(
            out,
            "- **{}**: `{}`, base `{}`, {open} open",
            project.name,
            project.path.display(),
            project.base
        );
        if let Some(room) = &project.room {
            let _ = write!(out, ", room {room}");
        }
        if project.paused {
            out.push_str(", paused");
        }
        if here.as_ref() == Some(&project.name) {
            out.push_str(" (this room's)");
        }
        out.push('\n');
    }
    Ok(out.trim_end().to_owned())
}

/// `switch NAME`
pub fn switch(context: &Context, tx: &Tx<'_>, name: &ProjectName) -> Result<String, CommandError> {
    let project = context.named_project(name)?;
    rooms::set_project(tx, &context.caller.session.room, Some(&project.name))?;
    Ok(format!("This room is about **{}** now.", project.name))
}

/// `ambient on|off`
pub fn ambient(context: &Context, tx: &Tx<'_>, on: bool) -> Result<String, CommandError> {
    rooms::set_ambient(tx, &context.caller.session.room, on)?;
    Ok(if on {
        "I take every message in this room as meant for me now.".to_owned()
    } else {
        "I answer only what is addressed to me now.".to_owned()
    })
}

/// The name of a mode, as typed.
pub fn mode_name(mode: QueueMode) -> &'static str {
    match mode {
        QueueMode::Collect => "collect",
        QueueMode::Steer => "steer",
        QueueMode::Interrupt => "interrupt",
    }
}

/// `queue collect|steer|interrupt`
pub fn queue(context: &Context, tx: &Tx<'_>, mode: QueueMode) -> Result<String, CommandError> {
    rooms::set_queue_mode(tx, &context.caller.session.room, Some(mode))?;
    Ok(match mode {
        QueueMode::Collect => "Messages during an answer wait and are answered together, next.",
        QueueMode::Steer => "Messages during an answer are given to it at its next step.",
        QueueMode::Interrupt => "A message during an answer ends it and is answered itself.",
    }
    .to_owned())
}

impl From<TimerError> for CommandError {
    fn from(error: TimerError) -> Self {
        match error {
            TimerError::Store(error) => error.into(),
            TimerError::When(_) | TimerError::NotFound(_) | TimerError::Invalid(_) => {
                CommandError::Refused(sentence(&error.to_string()))
            }
        }
    }
}

/// `remind …`
pub fn remind(context: &Context, tx: &Tx<'_>, text: &str) -> Result<String, CommandError> {
    let (config, caller) = (&context.services.config, &context.caller);
    let zone = zone_of(tx, config, Some(&caller.person))?;
    let remind = match parse_remind(text, from_millis(tx.now()), zone) {
        Ok(remind) => remind,
        Err(error) => {
            return refused(format!(
                "{} For example `remind me in 2h to look at the build`.",
                sentence(&error.to_string())
            ));
        }
    };
    let (person, whom) = match &remind.whom {
        Whom::Me => (Some(caller.person.clone()), "you".to_owned()),
        Whom::Room => (None, "the room".to_owned()),
        Whom::Person(name) => match find_person(config, name) {
            Some(person) => (Some(person.clone()), person.0),
            None => {
                return refused(format!(
                    "I do not know who {name} is. Write the whole id, such as `@sam:example.org`."
                ));
            }
        },
    };
    let cron = match &remind.when {
        When::Once(_) => None,
        When::Every { cron, .. } => Some(cron.clone()),
    };
    let timer = NewTimer {
        kind: TimerKind::Reminder,
        session: Some(caller.session.clone()),
        person,
        created_by: caller.person.0.clone(),
        item: None,
        text: remind.text.clone(),
        due_at: remind.when.first(),
        cron,
        zone: zone.name().to_owned(),
    };
    let (id, when) = timers::set(tx, &timer)?;
    Ok(format!("I remind {whom} on {when}: {} (timer {id}).", remind.text))
}

/// `timers`
pub fn list_timers(conn: &Connection) -> Result<String, CommandError> {
    let lines: Vec<String> = timers::list(conn)?.iter().map(timers::line).collect();
    Ok(if lines.is_empty() {
        "Nothing is set. `remind me in 2h to …` sets a reminder.".to_owned()
    } else {
        lines.iter().map(|line| format!("- {line}")).collect::<Vec<_>>().join("\n")
    })
}

/// `timer cancel ID`
pub fn cancel_timer(tx: &Tx<'_>, id: TimerId) -> Result<String, CommandError> {
    let timer = timers::cancel(tx, id)?;
    Ok(format!("Took back: {}", timers::line(&timer)))
}
