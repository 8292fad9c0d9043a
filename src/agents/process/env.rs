//! The environment of an agent: built from nothing.
//!
//! Nothing of the server's environment is inherited but what is listed here and what the agent's
//! configuration names: no Matrix credentials, no keys of other providers, none of the variables
//! by which a CLI finds out that it runs inside another one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Where programs are looked for when the server itself has no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Variables of the server that every agent has: they find programs and say the language.
const INHERITED: &[&str] = &["HOME", "LANG", "LC_ALL", "TZ", "TERM", "USER", "SHELL", "TMPDIR"];

/// Variables with which tool chains are found; paths, never secrets.
const TOOL_CHAINS: &[&str] =
    &["CARGO_HOME", "RUSTUP_HOME", "GOPATH", "GOROOT", "JAVA_HOME", "PYENV_ROOT", "NVM_DIR"];

/// The common part of every agent's environment: `PATH` with our own folder first, `HOME`,
/// language, and those of `allowed` (`[[agents]] env`) that are set.
pub fn base_env(allowed: &[String]) -> BTreeMap<String, String> {
    build(allowed, |name| std::env::var(name).ok(), own_folder().as_deref())
}

fn build(
    allowed: &[String],
    lookup: impl Fn(&str) -> Option<String>,
    own: Option<&Path>,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let names = INHERITED.iter().chain(TOOL_CHAINS).copied();
    for name in names.chain(allowed.iter().map(String::as_str)) {
        if let Some(value) = lookup(name) {
            env.insert(name.to_owned(), value);
        }
    }
    let path = lookup("PATH").unwrap_or_else(|| DEFAULT_PATH.to_owned());
    let path = match own {
        Some(own) => format!("{}:{path}", own.display()),
        None => path,
    };
    env.insert("PATH".to_owned(), path);
    env.entry("LANG".to_owned()).or_insert_with(|| "C.UTF-8".to_owned());
    env
}

/// The folder of our own program, so that agents find `musher mail`.
fn own_folder() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_owned())
}

/// Finds a program: a path as it stands, a name on the PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        let path = std::path::absolute(name).ok()?;
        return is_program(&path).then_some(path);
    }
    let path = std::env::var("PATH").unwrap_or_else(|_unset| DEFAULT_PATH.to_owned());
    path.split(':')
        .filter(|folder| !folder.is_empty())
        .map(|folder| Path::new(folder).join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// `setsid`, where it is installed.
pub(super) fn setsid_program() -> Option<&'static Path> {
    static FOUND: LazyLock<Option<PathBuf>> = LazyLock::new(|| find_program("setsid"));
    FOUND.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_inherited_but_what_is_listed() {
        let server = |name: &str| match name {
            "PATH" => Some("/bin".to_owned()),
            "HOME" => Some("/home/x".to_owned()),
            "IS_SANDBOX" | "CLAUDECODE" | "OPENAI_API_KEY" | "ANTHROPIC_API_KEY" | "HTTP_PROXY"
            | "MUSHER_PASSWORD" => Some("secret".to_owned()),
            _ => None,
        };
        let env = build(&["ANTHROPIC_API_KEY".to_owned(), "UNSET".to_owned()], server, None);
        let names: Vec<&str> = env.keys().map(String::as_str).collect();
        assert_eq!(names, ["ANTHROPIC_API_KEY", "HOME", "LANG", "PATH"]);
    }

    #[test]
    fn our_own_folder_comes_first_on_the_path() {
        let env = build(&[], |_name| None, Some(Path::new("/opt/musher")));
        assert_eq!(env["PATH"], "/opt/musher:/usr/local/bin:/usr/bin:/bin");
    }
}
