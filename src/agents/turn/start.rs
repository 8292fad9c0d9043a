//! Getting a session's runtime up for a turn, and down again.

use super::{Begun, Inner, Live, Place, Stop};
use crate::agents::permission::{Bounds, Policy, Rule};
use crate::agents::process::{ExitReport, Ident, Ladder, base_env};
use crate::agents::runtime::{
    AgentTools, EVENTS_MAX, Recorder, RuntimeEvent, SpawnError, SpawnSpec,
};
use crate::agents::{gateway, hold, runtime};
use crate::failpoint::failpoint;
use crate::llm::prompts::Prompts;
use crate::model::agent::Failure;
use crate::model::ids::AgentSessionId;
use crate::store::agents as sessions;
use crate::store::costs::{self, Cost, Source};
use crate::store::{Store, StoreError};
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{MutexGuard, mpsc, watch};
use tokio::time::Instant;

/// What a cold start after a lost session is told.
pub(super) const COLD: &str = "Your earlier conversation on this item is lost. Look at what the \
                               worktree holds (`git log`, `git status`) before you go on.";

/// A session's runtime that is up.
pub(super) struct Up {
    pub live: Arc<Live>,
    /// Whether it was started to go on with an earlier session.
    pub resumed: bool,
}

/// Reuses the session's runtime or starts it; `None` when it was stopped meanwhile.
pub(super) async fn up(
    inner: &Arc<Inner>,
    begun: &Begun,
    place: &Place,
    cold: bool,
    stop: &watch::Receiver<Option<Stop>>,
) -> Result<Option<Up>, SpawnError> {
    if stop.borrow().is_some() {
        return Ok(None);
    }
    let id = begun.session.id;
    let kept = hold(&inner.live).get(&id).cloned();
    if let Some(live) = kept {
        if still_up(inner, &live, live.events.lock().await).await {
            live.tools.set_turn(begun.turn);
            return Ok(Some(Up { live, resumed: false }));
        }
        down(inner, id).await;
    }
    let runtime = inner.runtimes.get(&begun.config.runtime).cloned().ok_or_else(|| {
        SpawnError::unusable(
            runtime::ProbeError::NotBuiltIn(begun.config.runtime.as_str()).to_string(),
        )
    })?;
    let process = Arc::new(Mutex::new(None));
    let mut spec = spec(inner, begun, place, cold, &process).await?;
    let (tell, events) = mpsc::channel(EVENTS_MAX);
    let token = token(inner, begun, place, &tell, &mut spec).await?;
    let (tools, marker, resumed) =
        (Arc::clone(&spec.tools), spec.marker.clone(), spec.resume.is_some());
    let policy = spec.policy.clone();
    let session = runtime.spawn(spec, tell).await?;
    let live = Arc::new(Live {
        session,
        tools,
        token,
        policy,
        events: tokio::sync::Mutex::new(events),
        process,
        marker,
        idle_since: Mutex::new(Instant::now()),
    });
    hold(&inner.live).insert(id, Arc::clone(&live));
    Ok(Some(Up { live, resumed }))
}

/// Takes down runtimes that ended while nobody drove them; their sessions are resumed when they go
/// on.
pub(in crate::agents) async fn down_dead(inner: &Arc<Inner>) {
    let idle: Vec<(AgentSessionId, Arc<Live>)> = {
        let running = hold(&inner.running);
        let live = hold(&inner.live);
        let idle = live.iter().filter(|(id, _)| !running.contains_key(id));
        idle.map(|(id, live)| (*id, Arc::clone(live))).collect()
    };
    for (session, live) in idle {
        // A turn that has just begun holds the events.
        let Ok(events) = live.events.try_lock() else { continue };
        if !still_up(inner, &live, events).await && !hold(&inner.running).contains_key(&session) {
            down(inner, session).await;
        }
    }
}

