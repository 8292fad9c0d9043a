//! Whoever is not on the list has no effect, whatever they do.

use crate::support::event::Message;
use crate::support::model_server::{ModelServer, Reply};
use crate::support::musher::Musher;
use crate::support::person::Person;
use crate::support::repository::Repository;
use crate::support::scene::items;
use crate::support::synapse::Synapse;

#[tokio::test]
async fn a_stranger_has_no_effect() {
    let server = Synapse::shared().await;
    let model = ModelServer::start().await;
    model.always(|_| true, Reply::text("the model was asked"));
    let repository = Repository::new("shop");
    let (ann, eve) = (Person::new(server, "ann").await, Person::new(server, "eve").await);
    let mut musher = Musher::new(server, &model).await;
    musher.allow_admin(&ann.id).project(&repository).built_in_agent("coder-1");
    musher.start();

    // An invite before any other, and one to a room that Ann is in as well.
    let trap = eve.direct_room(&musher.id).await;
    let room = ann.direct_room(&musher.id).await;
    musher.wait_until_greeting(&ann, &room).await;
    let office = ann.group_room("office", &[&eve.id, &musher.id]).await;
    musher.wait_until_greeting(&ann, &office).await;
    eve.accept_invite(&office).await;
    assert_ne!(eve.membership(&trap, &musher.id).await, "join", "a stranger's invite");

    let filed = musher.ask(&ann, &room, "!story Something to start").await;
    ann.say(&office, "!status").await;
    let board = ann.next_message(&office, &musher.id).await;

    let hello = Message::text("musher: start 1").mention(&musher.id);
    eve.say(&office, hello.clone()).await;
    eve.say(&office, Message::text("!start 1")).await;
    eve.say(&office, Message::text("!story Steal the secrets")).await;
    eve.say(&office, Message::text("go on").reply_to(&board.id).mention(&musher.id)).await;
    eve.say(&office, Message::text("and here?").in_thread(&board.id).mention(&musher.id)).await;
    for key in ["✅", "👍", "🔁", "🛑"] {
        eve.react(&office, &board.id, key).await;
    }
    eve.say(&trap, hello).await;
    eve.say(&office, Message::text("!stop all")).await;

    // Ann's command comes after all that, so it was all read when it is answered.
    ann.say(&office, "!version").await;
    ann.wait_for_text(&office, &musher.id, env!("CARGO_PKG_VERSION")).await;
    let said = ann.messages_of(&office, &musher.id).await;
    assert_eq!(said.len(), 3, "a hello, and only Ann was answered\n{}", ann.print().await);
    assert_eq!(ann.messages_of(&room, &musher.id).await.len(), 2, "{}", filed.body());
    let reactions = ann
        .events()
        .await
        .iter()
        .filter(|e| e.reaction().is_some() && e.sender == musher.id)
        .count();
    assert_eq!(reactions, 0, "no acknowledgement either");
    let read = |event: &crate::support::event::Event| event.is_receipt_of(&musher.id, &board.id);
    assert!(!eve.events().await.iter().any(|event| event.room == trap && read(event)));

    let items = items(&musher).await;
    assert_eq!(items.len(), 1, "{items:?}");
    assert_eq!(items[0]["stage"], "backlog");
    assert!(model.requests().is_empty(), "{}", model.print());
    assert_ne!(eve.membership(&trap, &musher.id).await, "join");
}

#[tokio::test]
async fn a_room_that_is_not_listed_is_not_entered() {
    let server = Synapse::shared().await;
    let model = ModelServer::start().await;
    let ann = Person::new(server, "ann").await;
    let listed = ann.group_room("listed", &[]).await;
    let other = ann.group_room("other", &[]).await;
    let mut musher = Musher::new(server, &model).await;
    musher.allow_admin(&ann.id).set("/matrix/allowed_rooms", serde_json::json!([listed]));
    musher.start();
    ann.invite(&other, &musher.id).await;
    ann.invite(&listed, &musher.id).await;
    musher.wait_until_greeting(&ann, &listed).await;
    musher.ask(&ann, &listed, "!version").await;
    assert_ne!(ann.membership(&other, &musher.id).await, "join");
}
