//! How the CLI is called, what it may write, and by what it is let in.

use super::super::SpawnSpec;
use crate::model::agent::Role;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The program, on the PATH.
pub const DEFAULT_PROGRAM: &str = "codex";

/// The key of the API, by its usual name.
const KEY: &str = "OPENAI_API_KEY";

/// Another server that speaks the same API.
const BASE_URL: &str = "OPENAI_BASE_URL";

/// Where OpenAI's own API is.
const OPENAI: &str = "https://api.openai.com/v1";

/// The folder for temporary files, where the system's will not do.
pub(super) const TEMPORARY: &str = "tmp-files";

/// How often the CLI itself asks a failing API again, before it gives up on a turn.
const MAX_RETRIES: u32 = 3;

/// Parts of the CLI that make no sense here: they start agents and turns of their own, or reach
/// for a desktop.
const NOT_HERE: &[&str] = &[
    "apps",
    "browser_use",
    "computer_use",
    "goals",
    "image_generation",
    "in_app_browser",
    "multi_agent",
    "plugins",
    "remote_plugin",
];

/// The server itself, instead of the npm package's wrapper: killing the wrapper leaves the server
/// behind, and each costs a Node.js process.
pub(in super::super) fn native(program: &Path) -> PathBuf {
    find_native(program).unwrap_or_else(|| program.to_owned())
}

fn find_native(program: &Path) -> Option<PathBuf> {
    let real = program.canonicalize().ok()?;
    if real.extension()? != "js" {
        return None;
    }
    // …/node_modules/@openai/codex/bin/codex.js
    let package = real.parent()?.parent()?;
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let platform = format!("codex-linux-{arch}");
    let beside = package.parent()?.join(&platform);
    let within = package.join("node_modules/@openai").join(&platform);
    [beside, within, package.to_owned()].iter().find_map(|place| {
        let targets = std::fs::read_dir(place.join("vendor")).ok()?;
        targets.flatten().map(|target| target.path().join("bin/codex")).find(|path| path.is_file())
    })
}

pub(super) fn arguments(spec: &SpawnSpec) -> Vec<String> {
    let mut args = vec!["app-server".to_owned()];
    let mut set =
        |key: &str, value: Value| args.extend(["-c".to_owned(), format!("{key}={value}")]);
    if has_own_provider(spec) {
        let url = spec.env.get(BASE_URL).map_or(OPENAI, String::as_str);
        set("model_provider", json!("musher"));
        set("model_providers.musher.name", json!("musher"));
        set("model_providers.musher.base_url", json!(url));
        set("model_providers.musher.wire_api", json!("responses"));
        set("model_providers.musher.request_max_retries", json!(MAX_RETRIES));
        set("model_providers.musher.stream_max_retries", json!(MAX_RETRIES));
        if spec.env.contains_key(KEY) {
            set("model_providers.musher.env_key", json!(KEY));
        }
    }
    // Names of variables with KEY, SECRET or TOKEN in them are kept from commands.
    set("shell_environment_policy.ignore_default_excludes", json!(false));
    for feature in NOT_HERE {
        set(&format!("features.{feature}"), json!(false));
    }
    set("check_for_update_on_startup", json!(false));
    set("analytics.enabled", json!(false));
    args
}

fn has_own_provider(spec: &SpawnSpec) -> bool {
    spec.env.contains_key(KEY) || spec.env.contains_key(BASE_URL)
}

/// The environment: what the agent has anyway, and a home of its own a project.
pub(super) fn environment(spec: &SpawnSpec) -> BTreeMap<String, String> {
    let mut env = spec.env.clone();
    env.entry("CODEX_HOME".to_owned()).or_insert_with(|| spec.state_dir.display().to_string());
    // Below the folder for temporary files it makes no helpers, and without these its sandbox runs
    // nothing: then temporary files have a folder of their own.
    let temporary = env.get("TMPDIR").map_or("/tmp", String::as_str);
    if env.get("CODEX_HOME").is_some_and(|home| Path::new(home).starts_with(temporary)) {
        env.insert("TMPDIR".to_owned(), spec.state_dir.join(TEMPORARY).display().to_string());
    }
    env.entry("RUST_LOG".to_owned()).or_insert_with(|| "error".to_owned());
    env
}

