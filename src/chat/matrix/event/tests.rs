use super::*;
use proptest::prelude::*;
use serde_json::json;

fn read_kind(event_type: &str, content: Value) -> Kind {
    let event = json!({
        "event_id": "$1", "sender": "@ann:hs", "origin_server_ts": 1_000,
        "type": event_type, "content": content,
    });
    read(&event).unwrap().kind
}

fn message_of(content: Value) -> Said {
    let kind = read_kind("m.room.message", content);
    let Kind::Message(said) = kind else { panic!("{kind:?}") };
    said
}

#[test]
fn a_message_keeps_its_text_thread_reply_and_mentions() {
    let said = message_of(json!({
        "msgtype": "m.text", "body": "hello", "m.mentions": {"user_ids": ["@bot:hs", 7]},
        "m.relates_to": {"rel_type": "m.thread", "event_id": "$root", "is_falling_back": true,
            "m.in_reply_to": {"event_id": "$last"}},
    }));
    let expected = Said {
        body: "hello".to_owned(),
        mentions: vec!["@bot:hs".to_owned()],
        thread: Some("$root".into()),
        ..Said::default()
    };
    assert_eq!(said, expected);
    let said = message_of(json!({
        "msgtype": "m.text", "body": "> <@b:hs> one\n> two\n\nyes", "format": "org.matrix.custom.html",
        "formatted_body": "<mx-reply><a href=\"https://matrix.to/#/@bot:hs\">b</a></mx-reply>yes",
        "m.relates_to": {"m.in_reply_to": {"event_id": "$q"}},
    }));
    assert_eq!(said.body, "yes");
    assert_eq!(said.formatted_body.as_deref(), Some("yes"));
    assert_eq!(said.reply_to, Some("$q".into()));
}

#[test]
fn a_quote_that_a_person_typed_stays() {
    let quoted = "> they said\n\nno";
    assert_eq!(message_of(json!({"msgtype": "m.text", "body": quoted})).body, quoted);
}

#[test]
fn notices_and_what_was_redacted_are_no_messages() {
    for content in [
        json!({"msgtype": "m.notice", "body": "I am a bot"}),
        json!({"msgtype": "m.key.verification.request", "body": "x"}),
        json!({}),
        json!({"body": "no type"}),
        json!({"msgtype": "m.notice", "body": "* x", "m.new_content": {"msgtype": "m.notice", "body": "x"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": "$0"}}),
    ] {
        assert_eq!(read_kind("m.room.message", content.clone()), Kind::Other, "{content}");
    }
}

#[test]
fn edits_redactions_and_reactions_name_their_message() {
    let edit = read_kind(
        "m.room.message",
        json!({"msgtype": "m.text", "body": "* new", "m.new_content": {"msgtype": "m.text", "body": "new"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": "$0"}}),
    );
    let said = Said { body: "new".to_owned(), ..Said::default() };
    assert_eq!(edit, Kind::Edit { of: "$0".into(), said });
    assert_eq!(
        read_kind("m.room.redaction", json!({"redacts": "$0"})),
        Kind::Redaction { of: "$0".into() }
    );
    let relation =
        json!({"m.relates_to": {"rel_type": "m.annotation", "event_id": "$0", "key": "✔\u{fe0f}"}});
    assert_eq!(
        read_kind("m.reaction", relation),
        Kind::Reaction { to: "$0".into(), key: "✔".to_owned() }
    );
}

#[test]
fn only_coming_in_counts_as_joining() {
    let member = |prev: Value| {
        let event = json!({
            "event_id": "$1", "sender": "@bot:hs", "type": "m.room.member", "state_key": "@bot:hs",
            "content": {"membership": "join"}, "unsigned": {"prev_content": prev},
        });
        read(&event).unwrap().kind
    };
    let kind = |joined| Kind::Membership { user: "@bot:hs".to_owned(), joined };
    assert_eq!(member(json!({"membership": "invite"})), kind(true));
    assert_eq!(member(Value::Null), kind(true));
    assert_eq!(member(json!({"membership": "join", "displayname": "old"})), kind(false));
}

#[test]
fn an_attachment_is_named_with_its_caption() {
    let said = message_of(json!({
        "msgtype": "m.file", "body": "see this", "filename": "a.log",
        "info": {"mimetype": "text/plain", "size": 12}, "url": "mxc://hs/1",
    }));
    assert_eq!(
        said.body,
        "see this\n[attached: a.log (text/plain, 12 bytes); attachments are not read]"
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![
            "m.text",
            "m.replace",
            "m.thread",
            "$1",
            "@a:b",
            "> q\n\nx",
            "join"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let keys = prop::sample::select(vec![
            "event_id",
            "sender",
            "type",
            "content",
            "msgtype",
            "body",
            "m.relates_to",
            "rel_type",
            "m.new_content",
            "m.in_reply_to",
            "m.mentions",
            "user_ids",
            "state_key",
            "unsigned",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map(keys.prop_map(str::to_owned), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_makes_the_reader_panic(mut event in any_json(), content in any_json()) {
        if let Some(object) = event.as_object_mut() {
            object.insert("event_id".to_owned(), "$1".into());
            object.insert("sender".to_owned(), "@a:b".into());
            object.insert("type".to_owned(), "m.room.message".into());
            object.insert("content".to_owned(), content);
        }
        let _ = read(&event);
    }
}
