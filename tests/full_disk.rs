//! A disk without a byte left: said in words, waited out, and then nothing is lost or doubled.

use crate::support::disk::Disk;
use crate::support::model_server::Reply;
use crate::support::musher::{Called, Musher};
use crate::support::scene::{Scene, is_agent, is_coordinator, report, shell};

/// How the disk is made small.
#[derive(Clone, Copy)]
enum Way {
    /// By a limit of the kernel, which looks like a quota: goes everywhere.
    Quota,
    /// By a file system of its own: where one may be mounted.
    Mount,
}

/// A scene with an agent on such a disk; `None` where nobody may mount one.
async fn on_a_small_disk(way: Way) -> Option<(Scene, Disk)> {
    let mut disk = None;
    let scene = Scene::with(|musher| {
        disk = match way {
            Way::Quota => Some(Disk::limited(musher)),
            Way::Mount => Disk::mounted(musher),
        };
        musher.built_in_agent("coder-1");
    })
    .await;
    match (&disk, way) {
        (Some(_), Way::Quota) => println!("ran under a quota"),
        (Some(_), Way::Mount) => println!("ran on a file system of its own"),
        (None, _) => println!("NOT RUN: nobody may mount a file system here"),
    }
    disk.map(|disk| (scene, disk))
}

/// Sends mail by the command line until the disk takes no more; returns how many were taken, and
/// what the last call said. What is there already may have some room inside it.
async fn send_until_refused(musher: &Musher) -> (usize, Called) {
    let body = "b".repeat(100_000);
    for sent in 0..200 {
        let arguments = ["mail", "send", "--to", "coder-1", "--subject", "s", "--body", &body];
        let called = musher.call(&arguments).await;
        if called.code != 0 {
            return (sent, called);
        }
    }
    panic!("the disk is never full");
}

async fn letters(musher: &Musher) -> usize {
    let listed = musher.call(&["mail", "list", "--limit", "1000", "--json"]).await.succeeded();
    listed.json()["messages"].as_array().unwrap().len()
}

#[tokio::test]
async fn what_is_said_while_a_quota_is_met_is_answered_once_when_there_is_room() {
    is_answered_once_when_there_is_room(Way::Quota).await;
}

#[tokio::test]
async fn what_is_said_while_the_disk_is_full_is_answered_once_when_there_is_room() {
    is_answered_once_when_there_is_room(Way::Mount).await;
}

async fn is_answered_once_when_there_is_room(way: Way) {
    let Some((mut scene, disk)) = on_a_small_disk(way).await else { return };
    scene.model.on(|request| {
        let asked = is_coordinator(request) && request.last_user_text().contains("[first]");
        asked.then(|| Reply::text("Answer to [first]."))
    });
    scene.ask("!story Before").await;
    let send = ["mail", "send", "--to", "coder-1", "--subject", "s", "--body", "Before"];
    scene.musher.call(&send).await.succeeded();

    disk.fill(&scene.musher);
    let (more, refused) = send_until_refused(&scene.musher).await;
    let sent = 1 + more;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("cannot be written"), "{refused:?}");
    assert!(refused.stderr.contains("disk"), "{refused:?}");
    if let Disk::Own(_) = disk {
        assert!(refused.stderr.contains("is full; make room"), "{refused:?}");
    }
    scene.say("!story During").await;
    scene.say("are you there? [first]").await;
    if let Disk::Own(_) = disk {
        scene.musher.wait_for_log("is full").await;
    }
    // Reading needs no room; and it is still there to be asked.
    assert_eq!(scene.items().await.len(), 1);
    assert!(scene.musher.is_running());

    disk.free(&scene.musher);
    scene.hear_all(&["During", "Answer to [first]"]).await;
    let said = scene.said_until_now().await;
    for part in ["Before", "During", "Answer to [first]"] {
        let answers = said.iter().filter(|event| event.body().contains(part)).count();
        assert_eq!(answers, 1, "answers with {part}\n{}", scene.ann.print().await);
    }
    assert_eq!(scene.items().await.len(), 2);
    assert_eq!(letters(&scene.musher).await, sent, "what was acknowledged, and nothing else");

    // It ends in order on a full disk too, and comes back.
    disk.fill(&scene.musher);
    send_until_refused(&scene.musher).await;
    let status = scene.musher.stop().await;
    assert!(status.success(), "{status}\n{}", scene.musher.log_tail());
    if let Disk::Own(_) = disk {
        disk.free(&scene.musher);
    }
    scene.musher.start();
    scene.ask("!status").await;
    assert_eq!(scene.items().await.len(), 2);
}

#[tokio::test]
async fn work_that_meets_a_quota_goes_on_when_there_is_room() {
    work_goes_on_when_there_is_room(Way::Quota).await;
}

#[tokio::test]
async fn work_that_meets_a_full_disk_goes_on_when_there_is_room() {
    work_goes_on_when_there_is_room(Way::Mount).await;
}

async fn work_goes_on_when_there_is_room(way: Way) {
    let Some((scene, disk)) = on_a_small_disk(way).await else { return };
    let mut held = None;
    scene.model.on({
        let (reply, hold) = Reply::text("Done.").held();
        held.replace(hold);
        move |request| {
            if !is_agent(request) {
                return None;
            }
            Some(match request.answers_since_person() {
                0 => shell(
                    request,
                    "echo made > calculator.txt && git add -A && git commit -qm Work",
                ),
                1 => report(request, "It is written and committed."),
                _ => reply.clone(),
            })
        }
    });
    scene.ask("!story Add a calculator").await;
    scene.say("!start 1").await;
    scene.model.wait_for_requests(3, is_agent).await;

    disk.fill(&scene.musher);
    send_until_refused(&scene.musher).await;
    held.unwrap().release();
    // What the agent says cannot be kept, so its turn does not end.
    match disk {
        Disk::Own(_) => drop(scene.musher.wait_for_log("cannot be written").await),
        // The log is a file that meets the quota, too.
        Disk::Limited => {
            for _ in 0..10 {
                assert_eq!(scene.items().await[0]["stage"], "coding");
            }
        }
    }
    let stage = scene.items().await[0]["stage"].clone();
    assert_eq!(stage, "coding");

    disk.free(&scene.musher);
    scene.hear("erged").await;
    scene.assert_landed_once(1, "Add a calculator", "calculator.txt").await;
    let said = scene.said_until_now().await;
    let merged = said.iter().filter(|event| event.body().contains("erged")).count();
    assert_eq!(merged, 1, "{}", scene.ann.print().await);
}
