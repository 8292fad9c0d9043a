//! The model gateway: agents' CLIs call models through it, with a token instead of a key.
//!
//! **Forces.** Everything in a CLI's environment is in its tools' environment, too: a key there is
//! the agent's to read and to spend. And what a CLI says that it used is not what the provider
//! bills: interrupted answers, subagents and side calls are missing.
//!
//! **Properties.** The key stays in this process. A token is for one session of one agent, works on
//! the loopback only, and dies with the session's runtime. Before each call the limits are looked
//! at; what the answer used is counted from the answer, also when nobody reads it to its end.
//! Answers pass as they come.
//!
//! **Limits.** A person's own login, OAuth tokens and cloud providers' credentials are not led
//! through it: those CLIs call their provider as they would without Musher.

mod meter;

use super::budget::{self, Spender};
use super::hold;
use super::runtime::RuntimeEvent;
use crate::config::{AgentConfig, Config, RuntimeKind};
use crate::model::ids::{ItemId, ProjectName};
use crate::store::costs::{self, Cost, Source};
use crate::store::{Store, StoreError};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use meter::{Meter, Metered};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long a connection to a provider may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The largest call that is passed on.
const CALL_MAX: usize = 64 * 1024 * 1024;

/// A provider's API, as CLIs are told of it by their environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Api {
    /// In the gateway's own address.
    name: &'static str,
    /// Variables with a key, and how it is shown to the provider: as `x-api-key`, or as a bearer.
    keys: &'static [(&'static str, bool)],
    /// The variable with the API's address.
    base: &'static str,
    /// Where it is without that.
    usual: &'static str,
}

const ANTHROPIC: Api = Api {
    name: "anthropic",
    keys: &[("ANTHROPIC_API_KEY", true), ("ANTHROPIC_AUTH_TOKEN", false)],
    base: "ANTHROPIC_BASE_URL",
    usual: "https://api.anthropic.com",
};

const OPENAI: Api = Api {
    name: "openai",
    keys: &[("OPENAI_API_KEY", false)],
    base: "OPENAI_BASE_URL",
    usual: "https://api.openai.com/v1",
};

/// The API that a runtime's CLI calls, if it can be led through here.
fn api_of(runtime: RuntimeKind) -> Option<Api> {
    match runtime {
        RuntimeKind::ClaudeCode => Some(ANTHROPIC),
        RuntimeKind::Codex => Some(OPENAI),
        // Any program may call anything; the built-in agent has no environment to keep a key from.
        RuntimeKind::Acp | RuntimeKind::Api | RuntimeKind::Replay => None,
    }
}

/// What a token opens.
struct Grant {
    agent: AgentConfig,
    item: ItemId,
    project: ProjectName,
    key: SecretString,
    as_api_key: bool,
    upstream: String,
    /// Hears what was counted, so that limits end the turn.
    events: mpsc::Sender<RuntimeEvent>,
}

struct Shared {
    store: Store,
    config: Arc<Config>,
    client: reqwest::Client,
    grants: Mutex<HashMap<String, Arc<Grant>>>,
}

/// The running gateway; it ends when dropped.
pub(super) struct Gateway {
    address: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A token that works until this is dropped.
pub(super) struct Token {
    shared: Arc<Shared>,
    token: String,
}

impl Drop for Token {
    fn drop(&mut self) {
        hold(&self.shared.grants).remove(&self.token);
    }
}

/// For whom a token is.
pub(super) struct Bearer<'a> {
    pub agent: &'a AgentConfig,
    pub item: ItemId,
    pub project: &'a ProjectName,
    pub events: &'a mpsc::Sender<RuntimeEvent>,
}

impl Gateway {
    /// Listens on a free port of the loopback.
    pub(super) async fn start(store: Store, config: Arc<Config>) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared { store, config, client, grants: Mutex::default() });
        let router = axum::Router::new()
            .fallback(pass)
            .layer(axum::extract::DefaultBodyLimit::max(CALL_MAX))
            .with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the model gateway broke");
            }
        });
        Ok(Self { address, shared, server })
    }

    /// Puts a token in the place of the key in an agent's environment; `None` when there is no key
    /// in it that can be kept here.
    pub(super) fn grant(
        &self,
        bearer: &Bearer<'_>,
        env: &mut BTreeMap<String, String>,
    ) -> Option<Token> {
        let api = api_of(bearer.agent.runtime)?;
        let (name, as_api_key) =
            api.keys.iter().find(|(name, _)| env.get(*name).is_some_and(|key| !key.is_empty()))?;
        let key = env.get(*name)?.clone();
        let base = env.get(api.base).filter(|base| !base.is_empty());
        let upstream = base.map_or(api.usual, String::as_str).trim_end_matches('/').to_owned();
        let token = format!("musher-{}", uuid::Uuid::new_v4().simple());
        // A second key would be as good as the first.
        for (other, _) in api.keys {
            env.remove(*other);
        }
        env.insert((*name).to_owned(), token.clone());
        env.insert(api.base.to_owned(), format!("{}/{}", self.address, api.name));
        let grant = Grant {
            agent: bearer.agent.clone(),
            item: bearer.item,
            project: bearer.project.clone(),
            key: SecretString::from(key),
            as_api_key: *as_api_key,
            upstream,
            events: bearer.events.clone(),
        };
        hold(&self.shared.grants).insert(token.clone(), Arc::new(grant));
        Some(Token { shared: Arc::clone(&self.shared), token })
    }
}

