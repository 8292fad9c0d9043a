//! Builds everything, joins the tasks, and shuts down in order.
//!
//! **Start.** The data directory's lock first, so that nothing is touched that another server
//! owns; then what an earlier server left running is swept away, before a session is resumed or a
//! worktree touched; then the transport; then every service, whose first pass over its rows is its
//! reconciliation. No order among the services matters: each works from rows. While a homeserver
//! that knows us is down, everything that needs no room works already.
//!
//! **End.** Hearing and dispatching stop first; then the agents, verified; then what was said is
//! posted; then the database is closed. Each step has a limit, and what is cut off by it goes on
//! after the next start.

use crate::agents::{Agents, ProjectPlaces, process};
use crate::chat::console::Console;
use crate::chat::matrix::{MatrixTransport, Reach, Unreached};
use crate::chat::{Sender, Transport, Typing};
use crate::cli::socket;
use crate::clock::Clock;
use crate::commands::Registry as Commands;
use crate::config::Config;
use crate::coordinator::Coordinator;
use crate::dispatcher::{self, CoordinatorTurns, Dispatcher, ServiceCommands, Settings};
use crate::llm::prompts::Prompts;
use crate::llm::tools::ToolHost;
use crate::llm::{Llm, caps};
use crate::mail::Directory;
use crate::merge::MergeService;
use crate::project::{Registry, bootstrap};
use crate::services::{Runs, Services};
use crate::store::{LockError, OpenError, Store};
use crate::timers::TimerService;
use crate::tools::Tools;
use crate::upgrade::{self, Replacement, Upgrade};
use crate::work::{WorkService, Workshop};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long running turns of the coordinator may take to end at shutdown.
const TURNS_LIMIT: Duration = Duration::from_secs(5);

/// How long running turns of the coordinator may take before the program is replaced by another,
/// when nobody was in a hurry: longer than a turn that does not hang.
const SETTLE_LIMIT: Duration = Duration::from_secs(5 * 60);

/// How long posting what is left may take at shutdown.
const FLUSH_LIMIT: Duration = Duration::from_secs(8);

/// How long the services may take to end at shutdown.
const SERVICES_LIMIT: Duration = Duration::from_secs(12);

/// How long the start waits for somebody else's hold on the database to end.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);

/// How long it waits before it looks again.
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// How people are heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In Matrix rooms.
    Server,
    /// At this terminal.
    Console,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// By a signal, or with the console's input.
    Stopped,
    /// To be replaced by another binary, after `rebuild` or `restart`.
    Replace(Replacement),
}

/// Runs Musher until it is told to end. An error says what to do about it.
///
/// `config_file` is where `config` was read from; pages, prompts and stacks of the user's own
/// stand beside it.
pub async fn run(
    config: Config,
    config_file: Option<PathBuf>,
    mode: Mode,
) -> anyhow::Result<Ended> {
    let store = open_store(&config.data_dir).await?;
    let outcome =
        Server { config: Arc::new(config), config_file, mode, store: store.clone() }.serve().await;
    store.close();
    outcome
}

