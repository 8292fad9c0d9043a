//! A command as parsed: what handlers get instead of text.

use crate::agents::asks::Permit;
use crate::model::chat::QueueMode;
use crate::model::ids::{AgentName, ItemId, ProjectName, RequestId, TimerId};
use crate::model::item::{Kind, QaMode};
use crate::model::stage::MoveTo;

/// A parsed and validated chat command. Handlers never look at message text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `help [COMMAND]`
    Help {
        /// The command to explain; `None` lists them all.
        topic: Option<String>,
    },
    /// `status [N|all]`
    Status(StatusOf),
    /// `show N`
    Show(ItemId),
    /// `why N`
    Why(ItemId),
    /// `agents`
    Agents,
    /// `logs N [LINES]`
    Logs {
        /// The item.
        item: ItemId,
        /// How many events, newest last.
        lines: usize,
    },
    /// `replay N [LINES]`
    Replay {
        /// The item.
        item: ItemId,
        /// How many lines, newest last.
        lines: usize,
    },
    /// `diff N`
    Diff(ItemId),
    /// `mail [AGENT]`
    Mail {
        /// Whose; `None` is everybody's.
        agent: Option<AgentName>,
    },
    /// `cost [N|today|week]`
    Cost(CostOf),
    /// `version`
    Version,
    /// `doctor`
    Doctor,
    /// `git`
    Git,
    /// `unreleased`
    Unreleased,
    /// `run tests [N]`
    RunTests {
        /// The item in whose worktree; `None`: the base branch.
        item: Option<ItemId>,
    },
    /// `worktrees`
    Worktrees,
    /// `worktrees clean --confirm`
    WorktreesClean {
        /// Whether they meant it.
        confirmed: bool,
    },
    /// `whoami`
    Whoami,
    /// `story NAME` and its kin: the first line is the name, the rest the body.
    NewItem {
        /// What sort of work.
        kind: Kind,
        /// Its name.
        name: String,
        /// Its description.
        body: String,
    },
    /// `start N [AGENT]`
    Start {
        /// The item.
        item: ItemId,
        /// Who must take it; `None` is whoever is free.
        agent: Option<AgentName>,
    },
    /// `stop [N|all]`
    Stop(StopOf),
    /// `resume all`
    ResumeAll,
    /// `move N STAGE`
    Move {
        /// The item.
        item: ItemId,
        /// Where to.
        to: MoveTarget,
    },
    /// `depends N on M…`
    Depends {
        /// The item.
        item: ItemId,
        /// All that it waits for.
        on: Vec<ItemId>,
    },
    /// `assign N AGENT`
    Assign {
        /// The item.
        item: ItemId,
        /// Who; `None` unpins.
        agent: Option<AgentName>,
    },
    /// `priority N NUMBER`
    Priority {
        /// The item.
        item: ItemId,
        /// The higher, the sooner.
        priority: i64,
    },
    /// `freeze N`
    Freeze(ItemId),
    /// `unfreeze N`
    Unfreeze(ItemId),
    /// `block N WHY`
    Block {
        /// The item.
        item: ItemId,
        /// For the board.
        why: String,
    },
    /// `unblock N`
    Unblock(ItemId),
    /// `approve N [COMMIT]`
    Approve {
        /// The item.
        item: ItemId,
        /// The commit that they saw, or its beginning; `None`: the one that waits.
        commit: Option<String>,
    },
    /// `reject N WHY`
    Reject {
        /// The item.
        item: ItemId,
        /// For the board.
        why: String,
    },
    /// `allow ID [session]`, `deny ID [WHY]`: what an agent asks to do.
    Permit {
        /// The request.
        request: RequestId,
        /// The decision.
        permit: Permit,
    },
    /// `answer ID TEXT`: to an agent's question.
    Answer {
        /// The request.
        request: RequestId,
        /// The answer.
        text: String,
    },
    /// `abandon N WHY`
    Abandon {
        /// The item.
        item: ItemId,
        /// For the board.
        why: String,
    },
    /// `supersede N by M`
    Supersede {
        /// The item.
        item: ItemId,
        /// The one that replaces it.
        by: ItemId,
    },
    /// `qa N MODE`
    Qa {
        /// The item.
        item: ItemId,
        /// Who decides that its work is good.
        mode: QaMode,
    },
    /// `epic N… of M`
    EpicOf {
        /// The items.
        items: Vec<ItemId>,
        /// Their epic; `None` takes them out.
        epic: Option<ItemId>,
    },
    /// `delete N --confirm`
    Delete {
        /// The item.
        item: ItemId,
        /// Whether they meant it.
        confirmed: bool,
    },
    /// `tell AGENT TEXT`: `text` runs to the end of the message, unparsed.
    Tell {
        /// Who.
        agent: AgentName,
        /// What.
        text: String,
    },
    /// `nudge AGENT [--urgent] [TEXT]`
    Nudge {
        /// Who.
        agent: AgentName,
        /// Whether it comes before others and waits longer.
        urgent: bool,
        /// What; blank: to look at its mail.
        text: String,
    },
    /// `projects`
    Projects,
    /// `switch NAME`
    Switch(ProjectName),
    /// `project info|stop|start|remove NAME`
    Project {
        /// Which.
        name: ProjectName,
        /// What of it.
        action: ProjectAction,
    },
    /// `new project NAME …`
    NewProject(NewProjectArgs),
    /// `remind …`: who, when and what are read by `timers`, which knows the time.
    Remind {
        /// Everything after the word.
        text: String,
    },
    /// `timers`
    Timers,
    /// `timer cancel ID`
    TimerCancel(TimerId),
    /// `ambient on|off`
    Ambient(bool),
    /// `queue collect|steer|interrupt`
    Queue(QueueMode),
    /// `reset`
    Reset,
    /// `retry`
    Retry,
    /// `rebuild [--pull] [--now]`
    Rebuild {
        /// Fetch the newest source first.
        pull: bool,
        /// Do not wait for running answers.
        now: bool,
    },
}