/// Whether a runtime's key can be kept from its agent.
pub(super) fn leads(agent: &AgentConfig) -> bool {
    agent.gateway && api_of(agent.runtime).is_some()
}

/// Refuses a call in a form that both CLIs read, and that neither repeats but for 5xx.
fn refuse(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = json!({"type": "error", "error": {"type": kind, "message": message, "code": kind}});
    (status, [("content-type", "application/json")], body.to_string()).into_response()
}

fn token_of(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    text("x-api-key").or(bearer).map(str::to_owned)
}

/// Headers that are about a connection, or about who calls.
fn is_ours(name: &HeaderName) -> bool {
    [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "accept-encoding",
        "x-api-key",
        "authorization",
        "keep-alive",
        "te",
        "upgrade",
        "proxy-authorization",
    ]
    .contains(&name.as_str())
}

/// Passes one call on, and its answer back.
async fn pass(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let grant = token_of(&headers).and_then(|token| hold(&shared.grants).get(&token).cloned());
    let Some(grant) = grant else {
        let message = "this token is not, or no longer, valid: the agent's session is over";
        return refuse(StatusCode::UNAUTHORIZED, "authentication_error", message);
    };
    match over_limit(&shared, &grant).await {
        Ok(None) => {}
        Ok(Some(why)) => {
            hint(&grant, None);
            return refuse(StatusCode::BAD_REQUEST, "invalid_request_error", &why);
        }
        Err(error) => {
            let message = format!("Musher cannot look at the limits: {error}");
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "api_error", &message);
        }
    }
    // `/anthropic/v1/messages?beta=true` is `/v1/messages?beta=true` there.
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let rest = path.get(1..).and_then(|path| path.find('/').map(|at| &path[at..])).unwrap_or("/");
    let mut request = shared.client.request(method, format!("{}{rest}", grant.upstream));
    for (name, value) in headers.iter().filter(|(name, _)| !is_ours(name)) {
        request = request.header(name, value);
    }
    let key = grant.key.expose_secret();
    request = match grant.as_api_key {
        true => request.header("x-api-key", key),
        false => request.bearer_auth(key),
    };
    let asked = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let model = asked.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
    match request.body(body).send().await {
        Ok(answer) => answered(&shared, grant, answer, model),
        Err(error) => {
            let message = format!("the provider cannot be reached: {}", error.without_url());
            refuse(StatusCode::BAD_GATEWAY, "api_error", &message)
        }
    }
}

async fn over_limit(shared: &Shared, grant: &Grant) -> Result<Option<String>, StoreError> {
    let config = Arc::clone(&shared.config);
    let now = shared.store.clock().now();
    let (agent, item, project) = (grant.agent.clone(), grant.item, grant.project.clone());
    let reached = shared
        .store
        .read(move |conn| {
            let spender =
                Spender { agent: Some(&agent), item: Some(item), project: Some(&project) };
            budget::reached(conn, &config, now, &spender)
        })
        .await?;
    Ok(reached.map(|reached| reached.what))
}

/// The answer, counted while it passes.
fn answered(
    shared: &Arc<Shared>,
    grant: Arc<Grant>,
    answer: reqwest::Response,
    model: String,
) -> Response {
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| !is_ours(name)) {
        response = response.header(name, value);
    }
    let streamed = answer
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| kind.starts_with("text/event-stream"));
    let mut counted =
        Counted { meter: Some(Meter::new(streamed, model)), shared: Arc::clone(shared), grant };
    let body = answer.bytes_stream().map(move |piece| {
        if let (Ok(piece), Some(meter)) = (&piece, counted.meter.as_mut()) {
            meter.read(piece);
        }
        piece
    });
    response.body(Body::from_stream(body)).unwrap_or_else(|error| {
        refuse(StatusCode::BAD_GATEWAY, "api_error", &format!("the answer is odd: {error}"))
    })
}

/// Writes down what was counted when the answer is over, however it ended.
struct Counted {
    meter: Option<Meter>,
    shared: Arc<Shared>,
    grant: Arc<Grant>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(metered) = self.meter.take().and_then(Meter::finish) else { return };
        let (shared, grant) = (Arc::clone(&self.shared), Arc::clone(&self.grant));
        // Dropped by the server's own tasks; without a runtime the program is ending.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { record(&shared, &grant, metered).await });
        }
    }
}

async fn record(shared: &Shared, grant: &Grant, metered: Metered) {
    let cost = Cost {
        source: Source::Agent,
        name: grant.agent.name.to_string(),
        model: metered.model.clone(),
        item: Some(grant.item),
        project: Some(grant.project.clone()),
        usage: metered.usage,
        microusd: metered.microusd,
    };
    let written = shared.store.write(move |tx| costs::record(tx, &cost)).await;
    if let Err(error) = written as Result<(), StoreError> {
        tracing::error!(%error, agent = %grant.agent.name, "a model call could not be counted");
    }
    hint(grant, Some(metered));
}

/// Tells the turn, which looks at its limits. A full channel has events enough to look after.
fn hint(grant: &Grant, metered: Option<Metered>) {
    let (usage, microusd) = metered.map(|m| (m.usage, m.microusd)).unwrap_or_default();
    let _ = grant.events.try_send(RuntimeEvent::Metered { usage, microusd });
}

#[cfg(test)]
mod tests;
