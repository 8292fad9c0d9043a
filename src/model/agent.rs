//! Agents' roles and the states of their sessions.

use serde::{Deserialize, Serialize};

/// What an agent is for: fixes its prompt, its tools and the columns it may work in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Writes code in an item's worktree.
    Coder,
    /// Checks a coder's work and gives a verdict.
    Qa,
    /// Resolves merge conflicts.
    Mergemaster,
    /// Splits an item into child items, dispatches and verifies.
    Lead,
    /// Explores, writes nothing but mail.
    Scout,
    /// Reviews, writes nothing but mail.
    Reviewer,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 6] =
        [Role::Coder, Role::Qa, Role::Mergemaster, Role::Lead, Role::Scout, Role::Reviewer];

    /// The name as stored, configured and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Coder => "coder",
            Role::Qa => "qa",
            Role::Mergemaster => "mergemaster",
            Role::Lead => "lead",
            Role::Scout => "scout",
            Role::Reviewer => "reviewer",
        }
    }
}

/// Where one agent's work on one item stands.
///
/// The allowed moves are a table ([`SessionState::allowed_from`]); the store writes them with one
/// compare-and-swap (`UPDATE … WHERE state IN (allowed predecessors)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Created; nothing has been heard from its runtime yet.
    Booting,
    /// A turn runs.
    InTurn,
    /// Alive or resumable; no turn runs.
    BetweenTurns,
    /// Waits for something named, with a deadline; exempt from the stale timers.
    Waiting,
    /// Silent for too long.
    Stalled,
    /// Finished. Nothing leaves it.
    Completed,
    /// Killed, died or given up on.
    Zombie,
}

impl SessionState {
    /// Every state.
    pub const ALL: [SessionState; 7] = [
        SessionState::Booting,
        SessionState::InTurn,
        SessionState::BetweenTurns,
        SessionState::Waiting,
        SessionState::Stalled,
        SessionState::Completed,
        SessionState::Zombie,
    ];

    /// The name as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            SessionState::Booting => "booting",
            SessionState::InTurn => "in_turn",
            SessionState::BetweenTurns => "between_turns",
            SessionState::Waiting => "waiting",
            SessionState::Stalled => "stalled",
            SessionState::Completed => "completed",
            SessionState::Zombie => "zombie",
        }
    }

    /// Reads a stored name; `None` when it is none.
    pub fn parse(text: &str) -> Option<SessionState> {
        SessionState::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The states from which this one may be entered (spec: agents, "Session states").
    ///
    /// `Booting` is entered by creation only. A zombie is promoted to `Completed` only by an
    /// operator's stop, which is why the store asks for that by a separate function.
    pub fn allowed_from(self) -> &'static [SessionState] {
        use SessionState::{BetweenTurns, Booting, Completed, InTurn, Stalled, Waiting, Zombie};
        match self {
            Booting => &[],
            InTurn => &[Booting, BetweenTurns, Waiting, InTurn, Stalled],
            BetweenTurns => &[Booting, InTurn, BetweenTurns, Waiting, Stalled],
            Waiting => &[InTurn, BetweenTurns, Waiting],
            Stalled => &[Booting, InTurn, BetweenTurns, Stalled],
            Completed => &[Booting, InTurn, BetweenTurns, Waiting, Stalled, Completed],
            Zombie => &[Booting, InTurn, BetweenTurns, Waiting, Stalled, Zombie],
        }
    }
}

/// What a waiting session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitingFor {
    /// Items that it handed out.
    Children,
    /// An answer to mail.
    Reply,
    /// A person's answer or permission.
    Person,
    /// A rate limit to pass.
    RateLimit,
    /// A timer.
    Timer,
}
