use super::*;
use crate::clock::Clock;
use crate::config::Config;
use crate::model::ids::TurnId;
use crate::store::Store;

const CONFIG: &str = r#"
[matrix]
homeserver = "https://hs"
user_id = "@musher:hs"
allowed_users = ["@you:hs", "*:friends"]
allowed_rooms = ["*"]
[llm]
provider = "replay"
[[projects]]
name = "shop"
path = "/shop"
[[agents]]
name = "coder-1"
role = "coder"
runtime = "api"
[[agents]]
name = "coder-2"
role = "coder"
runtime = "api"
projects = ["other"]
[[agents]]
name = "qa-1"
role = "qa"
runtime = "api"
"#;

struct Desk {
    _dir: tempfile::TempDir,
    store: Store,
    directory: Directory,
}

fn desk() -> Desk {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    let directory = Directory::new(&toml::from_str::<Config>(CONFIG).unwrap());
    Desk { _dir: dir, store, directory }
}

impl Desk {
    fn send(&self, mail: NewMail) -> Result<Vec<Mail>, MailError> {
        let directory = self.directory.clone();
        self.store.write_blocking(move |tx| {
            let ids = send(tx, &directory, mail)?;
            ids.into_iter().map(|id| rows::find(tx, id)?.ok_or(MailError::NotFound(id))).collect()
        })
    }

    fn recipients(&self, from: &str, to: &str) -> Result<Vec<String>, String> {
        let sent = self.send(NewMail::new(from, to, "hello", "body"));
        sent.map(|mails| mails.into_iter().map(|mail| mail.to).collect())
            .map_err(|error| error.to_string())
    }

    fn count(&self) -> i64 {
        let count = self.store.read_blocking(|conn| {
            Ok::<i64, StoreError>(conn.query_row("SELECT count(*) FROM mail", [], |r| r.get(0))?)
        });
        count.unwrap()
    }
}

#[test]
fn an_address_is_one_recipient_or_a_group_without_the_sender() {
    let desk = desk();
    for (from, to, expected) in [
        ("coordinator", "coder-1", vec!["coder-1"]),
        ("coder-1", "coordinator", vec!["coordinator"]),
        ("coder-1", "@all", vec!["coder-2", "qa-1"]),
        ("coordinator", "@coders", vec!["coder-1", "coder-2"]),
        ("coder-1", "@qa", vec!["qa-1"]),
        ("qa-1", "@project:shop", vec!["coder-1"]),
    ] {
        assert_eq!(desk.recipients(from, to).unwrap(), expected, "{from} to {to}");
    }
    let before = desk.count();
    for (from, to, reason) in [
        ("coordinator", "coder-11", "did you mean `coder-1`?"),
        ("coordinator", "nobody", "nobody is called `nobody`"),
        ("coordinator", "@mergers", "no one"),
        ("qa-1", "@qa", "no one"),
        ("coordinator", "@project:nix", "no project `nix`"),
        ("coordinator", "@stranger:hs", "nobody is called `@stranger:hs`"),
        ("coordinator", "@you:hs", "no room is known"),
    ] {
        let error = desk.recipients(from, to).unwrap_err();
        assert!(error.contains(reason), "{from} to {to}: {error}");
    }
    assert_eq!(desk.count(), before, "a refusal writes nothing");
}

