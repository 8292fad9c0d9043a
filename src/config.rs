//! The configuration file: its types, defaults and checks.
//!
//! Unknown keys are errors. Secrets never stand in the file: `*_env` names a variable, `*_file` a
//! file that others cannot read. `config/musher.example.toml` is tested against these types.

mod day;
mod diagnose;
mod error;
mod load;
mod secret;
mod source;
mod validate;

pub use day::Day;
pub use diagnose::{EXAMPLE, full_example};
pub use error::{ConfigError, ConfigErrors};
pub use load::{find, load, user_dir};
pub use secret::{SecretError, check_secrets, error_at, secret};
pub use validate::warnings;

use crate::model::agent::Role;
use crate::model::chat::QueueMode;
use crate::model::ids::{AgentName, PersonId, ProjectName};
use crate::model::item::QaMode;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything in `musher.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file that it was read from; empty when it came from elsewhere (tests).
    #[serde(skip)]
    pub file: PathBuf,
    /// Where the database, the crypto store, worktrees and logs are; relative to the file.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// Where `new project` creates projects; default `<data_dir>/projects`.
    #[serde(default)]
    pub projects_dir: Option<PathBuf>,
    /// The time zone of reminders and of the day that limits are counted by, an IANA name such as `Europe/Berlin`.
    #[serde(default = "default_zone")]
    pub time_zone: String,
    /// The Matrix account; not needed by `musher console`.
    #[serde(default)]
    pub matrix: Option<MatrixConfig>,
    /// The coordinator's model.
    pub llm: LlmConfig,
    /// How the chat behaves.
    #[serde(default)]
    pub chat: ChatConfig,
    /// Limits over all projects.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// The watchdog over agents.
    #[serde(default)]
    pub watchdog: WatchdogConfig,
    /// Mail among agents, coordinator and people.
    #[serde(default)]
    pub mail: MailConfig,
    /// The merge queue.
    #[serde(default)]
    pub merge: MergeConfig,
    /// Confinement of agents' commands.
    #[serde(default)]
    pub containers: ContainersConfig,
    /// The HTTP listener.
    #[serde(default)]
    pub http: HttpConfig,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
    /// The projects; more come from `new project`.
    #[serde(default)]
    pub projects: Vec<ProjectConfig>,
    /// The agents.
    #[serde(default)]
    pub agents: Vec<AgentConfig>,
}

/// The person at the console: allowed, and an administrator, as whoever can start the program is.
pub const CONSOLE_PERSON: &str = "@console:local";

impl Config {
    /// Whether a person may run administrative commands.
    pub fn is_admin(&self, person: &PersonId) -> bool {
        person.as_str() == CONSOLE_PERSON
            || self.matrix.as_ref().is_some_and(|matrix| matrix.admin_users.contains(person))
    }
}

/// `[matrix]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixConfig {
    /// The homeserver's base URL.
    pub homeserver: String,
    /// The bot's account.
    pub user_id: String,
    /// Names the variable that holds the password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// Names the file that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Names the variable with the passphrase of the crypto store.
    #[serde(default)]
    pub store_passphrase_env: Option<String>,
    /// Names the file with the passphrase of the crypto store.
    #[serde(default)]
    pub store_passphrase_file: Option<PathBuf>,
    /// The device's display name.
    #[serde(default = "default_device_name")]
    pub device_name: String,
    /// Who is heard: exact ids or `*:server`. Empty means nobody.
    pub allowed_users: Vec<String>,
    /// Where it listens: ids, aliases, or `*` for any room an allowed user invites it to. Empty
    /// means nowhere.
    pub allowed_rooms: Vec<String>,
    /// Who may run administrative commands; each must be allowed too.
    #[serde(default)]
    pub admin_users: Vec<PersonId>,
    /// Whether messages from unverified devices are refused.
    #[serde(default)]
    pub require_verified_devices: bool,
}

/// The API that the coordinator speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// Anthropic's Messages API.
    Anthropic,
    /// OpenAI's Chat Completions API, or any server that is compatible with it.
    Openai,
    /// Google's Gemini API.
    Gemini,
    /// A local Ollama.
    Ollama,
    /// The Claude Code CLI, for those who have a subscription instead of a key.
    ClaudeCode,
    /// Plays a recorded conversation from `replay_file`; no model is called.
    Replay,
}

