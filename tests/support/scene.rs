//! Where most stories begin: Ann, in a direct room with a running Musher, and a repository.

use serde_json::Value;

use super::event::Event;
use super::model_server::{ModelServer, Reply, Request};
use super::musher::Musher;
use super::person::Person;
use super::repository::Repository;
use super::synapse::Synapse;
use super::unique;

/// A gate that notes the tree it ran on, so that a story can prove what was tested.
const NOTING_GATE: &str = "git add -A && git write-tree >> \"$(git rev-parse --git-common-dir)/tested\"\n\
                           test ! -e broken || { echo 'there is a file: broken'; exit 1; }\n";

/// The people and things of a story.
#[derive(Debug)]
pub struct Scene {
    pub musher: Musher,
    pub model: ModelServer,
    pub ann: Person,
    /// Ann's direct room with Musher, not encrypted.
    pub room: String,
    /// The project `shop`.
    pub repository: Repository,
}

impl Scene {
    /// Ann may administer; the project is `shop`; there are no agents.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// As [`Scene::new`], with more in the configuration before Musher starts.
    pub async fn with(adjust: impl FnOnce(&mut Musher)) -> Self {
        Self::on(Synapse::shared().await, Repository::with_gate("shop", NOTING_GATE), adjust).await
    }

    /// As [`Scene::with`], on this homeserver, with this repository as its project.
    pub async fn on(
        server: &Synapse,
        repository: Repository,
        adjust: impl FnOnce(&mut Musher),
    ) -> Self {
        let model = ModelServer::start().await;
        let ann = Person::new(server, "ann").await;
        let mut musher = Musher::new(server, &model).await;
        musher.allow_admin(&ann.id).project(&repository);
        adjust(&mut musher);
        musher.start();
        let room = musher.room_with(&ann).await;
        Self { musher, model, ann, room, repository }
    }

    /// Ann says something, and waits for Musher's next message.
    pub async fn ask(&self, text: &str) -> Event {
        self.musher.ask(&self.ann, &self.room, text).await
    }

    /// Ann says something.
    pub async fn say(&self, text: &str) -> String {
        self.ann.say(&self.room, text).await
    }

    /// Waits until Musher says something with `part` in it.
    pub async fn hear(&self, part: &str) -> Event {
        self.ann.wait_for_text(&self.room, &self.musher.id, part).await
    }

    /// Waits until each of `parts` stands in something that Musher has said, be it in one message.
    pub async fn hear_all(&self, parts: &[&str]) {
        loop {
            let said = self.said().await;
            let heard = |part: &&str| said.iter().any(|event| event.body().contains(part));
            if parts.iter().all(heard) {
                return;
            }
            self.ann.next_message(&self.room, &self.musher.id).await;
        }
    }

    /// What Musher has said so far after its hello, edits left out.
    pub async fn said(&self) -> Vec<Event> {
        self.ann.messages_of(&self.room, &self.musher.id).await.split_off(1)
    }

    /// Everything that Musher said before its answer to a command that Ann gives now.
    ///
    /// The command (there is none of that name) is the marker for "nothing more comes": what stood in the outbox is sent first.
    pub async fn said_until_now(&self) -> Vec<Event> {
        let marker = unique("marker");
        self.say(&format!("!{marker}")).await;
        self.hear(&marker).await;
        let mut said = self.said().await;
        let place = said.iter().position(|event| event.body().contains(&marker));
        said.truncate(place.unwrap());
        said
    }

    /// The items of the board, as `musher status --json` prints them.
    pub async fn items(&self) -> Vec<Value> {
        items(&self.musher).await
    }

    /// The trees that the noting gate was run on.
    pub fn tested_trees(&self) -> Vec<String> {
        let notes = self.repository.path.join(".git/tested");
        let notes = std::fs::read_to_string(notes).unwrap_or_default();
        notes.lines().map(str::to_owned).collect()
    }

    /// Fails unless `main` is what it was plus one squash commit that passed the gate, the
    /// person's checkout is clean and up to date, and nothing is left of the work.
    pub async fn assert_landed_once(&self, item: u32, subject: &str, file: &str) {
        assert_landed_once(&self.repository, item, subject, file);
        let tree = self.repository.git(&["rev-parse", "main^{tree}"]);
        assert!(self.tested_trees().contains(&tree), "the tree on main was not tested as it is");
        self.musher.assert_no_agent_left().await;
    }
}

/// The part of [`Scene::assert_landed_once`] that concerns the repository.
pub fn assert_landed_once(repository: &Repository, item: u32, subject: &str, file: &str) {
    let subjects = repository.subjects("main");
    assert_eq!(subjects.len(), 2, "{subjects:?}");
    assert_eq!(subjects[0], format!("{item} story {subject}"));
    assert_eq!(repository.git(&["rev-list", "--merges", "--count", "main"]), "0");
    assert!(repository.show("main", file).is_some(), "{file} is not on main");
    assert!(repository.path.join(file).exists(), "{file} is not in the checkout");
    assert!(repository.is_clean(), "{}", repository.git(&["status"]));
    assert_eq!(repository.git(&["symbolic-ref", "--short", "HEAD"]), "main");
}

/// The items of all projects, as `musher status --json` prints them.
pub async fn items(musher: &Musher) -> Vec<Value> {
    let status = musher.call(&["status", "--json"]).await.succeeded().json();
    let projects = status["projects"].as_array().cloned().unwrap_or_default();
    projects.iter().flat_map(|p| p["items"].as_array().cloned().unwrap_or_default()).collect()
}

/// Whether an agent (a CLI or the built-in one) asks, not the coordinator.
pub fn is_agent(request: &Request) -> bool {
    report_tool(request).is_some()
}

/// Whether the coordinator asks.
pub fn is_coordinator(request: &Request) -> bool {
    request.is_musher() && request.offers("item_create")
}

/// What the tool for reporting is called in this runtime: CLIs put a prefix before it.
fn report_tool(request: &Request) -> Option<String> {
    request.tools().into_iter().find(|tool| tool.ends_with("report_done")).map(str::to_owned)
}

/// A call of the shell, by whatever name this runtime has it.
pub fn shell(request: &Request, line: &str) -> Reply {
    let (tool, input) = if request.is_claude_code() {
        ("Bash", serde_json::json!({"command": line, "description": "Work"}))
    } else if request.is_codex() {
        ("exec_command", serde_json::json!({"cmd": line}))
    } else {
        ("shell", serde_json::json!({"command": line}))
    };
    assert!(request.offers(tool), "no {tool} among {:?}", request.tools());
    Reply::call(tool, input)
}

/// The report that ends an agent's work.
pub fn report(request: &Request, summary: &str) -> Reply {
    let tool = report_tool(request).expect("agents can report");
    Reply::call(&tool, serde_json::json!({"summary": summary}))
}

/// Any agent whose item has `name` writes `file`, commits it, reports, and says that it is done.
pub fn agents_write(model: &ModelServer, name: &str, file: &str) {
    let (name, file) = (name.to_owned(), file.to_owned());
    model.on(move |request| {
        if !is_agent(request) || !request.mentions(&name) {
            return None;
        }
        Some(match request.answers_since_person() {
            0 => {
                shell(request, &format!("echo made > {file} && git add -A && git commit -qm Work"))
            }
            1 => report(request, "It is written and committed."),
            _ => Reply::text("Done."),
        })
    });
}
