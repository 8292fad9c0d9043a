//! Our tools over HTTP, for agents that take MCP servers by URL: on a loopback port, behind a
//! token of each session's own that dies with the session.
//!
//! The listener starts with the first session that needs it and ends with its owner. No sessions
//! of the protocol are kept: a client may come back at any time, also after a restart of its own.

use super::AgentTools;
use super::mcp::{self, PARSE_ERROR};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// The longest message: a report or mail with its payload is far below.
const BODY_MAX: usize = 4 * 1024 * 1024;

type Doors = Arc<Mutex<HashMap<String, Arc<AgentTools>>>>;

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server, running or not yet needed.
#[derive(Default)]
pub struct McpHttp {
    doors: Doors,
    listening: OnceCell<(SocketAddr, DropGuard)>,
}

/// A session's way in. Dropping it closes it.
pub struct Ticket {
    /// Where the server is.
    pub url: String,
    /// What lets in, as `Authorization: Bearer TOKEN`.
    pub token: String,
    doors: Doors,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        hold(&self.doors).remove(&self.token);
    }
}

impl McpHttp {
    /// Opens a way in to `tools`; starts the server with the first one.
    pub async fn open(&self, tools: Arc<AgentTools>) -> std::io::Result<Ticket> {
        let start = || start(Arc::clone(&self.doors));
        let (address, _running) = self.listening.get_or_try_init(start).await?;
        let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        hold(&self.doors).insert(token.clone(), tools);
        Ok(Ticket { url: format!("http://{address}/mcp"), token, doors: Arc::clone(&self.doors) })
    }
}

async fn start(doors: Doors) -> std::io::Result<(SocketAddr, DropGuard)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let router =
        Router::new().fallback(serve).layer(DefaultBodyLimit::max(BODY_MAX)).with_state(doors);
    let over = CancellationToken::new();
    let ended = over.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = ended.cancelled() => {}
            served = async { axum::serve(listener, router).await } => {
                tracing::error!(?served, "the tools' server ended by itself");
            }
        }
    });
    Ok((address, over.drop_guard()))
}

async fn serve(
    State(doors): State<Doors>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let Some(tools) = hold(&doors).get(token).cloned() else {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, challenge, "no session has this token\n")
            .into_response();
    };
    if method != Method::POST {
        // There is no stream of our own to listen to.
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let message: Value = match serde_json::from_slice(&body) {
        Ok(message) => message,
        Err(error) => {
            let answer = mcp::failed(&Value::Null, PARSE_ERROR, &error.to_string());
            return (StatusCode::BAD_REQUEST, json_text(&answer)).into_response();
        }
    };
    // A request that is sent again has the same id and the same words, a new one does not.
    let turn = tools.turn();
    let name = || {
        let words = format!("{} {}", message["id"], message["params"]);
        format!("h{turn}-{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, words.as_bytes()).simple())
    };
    // In a task of its own: a client that goes away does not leave a call half done.
    let (asked, tools) = (message.clone(), Arc::clone(&tools));
    let name = name();
    let answered = tokio::spawn(async move { mcp::answer(&tools, &asked, || name).await });
    match answered.await {
        Ok(Some(answer)) => json_text(&answer).into_response(),
        Ok(None) => StatusCode::ACCEPTED.into_response(),
        Err(error) => {
            tracing::error!(%error, "a tool call failed");
            let answer = mcp::failed(&message["id"], mcp::INTERNAL_ERROR, "the tool failed");
            json_text(&answer).into_response()
        }
    }
}

fn json_text(value: &Value) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::runtime::testing;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Status and body of one request.
    async fn call(ticket: &Ticket, token: &str, method: &str, body: &str) -> (u16, String) {
        let address = ticket.url.trim_start_matches("http://").trim_end_matches("/mcp");
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!(
            "{method} /mcp HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    #[tokio::test]
    async fn only_a_living_sessions_token_reaches_its_tools() {
        let server = McpHttp::default();
        let ticket = server.open(testing::tools()).await.unwrap();
        let other = server.open(testing::tools()).await.unwrap();
        assert_ne!(ticket.token, other.token);
        let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
        let (status, body) = call(&ticket, &ticket.token, "POST", &list).await;
        assert!(status == 200 && body.contains("report_done"), "{status} {body}");
        for token in ["", "x", &other.token[..10]] {
            assert_eq!(call(&ticket, token, "POST", &list).await.0, 401);
        }
        assert_eq!(call(&ticket, &ticket.token, "GET", "").await.0, 405);
        assert_eq!(call(&ticket, &ticket.token, "POST", "no json").await.0, 400);
        let told = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
        assert_eq!(call(&ticket, &ticket.token, "POST", &told).await.0, 202);
        let token = other.token.clone();
        drop(other);
        assert_eq!(call(&ticket, &token, "POST", &list).await.0, 401, "it died with its session");
    }

    #[tokio::test]
    async fn a_call_that_is_sent_again_is_the_same_call_and_another_is_not() {
        let server = McpHttp::default();
        let ticket = server.open(testing::tools()).await.unwrap();
        let ask = |id: u32, text: &str| {
            let params = json!({"name": "report_done", "arguments": {"summary": text}});
            json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
                .to_string()
        };
        let mut said = vec![];
        for (id, text) in [(1, "a"), (1, "a"), (1, "b"), (2, "a")] {
            said.push(call(&ticket, &ticket.token, "POST", &ask(id, text)).await.1);
        }
        // The test's tool says under which name it was called.
        assert_eq!(said[0], said[1]);
        assert_ne!(said[0], said[2]);
        assert_ne!(said[0].split("h1-").nth(1), said[3].split("h1-").nth(1));
    }
}