/// `[llm]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmConfig {
    /// Which API.
    pub provider: Provider,
    /// Which model, by the provider's name for it.
    #[serde(default)]
    pub model: String,
    /// Names the variable that holds the key.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// Names the file that holds the key.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,
    /// Another server that speaks the same API.
    #[serde(default)]
    pub base_url: Option<String>,
    /// `replay`: the recording.
    #[serde(default)]
    pub replay_file: Option<PathBuf>,
    /// Most steps (model calls) in one turn.
    #[serde(default = "default_max_steps")]
    pub max_steps: u32,
    /// Most output tokens in one model call.
    #[serde(default = "default_max_output_tokens")]
    pub max_output_tokens: u32,
    /// Most tokens, in and out, in one turn.
    #[serde(default = "default_max_turn_tokens")]
    pub max_turn_tokens: u64,
    /// Most money in one turn, in US dollars.
    #[serde(default = "default_max_turn_usd")]
    pub max_turn_usd: f64,
    /// Longest turn, in seconds.
    #[serde(default = "default_max_turn_seconds")]
    pub max_turn_seconds: u64,
    /// Price of a million input tokens, in US dollars; known models need none.
    #[serde(default)]
    pub usd_per_million_input: Option<f64>,
    /// Price of a million output tokens, in US dollars; known models need none.
    #[serde(default)]
    pub usd_per_million_output: Option<f64>,
}

/// `[chat]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChatConfig {
    /// How long a window stays open after a message, in milliseconds.
    pub coalesce_ms: u64,
    /// How long a window stays open at most, in milliseconds.
    pub coalesce_max_ms: u64,
    /// What happens to messages during a turn.
    pub queue_mode: QueueMode,
    /// How many messages wait at most before the oldest are condensed.
    pub queue_cap: usize,
    /// The shortest time between two edits of a growing answer, in milliseconds.
    pub stream_edit_ms: u64,
    /// What begins a command.
    pub prefix: String,
    /// How long a permission request waits for a person, in seconds.
    pub permission_timeout_s: u64,
    /// How long a finished item waits for a person's verdict before they are reminded, in seconds;
    /// afterwards they are reminded once a day. 0: never.
    pub review_reminder_s: u64,
    /// How many messages not meant for the bot are given to the model as context.
    pub context_messages: usize,
}

impl Default for ChatConfig {
    fn default() -> Self {
        Self {
            coalesce_ms: 1500,
            coalesce_max_ms: 8000,
            queue_mode: QueueMode::Collect,
            queue_cap: 50,
            stream_edit_ms: 3000,
            prefix: "!".to_owned(),
            permission_timeout_s: 900,
            review_reminder_s: 4 * 3600,
            context_messages: 10,
        }
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Agents that run at the same time, over all projects.
    pub max_agents: usize,
    /// Coordinator turns that run at the same time.
    pub max_parallel_turns: usize,
    /// Agent starts a minute, over all projects; more pause all agents.
    pub max_starts_per_minute: u32,
    /// Money a day, in US dollars; none: unlimited. The day is that of `time_zone`.
    pub usd_per_day: Option<f64>,
    /// Tokens a day; none: unlimited.
    pub tokens_per_day: Option<u64>,
    /// Money on one item, by all who work on it, in US dollars; none: unlimited.
    pub usd_per_item: Option<f64>,
    /// Tokens on one item, by all who work on it; none: unlimited.
    pub tokens_per_item: Option<u64>,
    /// The share of a limit at which a warning is posted.
    pub warn_at: f64,
    /// How often failing gates send an item back to its coder.
    pub max_retries: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_agents: 4,
            max_parallel_turns: 4,
            max_starts_per_minute: 30,
            usd_per_day: None,
            tokens_per_day: None,
            usd_per_item: None,
            tokens_per_item: None,
            warn_at: 0.8,
            max_retries: 3,
        }
    }
}

/// `[watchdog]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchdogConfig {
    /// Seconds between two looks.
    pub tick_s: u64,
    /// Seconds without any event after which a turn is ended.
    pub stall_timeout_s: u64,
    /// Seconds without any event after which the room is told; 0: never.
    pub warn_after_s: u64,
    /// Seconds without any event after which the agent is asked whether it is there; 0: never.
    pub nudge_after_s: u64,
    /// A cheap model of `[llm]`'s provider that is asked before a silent turn is ended; none:
    /// nobody is asked.
    pub triage_model: Option<String>,
    /// So many deaths of agents within `storm_window_s` pause all agents.
    pub storm_deaths: u32,
    /// Seconds within which deaths are counted.
    pub storm_window_s: u64,
    /// How often a dead session is resumed from its checkpoint.
    pub max_recoveries: u32,
}