/// Opens the database. A call of the command line holds it for a moment when no server runs: that
/// is waited out; another server is not.
async fn open_store(data_dir: &Path) -> Result<Store, OpenError> {
    let began = tokio::time::Instant::now();
    loop {
        match Store::open(data_dir, Clock::system()) {
            Err(OpenError::Lock(LockError::Held { .. })) if began.elapsed() < OPEN_PATIENCE => {
                tokio::time::sleep(OPEN_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// What a run is made from.
struct Server {
    config: Arc<Config>,
    config_file: Option<PathBuf>,
    mode: Mode,
    store: Store,
}

/// The way to people.
enum Door {
    Matrix(Arc<MatrixTransport>),
    Console(Arc<Console>),
}

/// The way to people, when it may not be open yet.
enum Entrance {
    Open(Door),
    /// The homeserver is down.
    Shut(Box<Unreached>),
}

impl Door {
    fn transport(&self) -> Arc<dyn Transport> {
        match self {
            Door::Matrix(matrix) => Arc::clone(matrix) as Arc<dyn Transport>,
            Door::Console(console) => Arc::clone(console) as Arc<dyn Transport>,
        }
    }
}

/// When each part is to end.
#[derive(Clone, Default)]
struct Ends {
    /// The dispatcher.
    dispatch: dispatcher::Ends,
    /// Hearing.
    intake: CancellationToken,
    /// Everything that works from rows.
    services: CancellationToken,
    /// Posting.
    sender: CancellationToken,
}

impl Server {
    async fn serve(self) -> anyhow::Result<Ended> {
        process::become_subreaper();
        // From here on a signal ends the program in order, however far the start has come.
        let mut signals = Signals::hear()?;
        let (services, tools) = self.services().await?;
        services.agents.reconcile().await.context("looking after the agents of the last run")?;
        bootstrap::reconcile(&services.projects).await?;
        for (project, problem) in services.projects.problems().await {
            tracing::warn!(%project, "nothing can be done in this project: {problem}");
        }
        let typing = Typing::new();
        let entrance = tokio::select! {
            entrance = self.entrance(&services, typing.clone()) => entrance?,
            why = signals.end() => {
                tracing::info!(%why, "ending before the start is over");
                return Ok(Ended::Stopped);
            }
        };
        let ends = Ends::default();
        let (mut tasks, mut hearing) = (JoinSet::new(), JoinSet::new());
        self.start_services(&services, &tools, &ends, &mut tasks);
        let door = match entrance {
            Entrance::Open(door) => Ok(door),
            Entrance::Shut(unreached) => {
                wait_for_door(*unreached, &services.projects, &mut signals, &mut tasks).await
            }
        };
        let door = match door {
            Ok(door) => door,
            Err(ended) => {
                shut_down(&self.store, None, &ends, (tasks, hearing), TURNS_LIMIT).await;
                return ended;
            }
        };
        self.store.write(upgrade::announce).await?;
        let sender = Sender::new(self.store.clone(), door.transport());
        tasks.spawn(sender.clone().run(ends.sender.clone()));
        let mut replaced = services.upgrade.replaced();
        self.start_dispatcher(&services, tools, &door, typing, &ends, &mut hearing)?;
        start_hearing(&door, &ends, &mut hearing);
        tracing::info!(version = upgrade::version(), "musher is up");

        let outcome = tokio::select! {
            why = signals.end() => {
                tracing::info!(%why, "ending");
                Ok(Ended::Stopped)
            }
            wanted = replaced.wait_for(Option::is_some) => match wanted {
                Ok(wanted) => Ok(Ended::Replace(wanted.clone().expect("it was waited for"))),
                Err(_) => Ok(Ended::Stopped),
            },
            Some(ended) = hearing.join_next() => match ended {
                Ok(Ok(())) => Ok(Ended::Stopped),
                Ok(Err(error)) => Err(error),
                Err(panic) => Err(anyhow::anyhow!("a task broke: {panic}")),
            },
            Some(ended) = tasks.join_next() => Err(broken(ended)),
        };
        let turns_limit = match &outcome {
            Ok(Ended::Replace(wanted)) if wanted.now => Duration::ZERO,
            Ok(Ended::Replace(_)) => settle(&ends, &mut signals).await,
            Ok(Ended::Stopped) | Err(_) => TURNS_LIMIT,
        };
        shut_down(&self.store, Some(&sender), &ends, (tasks, hearing), turns_limit).await;
        outcome
    }

    /// Makes the handles, and the tools that act through them.
    async fn services(&self) -> anyhow::Result<(Services, Arc<Tools>)> {
        let (store, config) = (self.store.clone(), Arc::clone(&self.config));
        let projects = Registry::load(&store, &config).await?;
        let places = ProjectPlaces { store: store.clone(), projects: projects.clone() };
        let agents = Agents::new(store.clone(), Arc::clone(&config), Arc::new(places));
        let config_dir =
            self.config_file.as_ref().and_then(|file| file.parent()).map(PathBuf::from);
        let llm = Llm::new(&config.llm, None)?;
        if llm.price().is_none()
            && let Some(why) = caps::unpriced(&config, llm.name())
        {
            tracing::warn!("limits in money cannot hold for the coordinator: {why}");
        }
        let services = Services {
            directory: Arc::new(Directory::new(&config)),
            llm,
            upgrade: Upgrade::new(store.clone(), self.config_file.clone()),
            agents: agents.clone(),
            store,
            config,
            config_dir,
            projects,
            runs: Runs::default(),
        };
        let tools = Arc::new(Tools::new(services.clone()));
        agents.set_tools(tools.clone());
        Ok((services, tools))
    }

    /// Connects to where people are.
    async fn entrance(&self, services: &Services, typing: Typing) -> anyhow::Result<Entrance> {
        match self.mode {
            Mode::Console => {
                let console = Arc::new(Console::new(self.store.clone()));
                Ok(Entrance::Open(Door::Console(console)))
            }
            Mode::Server => {
                let matrix = self.config.matrix.as_ref().context(
                    "the configuration has no [matrix] table: run `musher init`, or try \
                     `musher console`",
                )?;
                let prefix = &self.config.chat.prefix;
                let (aliases, store) = (services.projects.aliases(), self.store.clone());
                let opened = MatrixTransport::open(matrix, prefix, aliases, store, typing).await?;
                Ok(match opened.reach().await? {
                    Reach::Up(transport) => {
                        services.projects.bind_rooms(transport.rooms()).await?;
                        Entrance::Open(Door::Matrix(Arc::new(*transport)))
                    }
                    Reach::Down(unreached) => Entrance::Shut(unreached),
                })
            }
        }
    }

    /// Starts everything that works from rows.
    fn start_services(
        &self,
        services: &Services,
        tools: &Arc<Tools>,
        ends: &Ends,
        tasks: &mut JoinSet<()>,
    ) {
        let (store, config) = (self.store.clone(), Arc::clone(&self.config));
        let world = Workshop::new(
            store.clone(),
            Arc::clone(&config),
            services.projects.clone(),
            services.agents.clone(),
        );
        let work = WorkService::new(store.clone(), Arc::clone(&config), Arc::new(world));
        let merge =
            MergeService::new(store.clone(), services.projects.clone(), config.merge.clone());
        let agents = services.agents.clone();
        let end = ends.services.clone();
        tasks.spawn(work.run(end.clone()));
        tasks.spawn(merge.run(end.clone()));
        tasks.spawn(TimerService::new(store).run(end.clone()));
        let pool_end = end.clone();
        tasks.spawn(async move { agents.run(pool_end).await });
        let tools = Arc::clone(tools) as Arc<dyn ToolHost>;
        tasks.spawn(socket::serve(services.clone(), Some(tools), end));
    }

    fn start_dispatcher(
        &self,
        services: &Services,
        tools: Arc<Tools>,
        door: &Door,
        typing: Typing,
        ends: &Ends,
        hearing: &mut JoinSet<anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let (registry, complaints) = Commands::load(services.config_dir.as_deref());
        for complaint in complaints {
            tracing::warn!("{complaint}");
        }
        let registry = Arc::new(registry);
        let coordinator = Coordinator::new(
            self.store.clone(),
            Arc::clone(&self.config),
            services.llm.clone(),
            tools,
            Prompts::new(services.config_dir.clone()),
            Arc::new(services.projects.clone()),
        );
        let dispatcher = Dispatcher {
            store: self.store.clone(),
            settings: Settings::from_config(&self.config),
            registry: Arc::clone(&registry),
            turns: Arc::new(CoordinatorTurns { coordinator, store: self.store.clone() }),
            commands: Arc::new(ServiceCommands { services: services.clone(), registry }),
            transport: door.transport(),
            typing,
        };
        let ends = ends.dispatch.clone();
        hearing.spawn(async move {
            dispatcher.run(ends).await;
            Ok(())
        });
        Ok(())
    }
}

/// Starts what hears people. For the console its end is the end of the run.
fn start_hearing(door: &Door, ends: &Ends, hearing: &mut JoinSet<anyhow::Result<()>>) {
    let intake = ends.intake.clone();
    match door {
        Door::Matrix(matrix) => {
            let matrix = Arc::clone(matrix);
            hearing.spawn(async move { Ok(matrix.run(intake).await?) });
        }
        Door::Console(console) => {
            let console = Arc::clone(console);
            hearing.spawn(async move { Ok(console.run(intake).await?) });
        }
    }
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn hear() -> anyhow::Result<Self> {
        let hear = |kind| signal(kind).context("cannot hear signals");
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(Self { interrupt: hear(interrupt)?, terminate: hear(terminate)? })
    }

    /// Waits for either. Cancel-safe.
    async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "Ctrl-C",
        }
    }
}

/// Waits until the homeserver answers; otherwise says how the run has ended.
async fn wait_for_door(
    unreached: Unreached,
    projects: &Registry,
    signals: &mut Signals,
    tasks: &mut JoinSet<()>,
) -> Result<Door, anyhow::Result<Ended>> {
    tokio::select! {
        reached = unreached.wait() => match reached {
            Ok(transport) => match projects.bind_rooms(transport.rooms()).await {
                Ok(()) => Ok(Door::Matrix(Arc::new(transport))),
                Err(error) => Err(Err(error.into())),
            },
            Err(error) => Err(Err(error.into())),
        },
        why = signals.end() => {
            tracing::info!(%why, "ending");
            Err(Ok(Ended::Stopped))
        }
        Some(ended) = tasks.join_next() => Err(Err(broken(ended))),
    }
}

fn broken(ended: Result<(), tokio::task::JoinError>) -> anyhow::Error {
    anyhow::anyhow!("a service ended by itself, which it never should: {ended:?}")
}

/// Lets running turns finish, while commands are still answered and nothing new is begun; says
/// how long what is left may take.
async fn settle(ends: &Ends, signals: &mut Signals) -> Duration {
    ends.dispatch.quiet.cancel();
    tokio::select! {
        () = ends.dispatch.idle.cancelled() => {}
        () = tokio::time::sleep(SETTLE_LIMIT) => {
            let waited_s = SETTLE_LIMIT.as_secs();
            tracing::warn!(waited_s, "an answer is not finished in time; it goes on afterwards");
        }
        why = signals.end() => tracing::info!(%why, "not waiting any longer"),
    }
    TURNS_LIMIT
}

/// Ends everything in order; see the module's text.
async fn shut_down(
    store: &Store,
    sender: Option<&Sender>,
    ends: &Ends,
    (mut tasks, mut hearing): (JoinSet<()>, JoinSet<anyhow::Result<()>>),
    turns_limit: Duration,
) {
    // What waits for room on the disk would hold up everybody.
    store.hurry();
    ends.intake.cancel();
    ends.dispatch.cancel.cancel();
    let heard = async { while hearing.join_next().await.is_some() {} };
    if tokio::time::timeout(turns_limit, heard).await.is_err() {
        ends.dispatch.hurry.cancel();
        let heard = async { while hearing.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(TURNS_LIMIT, heard).await;
    }
    ends.services.cancel();
    ends.sender.cancel();
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(SERVICES_LIMIT, ended).await.is_err() {
        tracing::warn!("a service did not end in time; its work goes on at the next start");
        tasks.shutdown().await;
    }
    let Some(sender) = sender else { return };
    let left = sender.flush(FLUSH_LIMIT).await;
    if left > 0 {
        tracing::warn!(left, "messages are left to be posted at the next start");
    }
}