/// Sees that the CLI has something to be let in by; an error says what to do.
///
/// With a key or a server of one's own in the environment there is nothing to do. Else the login
/// of the person who runs Musher is used, by a link: a refreshed one is theirs, too.
pub(super) fn let_in(spec: &SpawnSpec) -> Result<(), String> {
    if has_own_provider(spec) || spec.env.contains_key("CODEX_HOME") {
        return Ok(());
    }
    let home = spec.env.get("HOME").map_or("/nonexistent", String::as_str);
    let login = Path::new(home).join(".codex/auth.json");
    if !login.exists() {
        return Err(format!(
            "Codex is not logged in ({} is missing). Give the server {KEY}, name it in the agent's \
             `env`, and restart; or run `codex login` as the user that Musher runs as",
            login.display()
        ));
    }
    let link = spec.state_dir.join("auth.json");
    if std::fs::read_link(&link).is_ok_and(|target| target == login) {
        return Ok(());
    }
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _gone => std::os::unix::fs::symlink(&login, &link),
    }
    .map_err(|error| format!("the login of Codex cannot be used: {}: {error}", link.display()))
}

/// What commands may write.
pub(super) fn sandbox(role: Role, cwd: &Path) -> Value {
    match role {
        Role::Coder | Role::Qa | Role::Mergemaster => json!({
            "type": "workspaceWrite",
            "writableRoots": git_places(cwd).unwrap_or_default(),
            "networkAccess": true,
            "excludeTmpdirEnvVar": false,
            "excludeSlashTmp": false,
        }),
        Role::Lead | Role::Scout | Role::Reviewer => {
            json!({"type": "readOnly", "networkAccess": true})
        }
    }
}

/// The places of a worktree's repository that a commit writes to; `config` and `hooks`, which run
/// code outside of the sandbox, are not among them.
fn git_places(cwd: &Path) -> Option<Vec<PathBuf>> {
    let pointer = std::fs::read_to_string(cwd.join(".git")).ok()?;
    let own = cwd.join(pointer.strip_prefix("gitdir:")?.trim()).canonicalize().ok()?;
    let common = std::fs::read_to_string(own.join("commondir")).ok()?;
    let common = own.join(common.trim()).canonicalize().ok()?;
    let mut places = vec![own];
    places.extend(["objects", "refs", "logs"].map(|name| common.join(name)));
    places.retain(|place| place.is_dir());
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_an_npm_package_is_found_behind_its_wrapper() {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("node_modules/@openai");
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
        let server = modules.join(format!("codex-linux-{arch}/vendor/some-target/bin/codex"));
        let wrapper = modules.join("codex/bin/codex.js");
        for file in [&server, &wrapper] {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        let link = dir.path().join("codex");
        std::os::unix::fs::symlink(&wrapper, &link).unwrap();
        assert_eq!(native(&link), server.canonicalize().unwrap());
        assert_eq!(native(&server), server, "what is no wrapper stays what it is");
    }

    #[test]
    fn a_commit_in_a_worktree_may_write_what_it_needs_and_no_hooks_and_no_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let own = root.join("repo/.git/worktrees/w");
        for folder in ["objects", "refs", "logs", "hooks"] {
            std::fs::create_dir_all(root.join("repo/.git").join(folder)).unwrap();
        }
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("commondir"), "../..\n").unwrap();
        std::fs::create_dir(root.join("w")).unwrap();
        std::fs::write(root.join("w/.git"), format!("gitdir: {}\n", own.display())).unwrap();
        let sandbox = sandbox(Role::Coder, &root.join("w"));
        let common = root.join("repo/.git");
        let expected = [own, common.join("objects"), common.join("refs"), common.join("logs")];
        assert_eq!(sandbox["writableRoots"], json!(expected));
        assert_eq!(super::sandbox(Role::Reviewer, &root)["type"], "readOnly");
    }
}
