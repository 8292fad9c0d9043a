use super::*;
use std::os::unix::fs::PermissionsExt;

fn args() -> InitArgs {
    InitArgs {
        homeserver: Some("https://hs.example.org".into()),
        user: Some("@musher:example.org".into()),
        password_env: None,
        password_file: None,
        allow: vec!["@you:example.org".into()],
        provider: Some("openai".into()),
        model: Some("some \"model\"".into()),
        base_url: Some("http://127.0.0.1:9".into()),
        api_key_env: Some("KEY".into()),
        api_key_file: None,
        project: None,
        gate: vec![],
        runtime: Some("api".into()),
        yes: true,
        no_checks: true,
    }
}

#[test]
fn answers_become_a_good_file_that_only_its_owner_can_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("musher.toml");
    let args = InitArgs {
        password_env: Some("PASSWORD".into()),
        project: Some(dir.path().join("My Shop")),
        gate: vec!["cargo test".into()],
        ..args()
    };
    init(Some(&file), args, true).unwrap();
    let config = config::load(&file).unwrap();
    let matrix = config.matrix.unwrap();
    assert_eq!(matrix.password_env.as_deref(), Some("PASSWORD"));
    assert_eq!(matrix.admin_users[0].as_str(), "@you:example.org");
    assert_eq!(config.llm.model, "some \"model\"");
    assert_eq!(config.projects[0].name.as_str(), "my-shop");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_is_there_is_not_overwritten_unasked_and_a_bad_answer_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("musher.toml");
    std::fs::write(&file, "# mine").unwrap();
    let failure = init(Some(&file), InitArgs { yes: false, ..args() }, true).unwrap_err();
    assert_eq!(failure.code, Code::Refused);
    let bad = InitArgs { password_env: Some("a b".into()), ..args() };
    let failure = init(Some(&file), bad, true).unwrap_err();
    assert_eq!(failure.code, Code::Usage, "{failure}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn a_homeserver_that_is_not_there_is_told_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("musher.toml");
    let args =
        InitArgs { homeserver: Some("http://127.0.0.1:9".into()), no_checks: false, ..args() };
    let failure = init(Some(&file), args, true).unwrap_err();
    assert_eq!(failure.code, Code::Failed);
    assert!(failure.message.contains("cannot be reached"), "{failure}");
    assert!(!file.exists());
}

#[test]
fn a_typed_password_stands_in_a_file_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("musher.toml");
    let answers = Answers {
        homeserver: "https://hs".into(),
        user: "@musher:hs".into(),
        password: Password::Typed("correct horse".into()),
        allow: vec!["@you:hs".into()],
        ..Answers::default()
    };
    let config = write::write(&file, &answers).unwrap();
    let named = config.matrix.unwrap().password_file.unwrap();
    assert_eq!(std::fs::read_to_string(&named).unwrap().trim(), "correct horse");
    assert_eq!(std::fs::metadata(&named).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("correct"));
}

#[test]
fn the_first_agent_may_run_the_gates_by_the_name_that_its_runtime_has_for_the_shell() {
    let rules = |runtime: &str| {
        let answers = Answers {
            gates: vec!["cargo fmt --check && cargo test".into(), "cargo test".into()],
            runtime: runtime.into(),
            ..Answers::default()
        };
        answers.scratch().unwrap().config.agents[0].allow.clone()
    };
    assert_eq!(rules("claude-code"), ["Bash(cargo fmt --check *)", "Bash(cargo test *)"]);
    assert_eq!(rules("api"), ["shell(cargo fmt --check *)", "shell(cargo test *)"]);
}
