//! A scripted model API on a loopback port: Anthropic's wire and both of OpenAI's.
//!
//! A story says what the model answers, by rules tried in the order of their making; the first
//! that fits answers. What no rule fits is refused with a 400 that says so, and no client
//! retries that: a forgotten rule fails fast. The little requests that the Claude Code CLI makes
//! beside its conversation (see [`Request::is_auxiliary`]) never reach the rules.
//!
//! All requests are kept, for what the story wants to prove about them.

mod reply;
mod request;
mod responses;
mod wire;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use tokio::sync::oneshot;

pub use reply::Reply;
pub use request::{Api, Request};

use super::{PATIENCE, until_within};

/// Answers a request, or leaves it to the next rule.
type Rule = Box<dyn FnMut(&Request) -> Option<Reply> + Send>;

/// The server; it ends when dropped.
#[derive(Debug)]
pub struct ModelServer {
    /// `http://127.0.0.1:PORT`: what `ANTHROPIC_BASE_URL` and `base_url` want. The OpenAI wire is
    /// served both with and without a leading `/v1`.
    pub url: String,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl ModelServer {
    /// Starts a server without rules, in a thread of its own: a story that blocks does not stop it.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Router::new().fallback(serve).with_state(Arc::clone(&shared));
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    served = async { axum::serve(listener, router).await } => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { url, shared, stop: Some(stop) }
    }

    /// Adds a rule that decides by itself what and whether it answers.
    pub fn on(&self, rule: impl FnMut(&Request) -> Option<Reply> + Send + 'static) {
        self.shared.rules.lock().unwrap().push(Box::new(rule));
    }

    /// Answers every request that fits.
    pub fn always(&self, fits: impl Fn(&Request) -> bool + Send + 'static, reply: Reply) {
        self.on(move |request| fits(request).then(|| reply.clone()));
    }

    /// Answers the first request that fits, and no further one.
    pub fn once(&self, fits: impl Fn(&Request) -> bool + Send + 'static, reply: Reply) {
        let mut reply = Some(reply);
        self.on(move |request| if fits(request) { reply.take() } else { None });
    }

    /// Plays one conversation: the reply is chosen by how many answers the model has already
    /// given since the last message of a person. So the same script serves any number of agents
    /// at once, and a resumed conversation goes on where it stood.
    pub fn script(&self, fits: impl Fn(&Request) -> bool + Send + 'static, replies: Vec<Reply>) {
        self.on(move |request| {
            if fits(request) { replies.get(request.answers_since_person()).cloned() } else { None }
        });
    }

    /// Forgets all rules.
    pub fn clear_rules(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// All requests so far, without the CLI's auxiliary ones.
    pub fn requests(&self) -> Vec<Request> {
        self.all_requests().into_iter().filter(|request| !request.is_auxiliary()).collect()
    }

    /// The requests of the coordinator and of the built-in agent.
    pub fn own_requests(&self) -> Vec<Request> {
        self.requests().into_iter().filter(Request::is_musher).collect()
    }

    /// The requests of Codex.
    pub fn codex_requests(&self) -> Vec<Request> {
        self.requests().into_iter().filter(Request::is_codex).collect()
    }

    /// The requests of Claude Code's conversations.
    pub fn claude_requests(&self) -> Vec<Request> {
        self.requests().into_iter().filter(Request::is_claude_code).collect()
    }

    /// All requests, also the auxiliary ones.
    pub fn all_requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Waits until `count` requests fit, and returns them.
    pub async fn wait_for_requests(
        &self,
        count: usize,
        fits: impl Fn(&Request) -> bool,
    ) -> Vec<Request> {
        self.wait_for_requests_within(PATIENCE, count, fits).await
    }

    /// As [`ModelServer::wait_for_requests`], with its own time limit.
    pub async fn wait_for_requests_within(
        &self,
        limit: Duration,
        count: usize,
        fits: impl Fn(&Request) -> bool,
    ) -> Vec<Request> {
        let began = std::time::Instant::now();
        loop {
            let fitting: Vec<Request> = self.requests().into_iter().filter(&fits).collect();
            if fitting.len() >= count {
                return fitting;
            }
            let seen = fitting.len();
            if began.elapsed() > limit {
                panic!(
                    "waited {limit:?} in vain for {count} requests, {seen} came\n{}",
                    self.print()
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until a client has gone away before its answer was complete.
    pub async fn wait_for_abandoned(&self, fits: impl Fn(&Request) -> bool) -> Request {
        until_within(PATIENCE, "a client that goes away", || {
            self.requests().into_iter().find(|request| request.was_abandoned() && fits(request))
        })
        .await
    }

    /// Fails when a request met no rule.
    pub fn assert_all_scripted(&self) {
        let unscripted = self.requests().iter().filter(|request| !request.was_scripted()).count();
        assert!(unscripted == 0, "{unscripted} requests met no rule\n{}", self.print());
    }

    /// A line a request, for a message about what went wrong.
    pub fn print(&self) -> String {
        let mut text = String::from("requests to the model server:\n");
        for request in self.all_requests() {
            writeln!(text, "  {}", request.summary()).unwrap();
        }
        text
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).ok();
        }
    }
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let Some(mut request) = Request::read(&uri, &headers, &body) else {
        // `HEAD /` is how the CLI warms its connection up.
        return if uri.path() == "/" { Response::default() } else { wire::not_found(uri.path()) };
    };
    let reply = if request.api == Api::CountTokens {
        None
    } else if request.is_auxiliary() {
        Some(Reply::auxiliary(&request))
    } else {
        shared.rules.lock().unwrap().iter_mut().find_map(|rule| rule(&request))
    };
    request.set_scripted(reply.is_some() || request.api == Api::CountTokens);
    shared.requests.lock().unwrap().push(request.clone());
    match reply {
        Some(reply) => wire::answer(request, reply).await,
        None if request.api == Api::CountTokens => wire::token_count(&request),
        None => {
            let why = format!("the test has no rule for this request: {}", request.summary());
            wire::answer(request, Reply::error(400).saying(&why)).await
        }
    }
}
