//! The command line as typed. Parsing has no side effects.

use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A Matrix bot that runs a team of coding agents on its owner's machines.
#[derive(Debug, Parser)]
#[command(name = "musher", version = crate::version::version(), propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// The configuration; default: $MUSHER_CONFIG, ./musher.toml, ~/.config/musher/musher.toml
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print results and errors as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server; SIGTERM and Ctrl-C end it in order
    Run,
    /// Chat on this terminal, without Matrix
    Console {
        /// The project in this directory, beside those configured
        #[arg(long, value_name = "DIR")]
        project: Option<PathBuf>,
    },
    /// Read and validate the configuration
    Check,
    /// Test the real things: homeserver, login, model, agents' programs, git, disk, database
    Doctor {
        /// Only what needs no network
        #[arg(long)]
        quick: bool,
    },
    /// Ask a few questions, try each answer at once, and write the configuration
    Init(Box<InitArgs>),
    /// Send and read mail
    #[command(subcommand)]
    Mail(MailCommand),
    /// Report an item done (for agents)
    ReportDone(ReportArgs),
    /// The board, or one item
    Status {
        /// The item
        item: Option<i64>,
    },
    /// List, show, create and start items
    #[command(subcommand)]
    Items(ItemsCommand),
    /// The agents and what they do
    Agents,
    /// What an agent did on an item
    Logs {
        /// The item
        item: i64,
        /// How many of the newest events
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: usize,
        /// Go on with what comes, until the item has ended or Ctrl-C
        #[arg(short, long)]
        follow: bool,
    },
    /// What agents did on an item, turn by turn
    Replay {
        /// The item
        item: i64,
    },
    /// Poke an agent: it reads it at its next step, unless that comes too late
    Nudge {
        /// The agent
        agent: String,
        /// What to say; without: that it look at its mail
        text: Vec<String>,
        /// Before others, and for two hours instead of 30 minutes
        #[arg(long)]
        urgent: bool,
    },
    /// What it cost, by item, agent, project, model and day
    Cost {
        /// Only this item, over its life
        item: Option<i64>,
        /// Over how many days, today with them
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
    /// Everything about items, mail and timers, as JSON
    Export,
    /// An agent's tools as an MCP server on stdin and stdout
    Mcp {
        /// The agent
        #[arg(long, env = "MUSHER_AGENT")]
        agent: String,
    },
    /// Completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The version
    Version,
}

/// `musher mail …`
#[derive(Debug, Subcommand)]
pub enum MailCommand {
    /// Send a message
    Send(SendArgs),
    /// Print the mail that waits, and take it as read
    Check {
        /// Whose
        #[arg(long, env = "MUSHER_AGENT")]
        agent: String,
    },
    /// Answer a message
    Reply(ReplyArgs),
    /// List messages, newest first
    List {
        /// Only to this address
        #[arg(long)]
        to: Option<String>,
        /// Only from this address
        #[arg(long)]
        from: Option<String>,
        /// Only about this item
        #[arg(long)]
        item: Option<i64>,
        /// Only what was not read yet
        #[arg(long)]
        unread: bool,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Print one message, and take it as read when it is yours
    Read {
        /// Its number
        id: i64,
        /// Who reads
        #[arg(long, env = "MUSHER_AGENT")]
        agent: Option<String>,
    },
    /// Remove old mail that was read; unread mail and protocol mail of open items stay
    Purge {
        /// Older than so many days
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        older_than: u32,
    },
}

/// `musher mail send`
#[derive(Debug, Args)]
pub struct SendArgs {
    /// An agent, `coordinator`, a person (@user:server), or @all, @coders, @qa, @mergers,
    /// @project:NAME
    #[arg(long)]
    pub to: String,
    /// Who sends; default: $MUSHER_AGENT, else the first administrator
    #[arg(long)]
    pub from: Option<String>,
    /// One line
    #[arg(long)]
    pub subject: String,
    /// Markdown; `-` reads it from stdin
    #[arg(long)]
    pub body: String,
    /// What sort: status, question, result, error, or a protocol type
    #[arg(long = "type", value_name = "TYPE", default_value = "status")]
    pub kind: String,
    /// low, normal, high or urgent
    #[arg(long, default_value = "normal")]
    pub priority: String,
    /// The item it is about
    #[arg(long)]
    pub item: Option<i64>,
    /// The payload of a protocol type
    #[arg(long, value_name = "JSON")]
    pub payload: Option<String>,
}

/// `musher mail reply`
#[derive(Debug, Args)]
pub struct ReplyArgs {
    /// The message that is answered
    pub id: i64,
    /// Markdown; `-` reads it from stdin
    #[arg(long)]
    pub body: String,
    /// Who answers; default: $MUSHER_AGENT, else the first administrator
    #[arg(long)]
    pub from: Option<String>,
    /// Default: who sent the message
    #[arg(long)]
    pub to: Option<String>,
    /// Default: that of the message
    #[arg(long)]
    pub subject: Option<String>,
    /// What sort; never inherited
    #[arg(long = "type", value_name = "TYPE", default_value = "status")]
    pub kind: String,
    /// low, normal, high or urgent
    #[arg(long, default_value = "normal")]
    pub priority: String,
    /// The payload of a protocol type
    #[arg(long, value_name = "JSON")]
    pub payload: Option<String>,
}

/// `musher report-done`
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Who reports
    #[arg(long, env = "MUSHER_AGENT")]
    pub agent: String,
    /// On which item
    #[arg(long, env = "MUSHER_ITEM")]
    pub item: i64,
    /// What was done, in words; `-` reads it from stdin
    #[arg(long)]
    pub summary: String,
    /// worker_done, result, qa_passed, qa_failed, merged or merge_failed, as fits the role
    #[arg(long = "type", value_name = "TYPE", default_value = "worker_done")]
    pub kind: String,
    /// The payload of the type
    #[arg(long, value_name = "JSON")]
    pub payload: Option<String>,
}

