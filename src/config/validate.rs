//! What the types cannot say: values that are well formed and make no sense.
//!
//! Only the file itself is looked at here; what it names (variables, files, repositories) is
//! tried by [`super::check_secrets`], `musher check` and `musher doctor`.

use super::error::{ConfigError, Step};
use super::source::Source;
use super::{
    AgentConfig, Config, LandingMode, LlmConfig, MatrixConfig, ProjectConfig, Provider,
    RuntimeKind, parse_zone,
};
use std::collections::HashSet;
use tracing_subscriber::EnvFilter;

/// Names that are addresses already.
const RESERVED: [&str; 4] = ["coordinator", "musher", "me", "room"];

/// Collects errors at places.
struct Check<'a> {
    source: &'a Source,
    errors: Vec<ConfigError>,
}

/// A place, written shortly.
macro_rules! at {
    ($($step:expr),+) => { &[$(Step::from($step)),+] };
}

impl Check<'_> {
    fn fail(&mut self, place: &[Step], reason: impl Into<String>, remedy: impl Into<String>) {
        let error = self.source.error(place, reason, remedy);
        self.errors.push(error);
    }

    fn require(&mut self, holds: bool, place: &[Step], reason: &str, remedy: &str) {
        if !holds {
            self.fail(place, reason, remedy);
        }
    }

    fn positive(&mut self, value: u64, place: &[Step]) {
        self.require(value > 0, place, "it must be more than nothing", "write at least 1");
    }

    fn amount(&mut self, value: Option<f64>, place: &[Step]) {
        let holds = value.is_none_or(|value| value.is_finite() && value >= 0.0);
        self.require(holds, place, "it must be a number from 0", "write it in US dollars");
    }

    fn url(&mut self, text: &str, place: &[Step]) {
        if let Err(reason) = check_url(text) {
            self.fail(place, reason, "write it as \"https://matrix.example.org\"");
        }
    }

    fn variable(&mut self, name: Option<&String>, place: &[Step]) {
        let holds = name.is_none_or(|name| is_variable(name));
        let remedy = "write the name of the variable, such as \"MUSHER_MATRIX_PASSWORD\", \
                      and put the secret into that variable";
        self.require(holds, place, "it is not the name of a variable", remedy);
    }

    fn one_of_two(&mut self, both: bool, place: &[Step], other: &str) {
        let reason = format!("{other} is set, too");
        self.require(!both, place, &reason, "keep one of the two");
    }
}

/// All errors of meaning.
pub(super) fn validate(config: &Config, source: &Source) -> Vec<ConfigError> {
    let mut check = Check { source, errors: vec![] };
    check.require(
        !config.data_dir.as_os_str().is_empty(),
        at!["data_dir"],
        "it is empty",
        "name a directory, such as \".musher\"",
    );
    if let Err(reason) = parse_zone(&config.time_zone) {
        check.fail(at!["time_zone"], reason, "take an IANA name such as \"Europe/Berlin\"");
    }
    if let Some(matrix) = &config.matrix {
        check_matrix(&mut check, matrix);
    }
    check_llm(&mut check, &config.llm);
    check_numbers(&mut check, config);
    check_projects(&mut check, &config.projects);
    check_agents(&mut check, &config.agents);
    check.errors
}

fn check_matrix(check: &mut Check<'_>, matrix: &MatrixConfig) {
    check.url(&matrix.homeserver, at!["matrix", "homeserver"]);
    check.require(
        is_user_id(&matrix.user_id),
        at!["matrix", "user_id"],
        "it is not a Matrix user id",
        "write it as \"@name:server\"",
    );
    check.variable(matrix.password_env.as_ref(), at!["matrix", "password_env"]);
    check.variable(matrix.store_passphrase_env.as_ref(), at!["matrix", "store_passphrase_env"]);
    let (env, file) = (matrix.password_env.is_some(), matrix.password_file.is_some());
    check.one_of_two(env && file, at!["matrix", "password_file"], "password_env");
    check.require(
        env || file,
        at!["matrix", "password_env"],
        "the account's password is named nowhere",
        "set password_env to the name of a variable, or password_file to a file that only you \
         can read",
    );
    let both = matrix.store_passphrase_env.is_some() && matrix.store_passphrase_file.is_some();
    check.one_of_two(both, at!["matrix", "store_passphrase_file"], "store_passphrase_env");
    for (position, user) in matrix.allowed_users.iter().enumerate() {
        let pattern = user.strip_prefix("*:").is_some_and(is_server);
        check.require(
            pattern || is_user_id(user),
            at!["matrix", "allowed_users", position],
            "it is neither a Matrix user id nor a server's users",
            "write it as \"@name:server\" or \"*:server\"",
        );
    }
    for (position, room) in matrix.allowed_rooms.iter().enumerate() {
        check.require(
            room == "*" || is_room(room),
            at!["matrix", "allowed_rooms", position],
            "it is neither a room's id nor an alias",
            "write it as \"!id:server\", \"#alias:server\" or \"*\"",
        );
    }
    for (position, admin) in matrix.admin_users.iter().enumerate() {
        let place = at!["matrix", "admin_users", position];
        if !is_user_id(admin.as_str()) {
            check.fail(place, "it is not a Matrix user id", "write it as \"@name:server\"");
        } else if !is_allowed(&matrix.allowed_users, admin.as_str()) {
            let remedy = "add them to matrix.allowed_users, too";
            check.fail(place, "an administrator who is not allowed is not heard", remedy);
        }
    }
}

