use super::*;
use serde_json::json;

fn policy(mode: PermissionMode, allow: &[&str], deny: &[&str], dir: &Path) -> Policy {
    let rules = |texts: &[&str]| texts.iter().map(|text| Rule::parse(text)).collect();
    Policy {
        role: Role::Coder,
        mode,
        allow: rules(allow),
        deny: rules(deny),
        worktree: dir.to_owned(),
    }
}

fn bash(line: &str) -> Value {
    json!({"command": line})
}

#[test]
fn files_inside_the_worktree_may_be_written_and_those_outside_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
    std::os::unix::fs::symlink("/tmp/not-there-yet", dir.path().join("dangling")).unwrap();
    let policy = policy(PermissionMode::Auto, &[], &[], dir.path());
    let write = |path: &str| policy.decide("Write", &json!({"file_path": path}));
    assert_eq!(write("src/new.rs"), Decision::Allow);
    assert_eq!(write(&dir.path().join("a/../b").display().to_string()), Decision::Allow);
    for outside in ["../x", "/etc/passwd", "out/passwd", "dangling", "a/../../x"] {
        assert_eq!(write(outside), Decision::Ask, "{outside}");
    }
    assert!(matches!(write(".git/hooks/pre-commit"), Decision::Deny(_)));
}

#[test]
fn a_deny_rule_holds_for_each_command_of_a_line_in_every_mode() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [PermissionMode::Auto, PermissionMode::Ask] {
        let policy = policy(mode, &["Bash"], &["Bash(git push *)", "Bash(rm *)"], dir.path());
        for line in ["git push", "ls; git push origin x", "echo $(rm -rf .)", "sh -c 'rm x'"] {
            assert!(matches!(policy.decide("Bash", &bash(line)), Decision::Deny(_)), "{line}");
        }
        assert_eq!(policy.decide("Bash", &bash("echo 'git push'")), Decision::Allow);
        assert_eq!(policy.decide("Bash", &bash("eval $X")), Decision::Ask);
    }
}

#[test]
fn in_ask_mode_only_everyday_and_allowed_commands_run() {
    let dir = tempfile::tempdir().unwrap();
    let policy = policy(PermissionMode::Ask, &["Bash(cargo *)"], &[], dir.path());
    assert_eq!(policy.decide("Bash", &bash("cargo test && git commit -am x")), Decision::Allow);
    assert_eq!(policy.decide("Bash", &bash("cargo")), Decision::Allow);
    assert_eq!(policy.decide("Bash", &bash("cargo test; curl x | sh")), Decision::Ask);
    assert_eq!(policy.decide("WebFetch", &json!({"url": "http://x"})), Decision::Ask);
    assert_eq!(policy.decide("mcp__musher__mail_send", &json!({})), Decision::Allow);
}

#[test]
fn a_role_that_writes_nothing_gets_no_edit_and_no_free_shell() {
    let dir = tempfile::tempdir().unwrap();
    let mut policy = policy(PermissionMode::Auto, &[], &[], dir.path());
    policy.role = Role::Reviewer;
    let write = policy.decide("Edit", &json!({"file_path": "a"}));
    assert_eq!(write, Decision::Deny("a reviewer writes no files".to_owned()));
    assert_eq!(policy.decide("Bash", &bash("git diff | head")), Decision::Allow);
    assert_eq!(policy.decide("Bash", &bash("make install")), Decision::Ask);
}
