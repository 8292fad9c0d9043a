use super::*;
use crate::commands::command::{
    CostOf, MoveTarget, NewProjectArgs, ProjectAction, StatusOf, StopOf,
};
use crate::model::chat::QueueMode;
use crate::model::ids::{ItemId, TimerId};
use crate::model::item::Kind;
use crate::model::stage::MoveTo;

fn names() -> Names {
    Names { agents: vec!["coder-1".into(), "ada".into()], projects: vec!["shop".into()] }
}

fn parse(text: &str, addressed: bool) -> Parsed {
    Registry::builtin().parse(text, "!", addressed, &names())
}

fn story(name: &str, body: &str) -> Command {
    Command::NewItem { kind: Kind::Story, name: name.to_owned(), body: body.to_owned() }
}

#[test]
fn every_spec_has_a_page_and_every_page_a_spec() {
    let registry = Registry::builtin();
    assert_eq!(registry.builtin.len(), SPECS.len());
    assert_eq!(page::embedded().len(), SPECS.len());
}

#[test]
fn no_two_commands_share_a_name() {
    let registry = Registry::builtin();
    let mut names: Vec<&str> = registry.pages().flat_map(Page::names).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn each_example_on_a_page_is_that_command_and_agrees_on_who_may_use_it() {
    let registry = Registry::builtin();
    for (spec, page) in &registry.builtin {
        for example in &page.examples {
            let expected = (spec.read)(
                page.names().find_map(|name| after_name(example, name)).unwrap_or_else(|| {
                    panic!("`{example}` does not begin with a name of {}", page.name)
                }),
            )
            .unwrap_or_else(|problem| panic!("`{example}`: {problem}"));
            let parsed = parse(&format!("!{example}"), false);
            assert_eq!(parsed, Parsed::Command(expected.clone()), "{example}");
            if spec.name != "stop" {
                assert_eq!(expected.is_administrative(), page.admin, "{example}");
            }
        }
    }
}

#[test]
fn a_command_is_recognised_with_prefix_slash_or_alone() {
    let story = |name| story(name, "");
    for (text, expected) in [
        ("!status", Command::Status(StatusOf::Here)),
        ("/status", Command::Status(StatusOf::Here)),
        ("status", Command::Status(StatusOf::Here)),
        ("  Status?  ", Command::Status(StatusOf::Here)),
        ("status all", Command::Status(StatusOf::All)),
        ("status #12", Command::Status(StatusOf::Item(ItemId(12)))),
        ("!board", Command::Status(StatusOf::Here)),
        ("stop", Command::Stop(StopOf::Session)),
        ("STOP!", Command::Stop(StopOf::Session)),
        ("stop all", Command::Stop(StopOf::All)),
        ("stop 3.", Command::Stop(StopOf::Item(ItemId(3)))),
        ("help", Command::Help { topic: None }),
        ("!?", Command::Help { topic: None }),
        ("help status", Command::Help { topic: Some("status".to_owned()) }),
        ("resume all", Command::ResumeAll),
        ("cost week", Command::Cost(CostOf::Week)),
        ("cost 4", Command::Cost(CostOf::Item(ItemId(4)))),
        ("logs 4", Command::Logs { item: ItemId(4), lines: 30 }),
        ("logs 4 100000", Command::Logs { item: ItemId(4), lines: 200 }),
        ("mail ada", Command::Mail { agent: Some("ada".into()) }),
        ("!mail nobody", Command::Mail { agent: Some("nobody".into()) }),
        ("!story Add a calculator", story("Add a calculator")),
        ("!story: Add a calculator", story("Add a calculator")),
        ("story: Add a calculator", story("Add a calculator")),
        ("!new story Add a calculator", story("Add a calculator")),
        ("!new item Add a calculator", story("Add a calculator")),
        ("new item: Add a calculator", story("Add a calculator")),
        ("start 1", Command::Start { item: ItemId(1), agent: None }),
        ("start 1 ada", Command::Start { item: ItemId(1), agent: Some("ada".into()) }),
        ("move 3 to qa", Command::Move { item: ItemId(3), to: MoveTarget::Stage(MoveTo::Qa) }),
        ("depends 3 on 1, 2", Command::Depends { item: ItemId(3), on: vec![ItemId(1), ItemId(2)] }),
        ("assign 3 none", Command::Assign { item: ItemId(3), agent: None }),
        ("priority 3 -5", Command::Priority { item: ItemId(3), priority: -5 }),
        ("delete 3", Command::Delete { item: ItemId(3), confirmed: false }),
        ("delete 3 --confirm", Command::Delete { item: ItemId(3), confirmed: true }),
        ("switch shop", Command::Switch("shop".into())),
        (
            "project stop shop",
            Command::Project { name: "shop".into(), action: ProjectAction::Stop },
        ),
        (
            "project remove shop --confirm",
            Command::Project {
                name: "shop".into(),
                action: ProjectAction::Remove { confirmed: true },
            },
        ),
        ("timer cancel 3", Command::TimerCancel(TimerId(3))),
        ("queue steer", Command::Queue(QueueMode::Steer)),
        ("ambient on", Command::Ambient(true)),
        ("rebuild --pull", Command::Rebuild { pull: true, now: false }),
        (
            "new project shop --host-only --git=https://x/y.git",
            Command::NewProject(NewProjectArgs {
                name: "shop".to_owned(),
                git: Some("https://x/y.git".to_owned()),
                host_only: true,
                ..NewProjectArgs::default()
            }),
        ),
    ] {
        assert_eq!(parse(text, true), Parsed::Command(expected), "{text}");
    }
}

#[test]
fn free_text_is_taken_as_it_is() {
    assert_eq!(
        parse("tell ada don't `stop` \"now\"\nplease", true),
        Parsed::Command(Command::Tell {
            agent: "ada".into(),
            text: "don't `stop` \"now\"\nplease".to_owned()
        })
    );
    assert_eq!(
        parse("!story Add a page\n\nwith *two* lines\nand more", false),
        Parsed::Command(story("Add a page", "with *two* lines\nand more"))
    );
    let reminder = |text: &str| Parsed::Command(Command::Remind { text: text.to_owned() });
    assert_eq!(parse("remind me in 2h to stretch", true), reminder("me in 2h to stretch"));
    assert_eq!(
        parse("remind @sam:hs tomorrow 9:00 to call", true),
        reminder("@sam:hs tomorrow 9:00 to call")
    );
}

#[test]
fn a_sentence_that_merely_begins_with_a_commands_name_is_talk() {
    for text in [
        "status of the shop page is odd",
        "statuses",
        "help me",
        "help me with the build please",
        "stop that nonsense",
        "stop the server and then start it again",
        "start the server",
        "show me the diff",
        "why is the page red?",
        "mail the report to bob",
        "mail bob",
        "tell me about the shop",
        "story of my life",
        "bug in the page",
        "new item on the board looks odd",
        "switch back",
        "remind me what we decided",
        "remind yourself",
        "cost is no object",
        "diff looks good",
        "reset the page counter",
        "new project for my shop",
        "status\nall",
        "/srv/shop is odd",
        "/foo",
        "!!!",
        "! no",
        "!",
        "",
        "hello",
    ] {
        assert_eq!(parse(text, true), Parsed::Talk, "{text}");
    }
}

#[test]
fn nothing_but_our_prefix_makes_a_command_of_what_is_not_for_us() {
    for text in ["status", "/status", "stop", "story: x", "!nonsense"] {
        assert_eq!(parse(text, false), Parsed::Talk, "{text}");
    }
    assert_eq!(parse("!status", false), Parsed::Command(Command::Status(StatusOf::Here)));
}

#[test]
fn an_unknown_command_suggests_the_nearest() {
    for (text, nearest) in [
        ("!statsu", Some("status")),
        ("!stauts 12", Some("status")),
        ("!resume", Some("resume all")),
        ("!new projekt x", Some("new project")),
        ("!xyzzy", None),
    ] {
        let Parsed::Unknown { nearest: found, .. } = parse(text, true) else {
            panic!("{text}");
        };
        assert_eq!(found.as_deref(), nearest, "{text}");
    }
}

#[test]
fn a_misused_command_is_told_what_is_missing_and_how_to_use_it() {
    for (text, expected) in [
        ("!start", "the item's number is missing"),
        ("!start x", "`x` is not an item's number"),
        ("!start 0", "`0` is not an item's number"),
        ("!start 99999999999999999999", "is not an item's number"),
        ("!start 1 ada now please", "I do not know what `now please` means here"),
        ("!story", "the story's name is missing"),
        ("!move 3", "name a stage: upcoming, backlog"),
        ("!move 3 done", "nobody can move an item to `done`; the stages are upcoming"),
        ("!depends 3 7", "write `on`"),
        ("!tell ada", "say what to tell ada"),
        ("!reject 3", "say why"),
        ("!new project", "the project's name is missing"),
        ("!new project x --stack", "`--stack` wants a value"),
        ("!new project x --fast", "`--fast` is no option here"),
        ("!ambient maybe", "say `on` or `off`"),
        ("!queue", "say `collect`, `steer` or `interrupt`"),
        ("!delete 3 please", "I do not know what `please` means"),
    ] {
        let Parsed::Misused { answer } = parse(text, true) else {
            panic!("{text}: {:?}", parse(text, true));
        };
        assert!(answer.contains(expected), "{text}: {answer}");
        assert!(answer.contains("Usage: `"), "{text}: {answer}");
    }
}

#[test]
fn own_pages_reword_help_and_add_prompt_commands_but_take_no_names() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("bot-commands");
    std::fs::create_dir(&pages).unwrap();
    let put = |name: &str, text: &str| std::fs::write(pages.join(name), text).unwrap();
    put("status.md", "---\nname: status\nsummary: das Brett\nwho: admin\n---\nZeigt das Brett.");
    put("review.md", "---\nname: review\nsummary: looks\n---\nReview $1 with care.");
    put("st.md", "---\nname: st\n---\nx");
    put("bad.md", "hello");
    let (registry, problems) = Registry::load(Some(dir.path()));
    let status = registry.find_page("status").unwrap();
    assert_eq!((status.summary.as_str(), status.admin), ("das Brett", false));
    assert_eq!(
        registry.parse("!review src now", "!", true, &names()),
        Parsed::Prompt { text: "Review src with care.".to_owned() }
    );
    assert_eq!(registry.parse("review src now", "!", true, &names()), Parsed::Talk);
    assert_eq!(problems.len(), 2, "{problems:?}");
}