impl Default for WatchdogConfig {
    fn default() -> Self {
        Self {
            tick_s: 30,
            stall_timeout_s: 600,
            warn_after_s: 240,
            nudge_after_s: 420,
            triage_model: None,
            storm_deaths: 5,
            storm_window_s: 30,
            max_recoveries: 1,
        }
    }
}

/// `[mail]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailConfig {
    /// Days after which mail that was read is removed; 0: never. Unread mail, and protocol mail of
    /// items that are open, stays.
    pub retention_days: u32,
    /// Most bytes of mail that one turn is given; the rest is announced by count.
    pub inject_bytes: usize,
}

impl Default for MailConfig {
    fn default() -> Self {
        Self { retention_days: 90, inject_bytes: 32 * 1024 }
    }
}

/// `[merge]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MergeConfig {
    /// How long one gate may run, in seconds.
    pub gate_timeout_s: u64,
    /// The author of merge commits, as `Name <address>`.
    pub author: String,
    /// How long a done item stays on the board, in seconds.
    pub done_retention_s: u64,
    /// How many queued items are tested together at most.
    pub merge_batch: usize,
    /// How long the oldest queued item may wait before the room is told, in seconds.
    pub merge_age_warn_s: u64,
    /// The time between two looks at whether open pull requests were merged, in seconds.
    pub pr_poll_s: u64,
}

impl Default for MergeConfig {
    fn default() -> Self {
        Self {
            gate_timeout_s: 1800,
            author: "Musher <musher@localhost>".to_owned(),
            done_retention_s: 4 * 3600,
            merge_batch: 5,
            merge_age_warn_s: 3600,
            pr_poll_s: 60,
        }
    }
}

/// What keeps an agent's commands inside its worktree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confinement {
    /// The bubblewrap sandbox, where it is installed.
    Bubblewrap,
    /// Nothing; `doctor` says so.
    #[default]
    None,
}

/// `[containers]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainersConfig {
    /// What keeps an agent's commands inside its worktree.
    pub confinement: Confinement,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address of the listener; none: off.
    pub listen: Option<String>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A filter in the form of `tracing`'s `EnvFilter`.
    pub filter: String,
    /// Whether lines are JSON.
    pub json: bool,
    /// Days for which what agents did is kept, compressed, after their item has ended; 0: for ever.
    pub transcript_days: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            filter: "warn,musher=info,matrix_sdk::http_client=off,matrix_sdk_crypto::machine=error"
                .to_owned(),
            json: false,
            transcript_days: 180,
        }
    }
}

/// How finished work gets onto a project's base branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LandingMode {
    /// Musher merges it, and pushes the base where that is configured.
    #[default]
    Merge,
    /// Its branch is pushed and a pull request opened; people merge that.
    Pr,
}

/// `[[projects]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectConfig {
    /// Its name, `[a-z][a-z0-9-]{0,38}`.
    pub name: ProjectName,
    /// The git repository.
    pub path: PathBuf,
    /// The branch that work is merged into.
    #[serde(default = "default_base")]
    pub base: String,
    /// Shell commands that must succeed, in order.
    #[serde(default)]
    pub gates: Vec<String>,
    /// Shell commands run once in a new worktree.
    #[serde(default)]
    pub setup: Vec<String>,
    /// The room bound to it: an id or alias.
    #[serde(default)]
    pub room: Option<String>,
    /// Who decides that work is good, unless an item says otherwise.
    #[serde(default)]
    pub qa: QaMode,
    /// Whether the base branch is pushed after a merge.
    #[serde(default)]
    pub push: bool,
    /// Who merges: Musher, or people by pull requests.
    #[serde(default)]
    pub mode: LandingMode,
    /// The shell command that opens a pull request and prints its URL.
    #[serde(default)]
    pub pr_command: Option<String>,
    /// Agents that run at the same time in this project; none: the overall limit.
    #[serde(default)]
    pub max_agents: Option<usize>,
    /// Money a day in this project, in US dollars; none: unlimited.
    #[serde(default)]
    pub usd_per_day: Option<f64>,
    /// Tokens a day in this project; none: unlimited.
    #[serde(default)]
    pub tokens_per_day: Option<u64>,
}

impl ProjectConfig {
    /// A project in a directory, named after it, with the defaults.
    pub fn of_directory(path: PathBuf) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
        let name: String = name
            .unwrap_or_default()
            .chars()
            .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
            .skip_while(|letter| !letter.is_ascii_alphabetic())
            .take(39)
            .collect();
        Self {
            name: ProjectName(if name.is_empty() { "project".to_owned() } else { name }),
            path,
            base: default_base(),
            gates: vec![],
            setup: vec![],
            room: None,
            qa: QaMode::default(),
            push: false,
            mode: LandingMode::default(),
            pr_command: None,
            max_agents: None,
            usd_per_day: None,
            tokens_per_day: None,
        }
    }
}