/// Whether an idle runtime is there still. What it said while nobody listened is dropped, but for
/// what it used: a turn that began by itself is paid for like any other.
async fn still_up(
    inner: &Arc<Inner>,
    live: &Live,
    mut events: MutexGuard<'_, mpsc::Receiver<RuntimeEvent>>,
) -> bool {
    let mut spent = vec![];
    let up = loop {
        match events.try_recv() {
            Ok(RuntimeEvent::Exited(_)) | Err(TryRecvError::Disconnected) => break false,
            Ok(RuntimeEvent::Used { usage, microusd, model }) => spent.push(Cost {
                source: Source::Agent,
                name: live.tools.agent.to_string(),
                model,
                item: Some(live.tools.item),
                project: Some(live.tools.project.clone()),
                usage,
                microusd,
            }),
            Ok(_said_while_idle) => {}
            Err(TryRecvError::Empty) => break true,
        }
    };
    if !spent.is_empty() {
        let write =
            inner.store.write(move |tx| spent.iter().try_for_each(|c| costs::record(tx, c)));
        if let Err(error) = write.await as Result<(), StoreError> {
            tracing::error!(%error, "what an idle agent has used was not counted");
        }
    }
    up
}

async fn spec(
    inner: &Arc<Inner>,
    begun: &Begun,
    place: &Place,
    cold: bool,
    process: &Arc<Mutex<Option<i64>>>,
) -> Result<SpawnSpec, SpawnError> {
    let (session, config) = (&begun.session, &begun.config);
    let host = inner.tools.get().cloned().ok_or_else(|| SpawnError {
        failure: Failure::Crash,
        message: "the tools are not ready".to_owned(),
    })?;
    let data_dir = inner.store.data_dir().to_owned();
    let instance = inner
        .store
        .write(sessions::instance_id)
        .await
        .map_err(|error: StoreError| internal(&error.to_string()))?;
    let marker = format!("{instance}-{}-{}", session.id, begun.turn);
    let mut env = base_env(&config.env);
    let address = format!("{}@musher.localhost", session.agent);
    for (name, value) in [
        ("MUSHER_AGENT", session.agent.to_string()),
        ("MUSHER_ITEM", session.item.to_string()),
        ("MUSHER_PROJECT", place.project.to_string()),
        ("MUSHER_DATA_DIR", data_dir.display().to_string()),
        // Its commits are its own, also on a machine where nobody has told git a name.
        ("GIT_AUTHOR_NAME", session.agent.to_string()),
        ("GIT_AUTHOR_EMAIL", address.clone()),
        ("GIT_COMMITTER_NAME", session.agent.to_string()),
        ("GIT_COMMITTER_EMAIL", address),
    ] {
        env.insert(name.to_owned(), value);
    }
    let config_dir = inner.config.file.parent().map(std::path::Path::to_path_buf);
    let role_prompt = Prompts::new(config_dir)
        .render(session.role.as_str(), minijinja::context! {})
        .map_err(|error| internal(&error.to_string()))?;
    let state_dir =
        data_dir.join("runtimes").join(config.runtime.as_str()).join(place.project.as_str());
    let rules = |texts: &[String]| texts.iter().map(|text| Rule::parse(text)).collect();
    Ok(SpawnSpec {
        tools: Arc::new(AgentTools::new(
            host,
            session.agent.clone(),
            session.role,
            session.id,
            session.item,
            place.project.clone(),
            begun.turn,
        )),
        cwd: place.dir.clone(),
        role_prompt: format!(
            "{role_prompt}\n\nYour name is {}. You work on item {} of project {}.",
            session.agent, session.item, place.project
        ),
        model: config.model.clone(),
        command: config.command.clone(),
        resume: if cold { None } else { session.native_id.clone() },
        policy: Policy {
            role: session.role,
            mode: config.permissions,
            allow: rules(&config.allow),
            deny: rules(&config.deny),
            worktree: place.dir.clone(),
            bounds: bounds(inner, &place.dir, &state_dir),
        },
        env,
        stderr_log: data_dir.join("logs").join("agents").join(format!("{}.stderr.log", begun.turn)),
        state_dir,
        confinement: inner.config.containers.confinement,
        replay_file: config.replay_file.clone(),
        recorder: Arc::new(StoreRecorder {
            store: inner.store.clone(),
            session: session.id,
            row: Arc::clone(process),
        }),
        marker,
    })
}