/// What `status` is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusOf {
    /// This room's project.
    Here,
    /// Every project.
    All,
    /// One item, in full.
    Item(ItemId),
}

/// What `stop` stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOf {
    /// The answer that runs in this session, and what waits behind it.
    Session,
    /// An item's agents.
    Item(ItemId),
    /// Everything, until `resume all`.
    All,
}

/// What `cost` sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CostOf {
    /// The day so far, in UTC.
    Today,
    /// The last seven days.
    Week,
    /// One item over its life.
    Item(ItemId),
}

/// Where `move` puts an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveTarget {
    /// Into a stage of the pipeline.
    Stage(MoveTo),
    /// Away, as put away by hand.
    Archived,
    /// Away, as given up.
    Abandoned,
}

impl MoveTarget {
    /// The names as typed, in board order.
    pub const NAMES: &'static str =
        "upcoming, backlog, coding, qa, review_hold, merge, archived, abandoned";

    /// Reads a target as typed.
    pub fn parse(text: &str) -> Option<MoveTarget> {
        match text {
            "archived" => Some(MoveTarget::Archived),
            "abandoned" => Some(MoveTarget::Abandoned),
            "review" => Some(MoveTarget::Stage(MoveTo::ReviewHold)),
            stage => MoveTo::parse(stage).map(MoveTarget::Stage),
        }
    }
}

/// What `project …` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectAction {
    /// Says how it is set up and what it does.
    Info,
    /// Ends its agents, and nothing starts in it.
    Stop,
    /// Lets it go on.
    Start,
    /// Takes it out of the books; its files stay.
    Remove {
        /// `--confirm` was given.
        confirmed: bool,
    },
}

/// What `new project` was told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewProjectArgs {
    /// Its name; checked by `project::bootstrap`.
    pub name: String,
    /// `--stack`
    pub stack: Option<String>,
    /// `--git`
    pub git: Option<String>,
    /// `--path`
    pub path: Option<String>,
    /// `--host-only`
    pub host_only: bool,
}

/// How a command is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Touches only the database: effect, answer and "done" in one transaction, at once.
    Store,
    /// Waits for something outside (a process, git, the network). Runs beside the others, and may
    /// be run again after a crash.
    Outside,
    /// Acts on the chat sessions themselves: the dispatcher carries it out.
    Session,
}

