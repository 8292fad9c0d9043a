use super::*;

fn myself() -> Myself {
    Myself {
        user_id: "@musher:hs".to_owned(),
        display_name: Some("Team Musher".to_owned()),
        prefix: "!".to_owned(),
    }
}

#[test]
fn in_a_room_of_many_a_message_is_for_the_bot_when_it_says_so() {
    for (body, addressed, text) in [
        ("hello all", false, "hello all"),
        ("!status", true, "!status"),
        ("  !status 3 ", true, "!status 3"),
        ("! wait", false, "! wait"),
        ("!!!", false, "!!!"),
        ("well !status", false, "well !status"),
        ("/status", false, "/status"),
        ("@musher:hs: status", true, "status"),
        ("@musher:hs status", true, "status"),
        ("@musher:hs.evil status", false, "@musher:hs.evil status"),
        ("@musher status", true, "status"),
        ("musher: status", true, "status"),
        ("Musher, what is up?", true, "what is up?"),
        ("musher dogs are fast", false, "musher dogs are fast"),
        ("mushers: unite", false, "mushers: unite"),
        ("Team Musher: status", true, "status"),
        ("team musher status", true, "status"),
        ("@Team Musher status", true, "status"),
        ("Team Mushers rule", false, "Team Mushers rule"),
        ("Team Musher", true, "Team Musher"),
        ("I asked Team Musher already", false, "I asked Team Musher already"),
        ("[Team Musher](https://matrix.to/#/@musher:hs): go", true, "go"),
        ("[x](https://matrix.to/#/@other:hs): go", false, "[x](https://matrix.to/#/@other:hs): go"),
        ("", false, ""),
        ("ÄÖ", false, "ÄÖ"),
    ] {
        let found = decide(&Facts { body, ..Facts::default() }, &myself());
        assert_eq!(found, Addressing { addressed, text: text.to_owned() }, "of {body:?}");
    }
}

#[test]
fn each_of_the_other_facts_alone_makes_it_for_the_bot() {
    let facts = Facts { body: "hello", ..Facts::default() };
    assert!(!decide(&facts, &myself()).addressed);
    for facts in [
        Facts { direct: true, ..facts.clone() },
        Facts { ambient: true, ..facts.clone() },
        Facts { own_thread: true, ..facts.clone() },
        Facts { reply_to_bot: true, ..facts.clone() },
        Facts { mentioned: true, ..facts.clone() },
    ] {
        let found = decide(&facts, &myself());
        assert_eq!(found, Addressing { addressed: true, text: "hello".to_owned() }, "{facts:?}");
    }
}

#[test]
fn a_pill_anywhere_is_a_mention_and_a_pill_of_another_is_not() {
    for (html, addressed) in [
        (r#"ask <a href="https://matrix.to/#/@musher:hs">M</a>"#, true),
        (r#"ask <a href='https://matrix.to/#/%40musher%3Ahs'>M</a>"#, true),
        (r#"ask <a href="matrix:u/musher:hs">M</a>"#, true),
        (r#"ask <a href="https://matrix.to/#/@musher:hs.evil">M</a>"#, false),
        (r#"ask <a href="https://matrix.to/#/@musher2:hs">M</a>"#, false),
        ("ask @musher:hs", false),
    ] {
        let facts = Facts { body: "ask M", formatted_body: Some(html), ..Facts::default() };
        assert_eq!(decide(&facts, &myself()).addressed, addressed, "of {html}");
    }
}

#[test]
fn the_name_is_cut_off_in_a_direct_room_too() {
    let facts = Facts { direct: true, body: "musher: !status", ..Facts::default() };
    assert_eq!(decide(&facts, &myself()).text, "!status");
}
