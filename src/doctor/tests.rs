use super::*;
use crate::clock::Clock;
use std::process::Command;

fn config(dir: &std::path::Path) -> Config {
    let text = r#"
        [llm]
        provider = "replay"
        replay_file = "nowhere.json"
        [[projects]]
        name = "shop"
        path = "shop"
        [[projects]]
        name = "gone"
        path = "gone"
    "#;
    let file = dir.join("musher.toml");
    std::fs::write(&file, text).unwrap();
    crate::config::load(&file).unwrap()
}

#[tokio::test]
async fn each_check_has_its_id_and_each_failure_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let shop = dir.path().join("shop");
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b"];
        let status = Command::new("git")
            .args(["-c", "init.defaultBranch=main"])
            .args(identity)
            .args(arguments)
            .current_dir(shop)
            .stdout(std::process::Stdio::null())
            .status();
        assert!(status.unwrap().success());
    };
    std::fs::create_dir(dir.path().join("shop")).unwrap();
    git(&["init", "-q"]);
    git(&["commit", "-q", "--allow-empty", "-m", "first"]);
    let config = config(dir.path());
    let checks = run(&config, None, false).await;
    let state = |id: &str| {
        let found = checks.iter().find(|check| check.id == id);
        found.unwrap_or_else(|| panic!("no check {id} in {checks:#?}")).state
    };
    for (id, expected) in [
        ("config", State::Warning),
        ("database", State::Ok),
        ("disk", State::Ok),
        ("git", State::Ok),
        ("homeserver", State::Skipped),
        ("login", State::Skipped),
        ("encryption", State::Skipped),
        ("model", State::Failed),
        ("project:shop", State::Ok),
        ("project:gone", State::Failed),
        ("container", State::Skipped),
        ("confinement", State::Warning),
        ("outbox_failed", State::Ok),
        ("undecryptable", State::Ok),
    ] {
        // A build machine may be short of disk.
        if id != "disk" {
            assert_eq!(state(id), expected, "{id}: {checks:#?}");
        }
    }
    for check in checks.iter().filter(|check| check.state == State::Failed) {
        assert!(!check.remedy.is_empty(), "{check:?}");
    }
    assert!(text(&checks).contains("2 checks have failed"), "{}", text(&checks));
    assert!(!config.data_dir.exists(), "the doctor changes nothing");
}

#[tokio::test]
async fn a_running_servers_database_is_looked_at_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let store = Store::open(&config.data_dir, Clock::system()).unwrap();
    let of = |checks: Vec<Check>| checks.into_iter().find(|check| check.id == "database").unwrap();
    assert_eq!(of(run(&config, None, true).await).state, State::Ok);
    assert_eq!(of(run(&config, Some(&store), true).await).state, State::Ok);
    // Closing empties the log beside the file, from which a reader would still be served.
    store.close();
    std::fs::write(config.data_dir.join("musher.db"), "this is no database, whatever it says")
        .unwrap();
    assert_eq!(of(run(&config, None, true).await).state, State::Failed);
}

#[test]
fn bubblewrap_is_said_to_hold_those_whom_it_holds_and_no_others() {
    let check = |runtime: &str| {
        let text = format!(
            "[llm]\nprovider = \"replay\"\n[containers]\nconfinement = \"bubblewrap\"\n\
             [[agents]]\nname = \"coder-1\"\nrole = \"coder\"\nruntime = \"{runtime}\"\n"
        );
        local::confinement(&toml::from_str(&text).unwrap())
    };
    for (runtime, state) in [
        ("api", State::Ok),
        ("codex", State::Ok),
        ("claude-code", State::Warning),
        ("acp", State::Warning),
    ] {
        let check = check(runtime);
        assert_eq!(check.state, state, "{runtime}: {check:?}");
        assert_eq!(check.message.contains("coder-1"), state == State::Warning, "{check:?}");
    }
}