#[test]
fn a_message_that_does_not_fit_is_refused_with_the_reason() {
    let desk = desk();
    let mail = || NewMail::new("coordinator", "coder-1", "hello", "body");
    for (mail, reason) in [
        (NewMail { subject: "  ".into(), ..mail() }, "subject is empty"),
        (NewMail { subject: "a\nb".into(), ..mail() }, "one line"),
        (NewMail { body: "x".repeat(MAX_BODY_BYTES + 1), ..mail() }, "262145 bytes"),
        (NewMail { kind: MailType::Merged, ..mail() }, "it wants {\"item\", \"commit\"}"),
        (NewMail { item: Some(ItemId(9)), ..mail() }, "no item 9"),
        (NewMail { reply_to: Some(MailId(9)), ..mail() }, "no mail 9"),
    ] {
        let error = desk.send(mail).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(desk.count(), 0);
    desk.send(NewMail { body: "x".repeat(MAX_BODY_BYTES), ..mail() }).unwrap();
}

#[test]
fn a_reply_keeps_the_thread_and_never_inherits_a_protocol_type() {
    let desk = desk();
    let question = NewMail {
        kind: MailType::HealthCheck,
        ..NewMail::new("coordinator", "coder-1", "alive?", "")
    };
    let first = desk.send(question).unwrap().remove(0);
    let directory = desk.directory.clone();
    let id = first.id;
    let answer = desk.store.write_blocking(move |tx| {
        let answer = Reply {
            to_mail: id,
            from: "coder-1".into(),
            body: "yes".into(),
            to: None,
            subject: None,
            kind: None,
            priority: None,
            payload: None,
        };
        let id = reply(tx, &directory, answer)?.remove(0);
        rows::find(tx, id)?.ok_or(MailError::NotFound(id))
    });
    let answer = answer.unwrap();
    assert_eq!((answer.thread_id, answer.to.as_str()), (first.thread_id, "coordinator"));
    assert_eq!((answer.subject.as_str(), answer.kind), ("Re: alive?", MailType::Status));
    let original = desk.store.read_blocking(|conn| rows::find(conn, first.id)).unwrap().unwrap();
    assert!(original.read_at.is_some(), "who answers has read");
}

#[test]
fn mail_to_a_person_is_posted_in_a_room_and_known_by_its_message() {
    let desk = desk();
    desk.store
        .write_blocking(|tx| {
            tx.execute("INSERT INTO rooms (room, joined_at) VALUES ('!r:hs', 1)", [])?;
            Ok::<(), StoreError>(())
        })
        .unwrap();
    let sent = desk.send(NewMail::new("coder-1", "@anna:friends", "Which port?", "80 or 81"));
    let id = sent.unwrap()[0].id;
    desk.store
        .write_blocking(move |tx| {
            let posted: String = tx.query_row(
                "SELECT outgoing FROM outbox WHERE room = '!r:hs' AND dedup = 'mail:' || ?1",
                [id],
                |row| row.get(0),
            )?;
            assert!(posted.contains("Which port?") && posted.contains("@anna:friends"));
            tx.execute("UPDATE outbox SET sent_key = '$event'", [])?;
            assert_eq!(rows::of_message(tx, &"$event".into())?, Some(id));
            assert_eq!(rows::of_message(tx, &"$other".into())?, None);
            Ok::<(), StoreError>(())
        })
        .unwrap();
    let claimed = desk.store.write_blocking(|tx| rows::claim(tx, "coder-1", TurnId(1), 1));
    assert!(claimed.unwrap().mails.is_empty());
}

#[test]
fn terminal_mail_of_an_agent_is_its_report_and_only_on_that_item() {
    let desk = desk();
    let directory = desk.directory.clone();
    let outcome = desk.store.write_blocking(move |tx| {
        for _ in 0..2 {
            tx.execute(
                "INSERT INTO items (project, kind, name, qa, origin, stage, stage_name, col,
                                    badge, created_at, updated_at)
                 VALUES ('p', 'story', 'x', 'gates', '{}', '{}', 'coding', 'coding', 'active',
                         0, 0)",
                [],
            )
            .map_err(StoreError::from)?;
        }
        let agent = "coder-1".into();
        for (kind, to) in [(MailType::Status, "coordinator"), (MailType::QaPassed, "coordinator")] {
            let mail = NewMail::new("coder-1", to, "so far", "so good");
            let mail = NewMail { kind, item: Some(ItemId(1)), ..mail };
            send_reporting(tx, &directory, mail, None)?;
            let report = crate::store::agents::newest_report(tx, &agent, ItemId(1))?;
            assert!(report.is_none(), "{kind:?} is no coder's report");
        }
        let mail = NewMail::new("coder-1", "coordinator", "done", "added the calculator");
        let mail = NewMail { kind: MailType::WorkerDone, item: Some(ItemId(1)), ..mail };
        send_reporting(tx, &directory, mail, None)?;
        let find = |item| crate::store::agents::newest_report(tx, &agent, ItemId(item));
        Ok::<_, MailError>((find(1)?, find(2)?))
    });
    let (first, second) = outcome.unwrap();
    assert_eq!(first.unwrap().summary, "added the calculator");
    assert!(second.is_none());
}
