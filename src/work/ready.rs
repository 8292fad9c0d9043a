//! Whether an item's project can be worked in, asked before somebody starts the item.

use super::{WorkError, find};
use crate::model::ids::ItemId;
use crate::model::stage::{StageEvent, next};
use crate::project::Project;
use crate::store::{Store, projects};

/// Refuses in a sentence, with the remedy, when work on `id` could not even begin: its project is no
/// repository, has no base branch, or a program of its gates is missing. Changes nothing.
///
/// To be asked before [`super::start`] or a move to coding, from wherever a person or a model says
/// so. What is wrong with the item itself the start says better: that is no refusal here.
pub async fn ready(store: &Store, id: ItemId) -> Result<(), WorkError> {
    let read = store.read(move |conn| {
        let item = find(conn, id)?;
        let starts = next(&item.stage, &StageEvent::Started).is_ok();
        let project = if starts { projects::find(conn, &item.project)? } else { None };
        Ok::<_, WorkError>(project)
    });
    let project = match read.await {
        Ok(project) => project,
        Err(WorkError::Store(error)) => return Err(error.into()),
        Err(_said_by_the_start) => return Ok(()),
    };
    let Some(row) = project else { return Ok(()) };
    let project = Project::new(row.settings, row.paused);
    project.ready().await.map_err(|error| {
        WorkError::Refused(format!("item {id} cannot be started in {}: {error}", project.name))
    })
}