fn check_llm(check: &mut Check<'_>, llm: &LlmConfig) {
    check.require(
        llm.provider != Provider::ClaudeCode,
        at!["llm", "provider"],
        "the coordinator cannot run on claude-code in this version",
        "write anthropic, openai, gemini or ollama; agents may run on claude-code",
    );
    let wants_model = match llm.provider {
        Provider::Anthropic | Provider::Openai | Provider::Gemini | Provider::Ollama => true,
        Provider::ClaudeCode | Provider::Replay => false,
    };
    check.require(
        !wants_model || !llm.model.trim().is_empty(),
        at!["llm", "model"],
        "the model is missing",
        "write the provider's name for it, such as model = \"claude-sonnet-4-5\"",
    );
    check.variable(llm.api_key_env.as_ref(), at!["llm", "api_key_env"]);
    let (env, file) = (llm.api_key_env.is_some(), llm.api_key_file.is_some());
    check.one_of_two(env && file, at!["llm", "api_key_file"], "api_key_env");
    // A server of one's own may want no key.
    let wants_key =
        matches!(llm.provider, Provider::Anthropic | Provider::Openai | Provider::Gemini)
            && llm.base_url.is_none();
    check.require(
        env || file || !wants_key,
        at!["llm", "api_key_env"],
        "the key of the API is named nowhere",
        "set api_key_env to the name of a variable, or api_key_file to a file that only you can \
         read",
    );
    if let Some(url) = &llm.base_url {
        check.url(url, at!["llm", "base_url"]);
    }
    check.require(
        llm.provider != Provider::Replay || llm.replay_file.is_some(),
        at!["llm", "replay_file"],
        "the provider replay needs a recording",
        "set replay_file, or choose another provider",
    );
    check.positive(u64::from(llm.max_steps), at!["llm", "max_steps"]);
    check.positive(u64::from(llm.max_output_tokens), at!["llm", "max_output_tokens"]);
    check.positive(llm.max_turn_tokens, at!["llm", "max_turn_tokens"]);
    check.positive(llm.max_turn_seconds, at!["llm", "max_turn_seconds"]);
    check.amount(Some(llm.max_turn_usd), at!["llm", "max_turn_usd"]);
    check.amount(llm.usd_per_million_input, at!["llm", "usd_per_million_input"]);
    check.amount(llm.usd_per_million_output, at!["llm", "usd_per_million_output"]);
}