/// `musher items …`
#[derive(Debug, Subcommand)]
pub enum ItemsCommand {
    /// The items, of one project or of all
    List {
        /// The project
        #[arg(long)]
        project: Option<String>,
    },
    /// Everything about one item
    Show {
        /// The item
        item: i64,
    },
    /// File an item
    Create {
        /// One line
        name: String,
        /// The project; may be left out when there is only one
        #[arg(long, env = "MUSHER_PROJECT")]
        project: Option<String>,
        /// story, bug, refactor, spike or epic
        #[arg(long, default_value = "story")]
        kind: String,
        /// Markdown: description and acceptance criteria; `-` reads it from stdin
        #[arg(long, default_value = "")]
        body: String,
        /// An item that must be finished first; may be given again
        #[arg(long, value_name = "ITEM")]
        depends_on: Vec<i64>,
        /// The epic it is part of
        #[arg(long, value_name = "ITEM")]
        epic: Option<i64>,
        /// Who decides that the work is good: gates, agent or human; default: the project's
        #[arg(long, value_name = "MODE")]
        qa: Option<String>,
        /// The only agent that may work on it
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
    },
    /// Change an item's fields; what is not given stays
    Update(UpdateArgs),
    /// Move an item: what a person does in the room with `block`, `approve`, `move` and the like
    Move {
        /// The item
        item: i64,
        /// Where to, or what happens to it
        action: MoveAction,
        /// Why, in a sentence; needed for block, reject and abandon
        #[arg(long, default_value = "")]
        reason: String,
        /// The item that replaces it; needed for supersede
        #[arg(long, value_name = "ITEM")]
        by: Option<i64>,
        /// The `version` that you have seen: refused when the item was changed since
        #[arg(long, value_name = "VERSION")]
        expect: Option<i64>,
    },
    /// Start an item
    Start {
        /// The item
        item: i64,
        /// Who works on it; default: whoever is free
        #[arg(long)]
        agent: Option<String>,
    },
}

/// `musher items update`
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The item
    pub item: i64,
    /// A new name
    #[arg(long)]
    pub name: Option<String>,
    /// A new text, which replaces the old one; `-` reads it from stdin
    #[arg(long)]
    pub body: Option<String>,
    /// All items that must be finished first, which replace the old ones; `none` alone: no item
    #[arg(long, value_name = "ITEM")]
    pub depends_on: Vec<String>,
    /// The epic it is part of; `none` takes it out
    #[arg(long, value_name = "ITEM")]
    pub epic: Option<String>,
    /// The only agent that may work on it; `none` lets any
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Who decides that the work is good: gates, agent or human
    #[arg(long, value_name = "MODE")]
    pub qa: Option<String>,
    /// Order of starting and merging: higher first, 0 is usual
    #[arg(long, allow_negative_numbers = true)]
    pub priority: Option<i64>,
    /// The `version` that you have seen: refused when the item was changed since
    #[arg(long, value_name = "VERSION")]
    pub expect: Option<i64>,
}

/// What `musher items move` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[clap(rename_all = "snake_case")]
pub enum MoveAction {
    /// Stop it until a person clears what the reason says
    Block,
    /// Clear what blocks it
    Unblock,
    /// Put it on ice
    Freeze,
    /// Take it off the ice
    Unfreeze,
    /// Approve the work
    Approve,
    /// Turn the work down, with a reason
    Reject,
    /// Give it up, with a reason
    Abandon,
    /// End it, because another replaces it
    Supersede,
    /// To the backlog
    Backlog,
    /// To what comes later
    Upcoming,
    /// To a QA agent
    Qa,
    /// To a person's review
    ReviewHold,
    /// Into the merge queue
    Merge,
}

/// `musher init`: what is not given is asked.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The homeserver's base URL
    #[arg(long)]
    pub homeserver: Option<String>,
    /// The bot's account, @name:server
    #[arg(long)]
    pub user: Option<String>,
    /// Names the variable with the account's password; without it the password is asked
    #[arg(long, value_name = "VARIABLE")]
    pub password_env: Option<String>,
    /// Names the file with the account's password
    #[arg(long, value_name = "FILE", conflicts_with = "password_env")]
    pub password_file: Option<PathBuf>,
    /// Who may use it and administer it, @you:server; may be given again
    #[arg(long, value_name = "USER")]
    pub allow: Vec<String>,
    /// anthropic, openai, gemini or ollama
    #[arg(long)]
    pub provider: Option<String>,
    /// The provider's name for the model
    #[arg(long)]
    pub model: Option<String>,
    /// Another server that speaks the provider's API
    #[arg(long, value_name = "URL")]
    pub base_url: Option<String>,
    /// Names the variable with the API key
    #[arg(long, value_name = "VARIABLE")]
    pub api_key_env: Option<String>,
    /// Names the file with the API key
    #[arg(long, value_name = "FILE", conflicts_with = "api_key_env")]
    pub api_key_file: Option<PathBuf>,
    /// The first project: a git repository
    #[arg(long, value_name = "DIR")]
    pub project: Option<PathBuf>,
    /// A command that must succeed before a merge; may be given again
    #[arg(long, value_name = "COMMAND")]
    pub gate: Vec<String>,
    /// How the first agent is run: claude-code or api
    #[arg(long)]
    pub runtime: Option<String>,
    /// Ask nothing; overwrite what is there
    #[arg(long)]
    pub yes: bool,
    /// Do not try the answers
    #[arg(long)]
    pub no_checks: bool,
}