impl Command {
    /// The item after whose change its agents may have to be ended.
    pub fn ends_agents_of(&self) -> Option<ItemId> {
        #[allow(clippy::wildcard_enum_match_arm, reason = "only these take an item off its agent")]
        match self {
            Command::Move { item, .. }
            | Command::Freeze(item)
            | Command::Block { item, .. }
            | Command::Reject { item, .. }
            | Command::Abandon { item, .. }
            | Command::Supersede { item, .. } => Some(*item),
            _ => None,
        }
    }

    /// Whether only an administrator may.
    pub fn is_administrative(&self) -> bool {
        match self {
            Command::Rebuild { .. }
            | Command::ResumeAll
            | Command::NewProject(_)
            | Command::Project {
                action: ProjectAction::Stop | ProjectAction::Start | ProjectAction::Remove { .. },
                ..
            }
            | Command::Delete { .. }
            | Command::WorktreesClean { .. }
            | Command::Stop(StopOf::All) => true,
            Command::Help { .. }
            | Command::Status(_)
            | Command::Show(_)
            | Command::Why(_)
            | Command::Agents
            | Command::Logs { .. }
            | Command::Replay { .. }
            | Command::Diff(_)
            | Command::Mail { .. }
            | Command::Cost(_)
            | Command::Version
            | Command::Doctor
            | Command::Git
            | Command::Unreleased
            | Command::RunTests { .. }
            | Command::Worktrees
            | Command::Whoami
            | Command::NewItem { .. }
            | Command::Start { .. }
            | Command::Stop(StopOf::Session | StopOf::Item(_))
            | Command::Move { .. }
            | Command::Depends { .. }
            | Command::Assign { .. }
            | Command::Priority { .. }
            | Command::Freeze(_)
            | Command::Unfreeze(_)
            | Command::Block { .. }
            | Command::Unblock(_)
            | Command::Approve { .. }
            | Command::Reject { .. }
            | Command::Permit { .. }
            | Command::Answer { .. }
            | Command::Abandon { .. }
            | Command::Supersede { .. }
            | Command::Qa { .. }
            | Command::EpicOf { .. }
            | Command::Tell { .. }
            | Command::Nudge { .. }
            | Command::Projects
            | Command::Project { action: ProjectAction::Info, .. }
            | Command::Switch(_)
            | Command::Remind { .. }
            | Command::Timers
            | Command::TimerCancel(_)
            | Command::Ambient(_)
            | Command::Queue(_)
            | Command::Reset
            | Command::Retry => false,
        }
    }

    /// How it is carried out.
    pub fn lane(&self) -> Lane {
        match self {
            Command::Stop(StopOf::Session) | Command::Retry | Command::Reset => Lane::Session,
            Command::Stop(StopOf::Item(_) | StopOf::All)
            | Command::Status(_)
            | Command::Agents
            | Command::Replay { .. }
            | Command::Diff(_)
            | Command::Doctor
            | Command::Git
            | Command::Unreleased
            | Command::RunTests { .. }
            | Command::Worktrees
            | Command::WorktreesClean { .. }
            | Command::Delete { .. }
            | Command::NewProject(_)
            | Command::Project { .. }
            | Command::Rebuild { .. } => Lane::Outside,
            Command::Help { .. }
            | Command::Show(_)
            | Command::Why(_)
            | Command::Nudge { .. }
            | Command::Logs { .. }
            | Command::Mail { .. }
            | Command::Cost(_)
            | Command::Version
            | Command::Whoami
            | Command::NewItem { .. }
            | Command::Start { .. }
            | Command::ResumeAll
            | Command::Move { .. }
            | Command::Freeze(_)
            | Command::Block { .. }
            | Command::Reject { .. }
            | Command::Permit { .. }
            | Command::Answer { .. }
            | Command::Abandon { .. }
            | Command::Supersede { .. }
            | Command::Qa { .. }
            | Command::EpicOf { .. }
            | Command::Tell { .. }
            | Command::Depends { .. }
            | Command::Assign { .. }
            | Command::Priority { .. }
            | Command::Unfreeze(_)
            | Command::Unblock(_)
            | Command::Approve { .. }
            | Command::Projects
            | Command::Switch(_)
            | Command::Remind { .. }
            | Command::Timers
            | Command::TimerCancel(_)
            | Command::Ambient(_)
            | Command::Queue(_) => Lane::Store,
        }
    }
}