/// How an agent is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeKind {
    /// The Claude Code CLI.
    ClaudeCode,
    /// The Codex CLI.
    Codex,
    /// Any agent that speaks the Agent Client Protocol.
    Acp,
    /// Built in: our own loop over a model API.
    Api,
    /// Plays recorded turns from a file.
    Replay,
}

impl RuntimeKind {
    /// Every kind.
    pub const ALL: [RuntimeKind; 5] = [
        RuntimeKind::ClaudeCode,
        RuntimeKind::Codex,
        RuntimeKind::Acp,
        RuntimeKind::Api,
        RuntimeKind::Replay,
    ];

    /// The name as configured and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            RuntimeKind::ClaudeCode => "claude-code",
            RuntimeKind::Codex => "codex",
            RuntimeKind::Acp => "acp",
            RuntimeKind::Api => "api",
            RuntimeKind::Replay => "replay",
        }
    }
}

/// What happens when a runtime asks for a permission that no rule covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PermissionMode {
    /// A person is asked in the room.
    #[default]
    Ask,
    /// Allowed inside its worktree; deny rules still hold.
    Auto,
}

/// `[[agents]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Its name.
    pub name: AgentName,
    /// What it is for.
    pub role: Role,
    /// How it is run.
    pub runtime: RuntimeKind,
    /// The program; default: the runtime's usual one, found on the PATH. For `acp` with arguments.
    #[serde(default)]
    pub command: Option<String>,
    /// The model; default: the runtime's own, for `api` the coordinator's.
    #[serde(default)]
    pub model: Option<String>,
    /// Variables of the server's environment that it may see.
    #[serde(default)]
    pub env: Vec<String>,
    /// Whether a model's key in `env` is kept from it: its CLI calls the model through Musher, which
    /// has the key and counts what is used.
    #[serde(default = "yes")]
    pub gateway: bool,
    /// What happens when no rule covers a permission.
    #[serde(default)]
    pub permissions: PermissionMode,
    /// Tools that are allowed, such as `Bash(cargo *)`.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Tools that are denied; wins over `allow`.
    #[serde(default)]
    pub deny: Vec<String>,
    /// `replay`: the recording.
    #[serde(default)]
    pub replay_file: Option<PathBuf>,
    /// Projects that it works in; empty: all.
    #[serde(default)]
    pub projects: Vec<ProjectName>,
    /// Most turns on one item.
    #[serde(default = "default_max_turns")]
    pub max_turns: u32,
    /// Longest work on one item, in minutes.
    #[serde(default = "default_max_minutes")]
    pub max_minutes: u64,
    /// Most tokens on one item; none: unlimited.
    #[serde(default)]
    pub max_tokens: Option<u64>,
    /// Most money on one item, in US dollars; none: unlimited.
    #[serde(default)]
    pub max_usd: Option<f64>,
    /// Overrides `[watchdog] stall_timeout_s`.
    #[serde(default)]
    pub stall_timeout_s: Option<u64>,
}

/// Reads the name of a time zone; a refusal names the nearest known one.
pub fn parse_zone(name: &str) -> Result<chrono_tz::Tz, String> {
    name.parse().map_err(|_error| {
        let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        let hint = nearest(name, known).map(|zone| format!("; did you mean `{zone}`?"));
        let hint = hint.unwrap_or_else(|| "; take an IANA name such as `Europe/Berlin`".to_owned());
        format!("`{name}` is no time zone{hint}")
    })
}

/// The known name that is most like a misspelt one: at most one letter in three differs.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = (name.chars().count() / 3).max(1);
    known
        .map(|other| (strsim::damerau_levenshtein(name, other), other))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

fn yes() -> bool {
    true
}
fn default_data_dir() -> PathBuf {
    PathBuf::from(".musher")
}
fn default_zone() -> String {
    "UTC".to_owned()
}
fn default_device_name() -> String {
    "Musher".to_owned()
}
fn default_base() -> String {
    "main".to_owned()
}
fn default_max_steps() -> u32 {
    24
}
fn default_max_output_tokens() -> u32 {
    8192
}
fn default_max_turn_tokens() -> u64 {
    1_000_000
}
fn default_max_turn_usd() -> f64 {
    5.0
}
fn default_max_turn_seconds() -> u64 {
    600
}
fn default_max_turns() -> u32 {
    20
}
fn default_max_minutes() -> u64 {
    120
}