fn check_numbers(check: &mut Check<'_>, config: &Config) {
    let (chat, limits) = (&config.chat, &config.limits);
    check.require(
        chat.coalesce_ms <= chat.coalesce_max_ms,
        at!["chat", "coalesce_ms"],
        "it is more than chat.coalesce_max_ms",
        "make coalesce_max_ms at least as long",
    );
    check.positive(chat.stream_edit_ms, at!["chat", "stream_edit_ms"]);
    check.positive(chat.queue_cap as u64, at!["chat", "queue_cap"]);
    check.positive(chat.permission_timeout_s, at!["chat", "permission_timeout_s"]);
    check.require(
        !chat.prefix.is_empty() && !chat.prefix.contains(char::is_whitespace),
        at!["chat", "prefix"],
        "it must be one or more signs without spaces",
        "write \"!\"",
    );
    check.positive(limits.max_agents as u64, at!["limits", "max_agents"]);
    check.positive(limits.max_parallel_turns as u64, at!["limits", "max_parallel_turns"]);
    check.positive(u64::from(limits.max_starts_per_minute), at!["limits", "max_starts_per_minute"]);
    check.amount(limits.usd_per_day, at!["limits", "usd_per_day"]);
    check.amount(limits.usd_per_item, at!["limits", "usd_per_item"]);
    check.require(
        (0.0..=1.0).contains(&limits.warn_at),
        at!["limits", "warn_at"],
        "it is a share and must lie between 0 and 1",
        "write 0.8 for 80 %",
    );
    check.positive(config.watchdog.tick_s, at!["watchdog", "tick_s"]);
    check.positive(config.watchdog.stall_timeout_s, at!["watchdog", "stall_timeout_s"]);
    let watchdog = &config.watchdog;
    for (key, value) in
        [("warn_after_s", watchdog.warn_after_s), ("nudge_after_s", watchdog.nudge_after_s)]
    {
        check.require(
            value <= watchdog.stall_timeout_s,
            at!["watchdog", key],
            "it is more than watchdog.stall_timeout_s, when the turn is ended already",
            "make it shorter, or write 0 to switch it off",
        );
    }
    let named = watchdog.triage_model.as_ref().is_none_or(|model| !model.trim().is_empty());
    check.require(
        named,
        at!["watchdog", "triage_model"],
        "it is empty",
        "name a model, or leave it out",
    );
    check.positive(u64::from(watchdog.storm_deaths), at!["watchdog", "storm_deaths"]);
    check.positive(watchdog.storm_window_s, at!["watchdog", "storm_window_s"]);
    check.positive(config.mail.inject_bytes as u64, at!["mail", "inject_bytes"]);
    check.positive(config.merge.gate_timeout_s, at!["merge", "gate_timeout_s"]);
    check.positive(config.merge.merge_batch as u64, at!["merge", "merge_batch"]);
    check.positive(config.merge.merge_age_warn_s, at!["merge", "merge_age_warn_s"]);
    check.positive(config.merge.pr_poll_s, at!["merge", "pr_poll_s"]);
    let author = config.merge.author.split_once(" <");
    check.require(
        author.is_some_and(|(name, rest)| {
            !name.trim().is_empty() && rest.len() > 1 && rest.ends_with('>')
        }),
        at!["merge", "author"],
        "it is not an author as git wants it",
        "write it as \"Musher <musher@localhost>\"",
    );
    if let Err(error) = EnvFilter::try_new(&config.log.filter) {
        let reason = format!("it is not a filter: {error}");
        check.fail(at!["log", "filter"], reason, "write it as \"warn,musher=info\"");
    }
    if let Some(listen) = &config.http.listen {
        check.require(
            listen.parse::<std::net::SocketAddr>().is_ok(),
            at!["http", "listen"],
            "it is not an address with a port",
            "write it as \"127.0.0.1:8750\"",
        );
    }
}

fn check_projects(check: &mut Check<'_>, projects: &[ProjectConfig]) {
    let mut seen = HashSet::new();
    for (position, project) in projects.iter().enumerate() {
        let name = project.name.as_str();
        check.require(
            is_project_name(name),
            at!["projects", position, "name"],
            "it is no project's name",
            "begin with a small letter; then at most 38 small letters, digits and hyphens",
        );
        check.require(
            seen.insert(name),
            at!["projects", position, "name"],
            "another project has this name",
            "give each project a name of its own",
        );
        check.require(
            !project.path.as_os_str().is_empty(),
            at!["projects", position, "path"],
            "it is empty",
            "name the directory of a git repository",
        );
        check.require(
            !project.base.trim().is_empty() && !project.base.starts_with('-'),
            at!["projects", position, "base"],
            "it is no branch",
            "name the branch that work is merged into, such as \"main\"",
        );
        if let Some(room) = &project.room {
            check.require(
                is_room(room),
                at!["projects", position, "room"],
                "it is neither a room's id nor an alias",
                "write it as \"!id:server\" or \"#alias:server\"",
            );
        }
        let gates = project.gates.iter().chain(&project.setup);
        check.require(
            gates.clone().all(|gate| !gate.trim().is_empty()),
            at!["projects", position, "gates"],
            "a command of gates or setup is empty",
            "write a shell command, or take it out",
        );
        let opens = project.pr_command.as_deref().unwrap_or_default().trim();
        check.require(
            project.mode != LandingMode::Pr || !opens.is_empty(),
            at!["projects", position, "pr_command"],
            "mode = \"pr\" needs the command that opens a pull request",
            "add pr_command, such as \"gh pr create --head $MUSHER_BRANCH --fill\"",
        );
        check.positive(
            project.max_agents.unwrap_or(1) as u64,
            at!["projects", position, "max_agents"],
        );
        check.amount(project.usd_per_day, at!["projects", position, "usd_per_day"]);
    }
}

