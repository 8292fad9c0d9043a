//! What is put away or dropped by age: transcripts, mail that was read, nudges, logs of stderr.
//!
//! What agents did stands in `turn_events` while their item is open. When it has ended for a day,
//! each session's events move into a compressed file, one JSON object a line, and the rows go: the
//! file is complete and on the disk before the transaction that takes the rows away, so that a crash
//! in between leaves both and the next round writes the file again.

use super::Inner;
use crate::model::ids::AgentSessionId;
use crate::store::agents::{self as sessions, TurnEvent};
use crate::store::{StoreError, mail, nudges};
use chrono::TimeDelta;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked.
pub(super) const EVERY: Duration = Duration::from_secs(600);

/// How long a session has been over before what it did is put away.
const PUT_AWAY_AFTER: TimeDelta = TimeDelta::days(1);

/// How many sessions are put away in one round.
const BATCH: usize = 50;

/// The longest transcript that is read, in bytes when unpacked: one that says otherwise is broken.
const UNPACKED_MAX: u64 = 256 << 20;

/// The folder of transcripts in the data directory.
const FOLDER: &str = "transcripts";

/// One round; each part is tried whatever became of the others.
pub(super) async fn round(inner: &Arc<Inner>) {
    if let Err(error) = purge(inner).await {
        tracing::error!(%error, "old mail could not be removed");
    }
    if let Err(error) = put_away(inner).await {
        tracing::error!(error = format!("{error:#}"), "a transcript could not be put away");
    }
    if let Err(error) = forget(inner).await {
        tracing::error!(error = format!("{error:#}"), "old transcripts could not be removed");
    }
}

/// Removes mail by its age, and nudges by their expiry.
async fn purge(inner: &Inner) -> Result<(), StoreError> {
    let days = inner.config.mail.retention_days;
    let write = inner.store.write(move |tx| {
        nudges::drop_expired(tx)?;
        if days == 0 {
            return Ok(0);
        }
        let before = tx.now() - TimeDelta::days(i64::from(days)).num_milliseconds();
        mail::purge(tx, before)
    });
    let purged: usize = write.await?;
    if purged > 0 {
        tracing::info!(purged, "old mail is removed");
    }
    Ok(())
}

/// Puts away what sessions did whose items have ended.
async fn put_away(inner: &Inner) -> anyhow::Result<()> {
    let before = inner.store.clock().now() - PUT_AWAY_AFTER;
    let over = inner
        .store
        .read(move |conn| sessions::to_be_put_away(conn, before.timestamp_millis(), BATCH))
        .await?;
    for session in over {
        let events = inner.store.read(move |conn| sessions::all_events(conn, session)).await?;
        let folder = inner.store.data_dir().join(FOLDER);
        let name = format!("{session}.jsonl.gz");
        let path = folder.join(&name);
        tokio::task::spawn_blocking(move || write_transcript(&path, &events)).await??;
        let write = inner.store.write(move |tx| sessions::put_away(tx, session, &name));
        let put: Result<(), StoreError> = write.await;
        put?;
    }
    Ok(())
}

/// Removes transcripts that were kept long enough.
async fn forget(inner: &Inner) -> anyhow::Result<()> {
    let days = inner.config.log.transcript_days;
    if days == 0 {
        return Ok(());
    }
    let before = inner.store.clock().now() - TimeDelta::days(i64::from(days));
    let old = inner
        .store
        .read(move |conn| sessions::transcripts_before(conn, before.timestamp_millis(), BATCH))
        .await?;
    for (session, name) in old {
        let path = inner.store.data_dir().join(FOLDER).join(name);
        match tokio::fs::remove_file(&path).await {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let write = inner.store.write(move |tx| sessions::forget_transcript(tx, session));
        let forgotten: Result<(), StoreError> = write.await;
        forgotten?;
    }
    Ok(())
}

fn write_transcript(path: &Path, events: &[TurnEvent]) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile_in(folder)?;
    {
        let mut packed = GzEncoder::new(&mut file.0, Compression::default());
        for event in events {
            serde_json::to_writer(&mut packed, event)?;
            packed.write_all(b"\n")?;
        }
        packed.finish()?;
    }
    file.0.sync_all()?;
    std::fs::rename(&file.1, path)?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

/// A new file beside its place.
fn tempfile_in(folder: &Path) -> std::io::Result<(std::fs::File, PathBuf)> {
    let path = folder.join(format!(".{}.partial", std::process::id()));
    Ok((std::fs::File::create(&path)?, path))
}

/// What a session did, from its transcript; nothing when there is none any more. Blocks.
pub fn read_transcript(data_dir: &Path, name: &str) -> anyhow::Result<Vec<TurnEvent>> {
    let path = data_dir.join(FOLDER).join(name);
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error.into()),
    };
    let lines = BufReader::new(GzDecoder::new(file).take(UNPACKED_MAX)).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

/// Everything that a session did, wherever it stands now. Blocks.
pub fn events_of(
    conn: &rusqlite::Connection,
    data_dir: &Path,
    session: AgentSessionId,
) -> Result<Vec<TurnEvent>, StoreError> {
    if let Some(name) = sessions::transcript_of(conn, session)? {
        return read_transcript(data_dir, &name).or_else(|error| {
            tracing::warn!(%session, %error, "a transcript cannot be read");
            Ok(vec![])
        });
    }
    sessions::all_events(conn, session)
}
