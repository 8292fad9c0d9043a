//! Timers that start an item: what follows when one is due.

use super::{WorkError, start};
use crate::model::chat::Outgoing;
use crate::model::ids::TimerId;
use crate::model::item::{Origin, OriginKind};
use crate::store::timers::{self, TimerKind};
use crate::store::{Tx, outbox};

/// Starts the item of a timer that fired, in the name of who set it; where that is refused, the
/// room is told why. Called once for each firing, by the reader of the event log.
pub(super) fn fired(tx: &Tx<'_>, id: TimerId, seq: i64) -> Result<(), WorkError> {
    let Some(timer) = timers::find(tx, id)? else { return Ok(()) };
    let (TimerKind::Start, Some(item)) = (timer.set.kind, timer.set.item) else { return Ok(()) };
    let who = format!("timer {id} of {}", timer.set.created_by);
    let origin = Origin::new(OriginKind::Timer, who, crate::clock::from_millis(tx.now()))
        .map_err(|error| WorkError::Invalid(error.to_string()))?;
    let refusal = match tx.nested(|tx| start(tx, item, None, &origin)) {
        Ok(_item) => return Ok(()),
        Err(WorkError::Store(error)) => return Err(error.into()),
        Err(refusal) => refusal,
    };
    if let Some(session) = timer.set.session {
        let text = format!("⏰ Item {item} was to be started now, but: {refusal}");
        let key = format!("work.timer:{seq}");
        outbox::enqueue(tx, &Outgoing::text(session, text).about(item), Some(&key))?;
    }
    Ok(())
}
