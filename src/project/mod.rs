//! Projects: git repositories that work is done in, and everything that touches their files.

pub mod bootstrap;
pub mod git;
mod ready;
pub mod registry;
pub mod scratch;
pub mod shell;
mod stacks;
pub mod worktree;

pub use ready::{Fault, has_room};
pub use registry::{Project, ProjectError, Registry, configure};
pub use stacks::{Stack, StackError, Stacks};

#[cfg(test)]
mod tests;
