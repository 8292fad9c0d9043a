use super::*;
use crate::clock::Clock;
use std::os::unix::fs::PermissionsExt;

struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

/// A builder that runs `script` in place of cargo.
fn place(script: &str) -> (Place, Upgrade) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("data"), Clock::system()).unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("Cargo.toml"), "").unwrap();
    let cargo = dir.path().join("cargo");
    write_program(&cargo, script);
    let installed = dir.path().join("musher");
    write_program(&installed, "#!/bin/sh\necho old\n");
    let upgrade = Upgrade::with(store.clone(), None, cargo, Some(source), Some(installed));
    (Place { dir, store }, upgrade)
}

fn write_program(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn asked() -> Asked {
    Asked { session: SessionKey::main("!r".into()), key: "$1".to_owned(), pull: false }
}

/// A cargo that builds a program which passes its examination, or does not.
fn builder(doctor: u8) -> String {
    format!(
        r#"#!/bin/sh
echo "   Compiling musher v9" >&2
profile=debug; for arg; do [ "$arg" = --release ] && profile=release; done
mkdir -p "$CARGO_TARGET_DIR/$profile"
out="$CARGO_TARGET_DIR/$profile/musher"
printf '#!/bin/sh\nif [ "$1" = doctor ]; then echo "disk is full"; exit {doctor}; fi\necho musher 9.9\n' >"$out"
chmod +x "$out"
"#
    )
}

fn posted(store: &Store) -> Vec<String> {
    let read = store.read_blocking(|conn| {
        let mut statement = conn.prepare("SELECT outgoing FROM outbox ORDER BY id")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        Ok::<_, StoreError>(rows.collect::<Result<Vec<_>, _>>()?)
    });
    read.unwrap()
}

#[tokio::test]
async fn a_good_build_takes_the_old_files_place_and_keeps_the_old_one() {
    let (place, upgrade) = place(&builder(0));
    let built = upgrade.rebuild(&asked()).await.unwrap();
    assert_eq!(built.version, "9.9");
    assert_eq!(built.not_installed, None);
    assert_eq!(built.program, place.dir.path().join("musher"));
    let text = |name: &str| std::fs::read_to_string(place.dir.path().join(name)).unwrap();
    assert!(text("musher").contains("9.9"));
    assert!(text("musher.previous").contains("old"));
    assert!(posted(&place.store).last().unwrap().contains("musher 9.9 is ready"));
    let wanted = upgrade.replaced();
    assert_eq!(*wanted.borrow(), None);
    upgrade.request(&built, true);
    assert_eq!(wanted.borrow().as_ref().map(|wanted| wanted.now), Some(true));
}

#[tokio::test]
async fn a_failed_build_changes_nothing_and_shows_the_last_lines() {
    let script = "#!/bin/sh\necho 'error[E0308]: mismatched types' >&2\nexit 101\n";
    let (place, upgrade) = place(script);
    let error = upgrade.rebuild(&asked()).await.unwrap_err().to_string();
    assert!(error.contains("the build failed, so nothing was changed"), "{error}");
    assert!(error.contains("error[E0308]: mismatched types"), "{error}");
    let text = std::fs::read_to_string(place.dir.path().join("musher")).unwrap();
    assert!(text.contains("old"));
}

#[tokio::test]
async fn a_program_that_fails_its_examination_is_not_used() {
    let (place, upgrade) = place(&builder(1));
    let error = upgrade.rebuild(&asked()).await.unwrap_err().to_string();
    assert!(error.contains("doctor") && error.contains("disk is full"), "{error}");
    let text = std::fs::read_to_string(place.dir.path().join("musher")).unwrap();
    assert!(text.contains("old"));
}

#[tokio::test]
async fn without_a_source_it_says_how_to_name_one() {
    let (place, _) = place("");
    let upgrade = Upgrade::with(place.store.clone(), None, "cargo".into(), None, None);
    let error = upgrade.rebuild(&asked()).await.unwrap_err().to_string();
    assert!(error.contains("MUSHER_SOURCE"), "{error}");
}

#[tokio::test]
async fn the_room_is_told_once_what_runs_after_the_restart() {
    let (place, _) = place("");
    let built = Built { program: "x".into(), version: "9.9".to_owned(), not_installed: None };
    for (replaced, expected) in [(true, "runs now, in place of"), (false, "still runs")] {
        let built = built.clone();
        let write = place.store.write(move |tx| {
            note(tx, &SessionKey::main("!r".into()), &built)?;
            announce_as(tx, replaced)?;
            announce_as(tx, replaced)
        });
        write.await.unwrap();
        let posted = posted(&place.store);
        assert!(posted.last().unwrap().contains(expected), "{posted:?}");
    }
    assert_eq!(posted(&place.store).len(), 2);
}

#[tokio::test]
async fn of_two_versions_that_are_called_alike_none_is_said_to_have_taken_over() {
    let (place, _) = place("");
    // Built from the same commit; and the process died before it was replaced.
    let same = Built { program: "x".into(), version: version().into(), not_installed: None };
    let write = place.store.write(move |tx| {
        note(tx, &SessionKey::main("!r".into()), &same)?;
        announce_as(tx, false)
    });
    write.await.unwrap();
    let posted = posted(&place.store);
    assert!(posted.last().unwrap().contains("before musher"), "{posted:?}");
}