fn check_agents(check: &mut Check<'_>, agents: &[AgentConfig]) {
    let mut seen = HashSet::new();
    for (position, agent) in agents.iter().enumerate() {
        let name = agent.name.as_str();
        check.require(
            is_agent_name(name),
            at!["agents", position, "name"],
            "it is no agent's name",
            "take 1 to 64 letters, digits, hyphens, dots and underscores, such as \"coder-1\"",
        );
        check.require(
            !RESERVED.contains(&name),
            at!["agents", position, "name"],
            "this name has a meaning already",
            "choose another, such as \"coder-1\"",
        );
        check.require(
            seen.insert(name),
            at!["agents", position, "name"],
            "another agent has this name",
            "give each agent a name of its own",
        );
        check.require(
            agent.runtime != RuntimeKind::Replay || agent.replay_file.is_some(),
            at!["agents", position, "replay_file"],
            "the runtime replay needs a recording",
            "set replay_file, or choose another runtime",
        );
        check.require(
            agent.runtime != RuntimeKind::Acp || agent.command.is_some(),
            at!["agents", position, "command"],
            "the runtime acp needs a program",
            "set command to the program that speaks the protocol, such as \"claude-agent-acp\"",
        );
        for (number, variable) in agent.env.iter().enumerate() {
            let place = at!["agents", position, "env", number];
            check.variable(Some(variable), place);
        }
        check.positive(u64::from(agent.max_turns), at!["agents", position, "max_turns"]);
        check.positive(agent.max_minutes, at!["agents", position, "max_minutes"]);
        check.positive(agent.max_tokens.unwrap_or(1), at!["agents", position, "max_tokens"]);
        check.amount(agent.max_usd, at!["agents", position, "max_usd"]);
        check.positive(
            agent.stall_timeout_s.unwrap_or(1),
            at!["agents", position, "stall_timeout_s"],
        );
    }
}

/// What is allowed and probably not meant, in words.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut out = unread(config);
    if let Some(matrix) = &config.matrix {
        if matrix.allowed_users.is_empty() {
            out.push("matrix.allowed_users is empty: nobody is heard".to_owned());
        }
        if matrix.allowed_rooms.is_empty() {
            out.push("matrix.allowed_rooms is empty: it listens in no room".to_owned());
        }
        if matrix.admin_users.is_empty() {
            out.push(
                "matrix.admin_users is empty: nobody may run administrative commands".to_owned(),
            );
        }
    } else {
        out.push("there is no [matrix]: only `musher console` can run".to_owned());
    }
    if config.agents.is_empty() {
        out.push("there are no [[agents]]: nobody can work on an item".to_owned());
    }
    for agent in &config.agents {
        for project in &agent.projects {
            if !config.projects.iter().any(|known| known.name == *project) {
                out.push(format!(
                    "agent {}: the project {project} is not in this file (one from `new project` \
                     is fine)",
                    agent.name
                ));
            }
        }
    }
    out
}

/// The keys that are set and that nothing in this version reads.
fn unread(config: &Config) -> Vec<String> {
    let listen = config.http.listen.is_some();
    let said = listen.then(|| {
        "http.listen is set, but this version has no listener: nothing listens there".to_owned()
    });
    said.into_iter().collect()
}

fn check_url(text: &str) -> Result<(), String> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or("it does not begin with https:// or http://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    if authority.contains('@') {
        return Err("it holds credentials".to_owned());
    }
    let url = reqwest::Url::parse(text).map_err(|error| format!("it is no URL: {error}"))?;
    if url.host_str().is_none_or(str::is_empty) || text.contains(char::is_whitespace) {
        return Err("it names no server".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it must end with the server's path".to_owned());
    }
    Ok(())
}

fn is_variable(name: &str) -> bool {
    let mut letters = name.bytes();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
}

fn is_server(server: &str) -> bool {
    !server.is_empty()
        && server.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
}

fn is_user_id(text: &str) -> bool {
    text.len() <= 255
        && text.strip_prefix('@').and_then(|rest| rest.split_once(':')).is_some_and(
            |(name, server)| {
                !name.is_empty() && !name.contains(char::is_whitespace) && is_server(server)
            },
        )
}

/// Ids of newer room versions have no server.
fn is_room(text: &str) -> bool {
    let alias = text.strip_prefix('#').and_then(|rest| rest.split_once(':'));
    let id = text.strip_prefix('!').is_some_and(|id| !id.is_empty());
    let alias = alias.is_some_and(|(name, server)| !name.is_empty() && is_server(server));
    (id || alias) && !text.contains(char::is_whitespace)
}

fn is_allowed(allowed: &[String], user: &str) -> bool {
    let server = user.split_once(':').map(|(_, server)| server);
    allowed.iter().any(|pattern| match pattern.strip_prefix("*:") {
        Some(of) => server == Some(of),
        None => pattern == user,
    })
}

fn is_project_name(name: &str) -> bool {
    let mut letters = name.bytes();
    name.len() <= 39
        && letters.next().is_some_and(|first| first.is_ascii_lowercase())
        && letters
            .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-')
}

fn is_agent_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"-._".contains(&letter))
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}
