//! The remote's base branch, which is merged on top of and pushed to where a project says so.
//!
//! The remote is asked first, so that a merge is tested on what it will land on; the base here
//! follows it, never the other way round without a push. Two bases that have gone apart are a
//! person's to put together: the queue stands still and says so.

use super::checkout;
use super::{MergeService, Step, Stop};
use crate::config::LandingMode;
use crate::model::chat::Outgoing;
use crate::model::ids::SessionKey;
use crate::project::Project;
use crate::project::git::RefUpdate;
use crate::store::{StoreError, merge_queue, outbox};

/// A project's remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// Its name.
    pub name: String,
    /// Where the base branch stands on it; `None`: it has none yet.
    pub tip: Option<String>,
}

impl MergeService {
    /// Reads the remote's base, where the project has to do with a remote, and has the base here
    /// follow it.
    pub(super) async fn read_remote(&self, project: &Project) -> Result<Option<Remote>, Stop> {
        if project.mode == LandingMode::Merge && !project.push {
            return Ok(None);
        }
        let git = project.git();
        let name = git.remote_of(&project.base).await?;
        let tip = git.fetch(&name, &project.base).await?;
        self.reached(Step::Fetched).await;
        let Some(tip) = tip else { return Ok(Some(Remote { name, tip: None })) };
        let here = git.rev_parse(&project.base_ref()).await?;
        let remote = Remote { name, tip: Some(tip.clone()) };
        if here == tip || git.is_ancestor(&tip, &here).await? {
            return Ok(Some(remote));
        }
        if git.is_ancestor(&here, &tip).await? {
            self.follow_remote(project, &here, &tip).await?;
            return Ok(Some(remote));
        }
        if project.mode == LandingMode::Pr {
            // Nothing of the base here is pushed: it is the person's to put together.
            return Ok(Some(remote));
        }
        let (base, path) = (&project.base, project.path.display());
        Err(Stop::pause(format!(
            "`{base}` and `{base}` of {} have gone apart: each has commits that the other has not. \
             Put them together in {path} (`git pull --rebase` or `git merge`)",
            remote.name
        )))
    }

    /// Moves the base here forward to where it stands on the remote, with the clean checkouts.
    async fn follow_remote(&self, project: &Project, from: &str, to: &str) -> Result<(), Stop> {
        // Noted first: should a kill come after the ref has moved, the checkouts are known to be
        // behind, and are brought up to date when they are clean.
        checkout::note_all(&self.store, project, from).await?;
        let reason = "musher: as on the remote";
        let moved = project.git().update_ref(&project.base_ref(), to, Some(from), reason).await?;
        checkout::heal(&self.store, project).await?;
        if moved == RefUpdate::Lost {
            return Err(Stop::Again);
        }
        let notes = checkout::left_of(&self.store, project, to).await?;
        let (name, bound, to) = (project.name.clone(), project.room.clone(), to.to_owned());
        self.store
            .write(move |tx| {
                let Some(room) = merge_queue::room_of(tx, &name, bound)? else { return Ok(()) };
                for (number, note) in notes.iter().enumerate() {
                    let outgoing = Outgoing::text(SessionKey::main(room.clone()), note);
                    outbox::enqueue(tx, &outgoing, Some(&format!("merge-note:{to}:{number}")))?;
                }
                Ok::<(), StoreError>(())
            })
            .await?;
        Ok(())
    }
}
