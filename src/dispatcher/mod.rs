//! The dispatcher: takes what people said from the inbox to whoever answers it.
//!
//! Forces: a person must be heard at once, also while models think and builds run; what they say
//! in several messages belongs together; nothing may be lost or answered twice when the process
//! dies anywhere. So:
//!
//! - It is level-triggered on the inbox's rows. A hint or a tick wakes it; it reads what is new,
//!   in the order of arrival, and awaits nothing but the store.
//! - Commands that touch only the store run at once, in order. The others run beside it. Turns run
//!   beside it too, in bounded number; neither ever holds it up (the *control lane*).
//! - Windows, queues and slots are the pure machine in [`sessions`]; this file feeds it and does
//!   what it says.
//! - `new` → `batched` when a message stands in a window or queue. Its end is written by whoever
//!   answers it, in the transaction of the answer. After a restart, what is batched and not taken
//!   by a turn is new again, in its old order; turns that were cut off go on first.
//!
//! Known races. *Stop against the end of the turn*: the answer may be committed just before the
//! cancellation reaches the turn; then `stop` says that it stopped an answer that is there. *Edit
//! against the start of a turn*: once a batch is given to a turn, an edit comes too late, even if
//! the turn has not yet called the model. *Steering against the end of the turn*: what the turn
//! did not take is found by its row and asked next.

mod condense;
mod live;
mod ports;
mod route;
mod run;
pub mod sessions;

pub use live::{CoordinatorTurns, ServiceCommands};
pub use ports::{Abandoned, CommandRunner, TurnRequest, TurnRunner};
pub use route::{Route, route};

use crate::chat::{Transport, Typing};
use crate::commands::Registry;
use crate::config::{CONSOLE_PERSON, Config};
use crate::model::chat::QueueMode;
use crate::model::ids::PersonId;
use crate::store::Store;
use sessions::Limits;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What of the configuration concerns the dispatcher.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What begins a command.
    pub prefix: String,
    /// Windows and slots.
    pub limits: Limits,
    /// What happens to messages during a turn, unless the room says otherwise.
    pub queue_mode: QueueMode,
    /// How many messages wait behind a turn before the oldest are condensed.
    pub queue_cap: usize,
    /// Who may run administrative commands.
    pub admins: Vec<PersonId>,
}

impl Settings {
    /// Takes them from the configuration.
    pub fn from_config(config: &Config) -> Self {
        let mut admins = vec![PersonId::from(CONSOLE_PERSON)];
        if let Some(matrix) = &config.matrix {
            admins.extend(matrix.admin_users.iter().cloned());
        }
        Self {
            prefix: config.chat.prefix.clone(),
            limits: Limits {
                coalesce: Duration::from_millis(config.chat.coalesce_ms),
                coalesce_max: Duration::from_millis(config.chat.coalesce_max_ms),
                max_parallel: config.limits.max_parallel_turns,
            },
            queue_mode: config.chat.queue_mode,
            queue_cap: config.chat.queue_cap,
            admins,
        }
    }
}

/// How the dispatcher is told to end.
#[derive(Clone, Default)]
pub struct Ends {
    /// No new turn starts; everything else goes on.
    pub quiet: CancellationToken,
    /// Set by the dispatcher: it is quiet, and no turn runs any more.
    pub idle: CancellationToken,
    /// Nothing more is taken; running turns may finish.
    pub cancel: CancellationToken,
    /// Running turns are dropped; they go on after the next start.
    pub hurry: CancellationToken,
}

/// The dispatcher and all that it needs.
pub struct Dispatcher {
    /// The inbox is its input.
    pub store: Store,
    /// Its limits.
    pub settings: Settings,
    /// The commands.
    pub registry: Arc<Registry>,
    /// Runs turns.
    pub turns: Arc<dyn TurnRunner>,
    /// Carries out commands.
    pub commands: Arc<dyn CommandRunner>,
    /// For typing notices and receipts only; answers go through the outbox.
    pub transport: Arc<dyn Transport>,
    /// Who types.
    pub typing: Typing,
}

#[cfg(test)]
mod tests;