/// Puts a token for the model gateway in the place of a key in the agent's environment.
async fn token(
    inner: &Arc<Inner>,
    begun: &Begun,
    place: &Place,
    events: &mpsc::Sender<RuntimeEvent>,
    spec: &mut SpawnSpec,
) -> Result<Option<gateway::Token>, SpawnError> {
    let agent = &begun.config;
    if !gateway::leads(agent) {
        return Ok(None);
    }
    let (store, config) = (inner.store.clone(), Arc::clone(&inner.config));
    let gateway = inner
        .gateway
        .get_or_try_init(|| gateway::Gateway::start(store, config))
        .await
        .map_err(|error| internal(&format!("the model gateway does not start: {error:#}")))?;
    let (item, project) = (begun.session.item, &place.project);
    let bearer = gateway::Bearer { agent, item, project, events };
    Ok(gateway.grant(&bearer, &mut spec.env))
}

/// What nobody can allow an agent: our data, what the configuration keeps in files, people's keys.
fn bounds(inner: &Inner, worktree: &Path, state_dir: &Path) -> Bounds {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    // The worktree lies in our data directory, and so does what its CLI puts aside for it.
    let own = vec![worktree.to_owned(), state_dir.to_owned()];
    let mut bounds = Bounds::new(inner.store.data_dir(), home, own);
    let config = &inner.config;
    let matrix = config.matrix.iter();
    let files = matrix.flat_map(|matrix| [&matrix.password_file, &matrix.store_passphrase_file]);
    bounds.private.extend(files.chain([&config.llm.api_key_file]).flatten().cloned());
    bounds
}

fn internal(why: &str) -> SpawnError {
    SpawnError { failure: Failure::Crash, message: format!("the agent could not be set up: {why}") }
}

/// Records a runtime's process in the store.
struct StoreRecorder {
    store: Store,
    session: AgentSessionId,
    row: Arc<Mutex<Option<i64>>>,
}

#[async_trait]
impl Recorder for StoreRecorder {
    async fn spawned(&self, ident: Ident, marker: &str) -> anyhow::Result<()> {
        failpoint("agent-spawned");
        let (session, marker) = (self.session, marker.to_owned());
        let row = self
            .store
            .write(move |tx| sessions::record_process(tx, session, ident.pid, ident.start, &marker))
            .await?;
        *hold(&self.row) = Some(row);
        Ok(())
    }
}

/// Ends a session's runtime, if it is up, verified, and notes that.
pub(in crate::agents) async fn down(
    inner: &Arc<Inner>,
    session: AgentSessionId,
) -> Option<ExitReport> {
    let live = hold(&inner.live).get(&session).cloned()?;
    let report = {
        let stopped = live.session.stop(Ladder::default());
        // Its reader must not be held up by events that nobody reads any more.
        let drained = async {
            if let Ok(mut events) = live.events.try_lock() {
                while events.recv().await.is_some() {}
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            report = stopped => report,
            // Never ends first.
            () = drained => ExitReport::default(),
        }
    };
    hold(&inner.live).remove(&session);
    let row = *hold(&live.process);
    if let Some(row) = row
        && report.survivors.is_empty()
    {
        let ended = inner.store.write(move |tx| sessions::end_process(tx, row)).await;
        if let Err(error) = ended as Result<(), StoreError> {
            tracing::error!(%error, %session, "cannot note the end of a process");
        }
    }
    if !report.survivors.is_empty() {
        tracing::error!(%session, marker = %live.marker, survivors = ?report.survivors,
                        "processes of an agent could not be killed");
    }
    Some(report)
}
