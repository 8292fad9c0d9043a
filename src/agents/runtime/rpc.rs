//! JSON-RPC as lines of JSON on a child's stdio: what `codex` and `acp` are spoken to by.
//!
//! [`Peer`] writes; [`PeerReader`] reads and never waits for anything but the stream: answers to
//! our requests go to whoever waits for them, everything else is handed on. The ids of the two
//! directions are different spaces, so a message is told by its `method`, never by its id. Only
//! JSON is ever written.

use super::SendError;
use crate::agents::process::{Line, LineReader, Stdin};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, oneshot};

/// JSON-RPC: there is no such method.
pub const METHOD_NOT_FOUND: i64 = -32601;

/// How many lines may wait to be written.
const WRITES_MAX: usize = 64;

/// How much of a line that is no JSON is shown.
const SHOWN_MAX: usize = 200;

/// Why a request of ours has no result.
#[derive(Debug, Clone, PartialEq)]
pub enum RpcError {
    /// The other side refused it.
    Refused {
        /// The error's number.
        code: i64,
        /// In words.
        message: String,
        /// Whatever came with it.
        data: Value,
    },
    /// It did not answer in time.
    Late,
    /// The process is gone, or our side of the pipe is closed.
    Gone,
}

impl std::fmt::Display for RpcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { message, .. } => f.write_str(message),
            Self::Late => f.write_str("it did not answer in time"),
            Self::Gone => f.write_str("its process is gone"),
        }
    }
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, RpcError>>>>>;

/// Our end: requests, notifications and answers. Cloning shares it.
#[derive(Clone)]
pub struct Peer {
    writer: Arc<Mutex<Option<mpsc::Sender<String>>>>,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the two ends; the lines to be written come out of the receiver, see [`write_lines`].
pub fn connect<R: AsyncRead + Unpin>(
    lines: LineReader<R>,
) -> (Peer, PeerReader<R>, mpsc::Receiver<String>) {
    let (writer, to_write) = mpsc::channel(WRITES_MAX);
    let waiting = Waiting::default();
    let peer = Peer {
        writer: Arc::new(Mutex::new(Some(writer))),
        waiting: Arc::clone(&waiting),
        next: Arc::new(AtomicU64::new(1)),
    };
    (peer, PeerReader { lines, waiting }, to_write)
}

/// Writes lines until the channel or the process ends; an error when it was the process.
pub async fn write_lines(
    mut stdin: Stdin,
    mut lines: mpsc::Receiver<String>,
) -> std::io::Result<()> {
    while let Some(line) = lines.recv().await {
        stdin.write_line(&line).await?;
    }
    Ok(())
}

impl Peer {
    /// Closes our side: the process sees the end of its input.
    pub fn close(&self) {
        hold(&self.writer).take();
    }

    async fn write(&self, message: Value) -> Result<(), SendError> {
        let writer = hold(&self.writer).clone().ok_or(SendError)?;
        writer.send(message.to_string()).await.map_err(|_closed| SendError)
    }

    /// Sends a request and waits for its result, for at most `limit`.
    pub async fn request(
        &self,
        method: &str,
        params: Value,
        limit: Duration,
    ) -> Result<Value, RpcError> {
        let waiting = self.begin(method, params).await?;
        waiting.within(limit).await
    }

    /// Sends a request; its result is waited for later. The order of two such calls is kept.
    pub async fn begin(&self, method: &str, params: Value) -> Result<Pending, RpcError> {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let (tell, answer) = oneshot::channel();
        hold(&self.waiting).insert(id, tell);
        let pending = Pending { id, answer, waiting: Arc::clone(&self.waiting) };
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.write(message).await.map_err(|SendError| RpcError::Gone)?;
        Ok(pending)
    }

    /// Sends a notification.
    pub async fn notify(&self, method: &str, params: Value) -> Result<(), SendError> {
        self.write(json!({"jsonrpc": "2.0", "method": method, "params": params})).await
    }

    /// Answers a request of the other side. A process that is gone needs no answer.
    pub async fn respond(&self, id: &Value, result: Value) {
        let _ = self.write(json!({"jsonrpc": "2.0", "id": id, "result": result})).await;
    }

    /// Refuses a request of the other side.
    pub async fn refuse(&self, id: &Value, code: i64, message: &str) {
        let error = json!({"code": code, "message": message});
        let _ = self.write(json!({"jsonrpc": "2.0", "id": id, "error": error})).await;
    }
}

/// A request that was sent; dropping it forgets it.
pub struct Pending {
    id: u64,
    answer: oneshot::Receiver<Result<Value, RpcError>>,
    waiting: Waiting,
}

impl Pending {
    /// Waits for the result, for at most `limit`.
    pub async fn within(mut self, limit: Duration) -> Result<Value, RpcError> {
        match tokio::time::timeout(limit, &mut self.answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_gone)) => Err(RpcError::Gone),
            Err(_elapsed) => Err(RpcError::Late),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        hold(&self.waiting).remove(&self.id);
    }
}

/// What the other side says beside its answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// It wants something.
    Request {
        /// To answer it: a number or a text.
        id: Value,
        /// What.
        method: String,
        /// With what.
        params: Value,
    },
    /// It tells something.
    Notification {
        /// What.
        method: String,
        /// With what.
        params: Value,
    },
    /// JSON that is nothing of this protocol; passed over.
    Opaque(String),
    /// The stream ended; with a reason when it is not JSON lines any more.
    End(Option<String>),
}

/// Their end.
pub struct PeerReader<R> {
    lines: LineReader<R>,
    waiting: Waiting,
}

impl<R: AsyncRead + Unpin> PeerReader<R> {
    /// The next message that is not an answer to us. After the end, all who wait are told so.
    pub async fn next(&mut self) -> Incoming {
        loop {
            let broken = match self.lines.next().await {
                Ok(Line::Text(line)) if line.trim().is_empty() => continue,
                Ok(Line::Text(line)) => match read(&line) {
                    Ok(Message::Answer(id, outcome)) => {
                        if let Some(tell) = hold(&self.waiting).remove(&id) {
                            let _ = tell.send(outcome);
                        }
                        continue;
                    }
                    Ok(Message::Incoming(incoming)) => return incoming,
                    Err(why) => Some(why),
                },
                // It died while it wrote: its end says more than half a line.
                Ok(Line::Partial(_)) | Ok(Line::End) => None,
                Ok(Line::TooLong) => Some("it wrote a line of over 16 MiB".to_owned()),
                Err(error) => Some(format!("its output cannot be read: {error}")),
            };
            hold(&self.waiting).clear();
            return Incoming::End(broken);
        }
    }
}

enum Message {
    Answer(u64, Result<Value, RpcError>),
    Incoming(Incoming),
}

fn read(line: &str) -> Result<Message, String> {
    let shown = || &line[..line.floor_char_boundary(SHOWN_MAX)];
    let mut value: Value = serde_json::from_str(line)
        .map_err(|error| format!("its output is not JSON ({error}): {}", shown()))?;
    let Some(object) = value.as_object_mut() else {
        return Err(format!("its output is not a JSON object: {}", shown()));
    };
    let mut take = |key: &str| object.remove(key);
    let (id, method) = (take("id"), take("method"));
    let incoming = match (method, id) {
        (Some(Value::String(method)), id) => {
            let params = take("params").unwrap_or(Value::Null);
            match id {
                Some(id) if !id.is_null() => Incoming::Request { id, method, params },
                _none => Incoming::Notification { method, params },
            }
        }
        (None, Some(id)) if id.is_u64() => {
            let outcome = match (take("result"), take("error")) {
                (_, Some(error)) if !error.is_null() => Err(refused(&error)),
                (result, _) => Ok(result.unwrap_or(Value::Null)),
            };
            return Ok(Message::Answer(id.as_u64().unwrap_or_default(), outcome));
        }
        _other => Incoming::Opaque(shown().to_owned()),
    };
    Ok(Message::Incoming(incoming))
}

fn refused(error: &Value) -> RpcError {
    let message = error.get("message").and_then(Value::as_str).unwrap_or("no reason given");
    RpcError::Refused {
        code: error.get("code").and_then(Value::as_i64).unwrap_or_default(),
        message: message.to_owned(),
        data: error.get("data").cloned().unwrap_or(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn ids_of_the_two_directions_are_not_mixed_up_and_answers_come_in_any_order() {
        let output = b"{\"id\":1,\"method\":\"ask\",\"params\":{\"x\":1}}\n{\"id\":2,\"result\":\"b\"}\n\
                       {\"id\":1,\"error\":{\"code\":-5,\"message\":\"no\"}}\n{\"id\":77,\"result\":0}\n";
        let (peer, mut reader, mut written) = connect(LineReader::new(&output[..]));
        let one = peer.begin("a", json!({})).await.unwrap();
        let two = peer.begin("b", json!({})).await.unwrap();
        assert_eq!(
            reader.next().await,
            Incoming::Request { id: json!(1), method: "ask".to_owned(), params: json!({"x": 1}) }
        );
        assert_eq!(reader.next().await, Incoming::End(None));
        assert_eq!(two.within(SOON).await, Ok(json!("b")));
        assert!(matches!(one.within(SOON).await, Err(RpcError::Refused { code: -5, .. })));
        for _ in 0..2 {
            let line = written.recv().await.unwrap();
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["jsonrpc"], "2.0");
        }
    }

    #[tokio::test]
    async fn strange_bytes_and_two_megabytes_are_read_and_what_is_no_json_ends_it() {
        let mut output = b"{\"method\":\"m\",\"params\":\"\xff\"}\n".to_vec();
        let long = format!("{{\"method\":\"long\",\"params\":\"{}\"}}\n", "x".repeat(2_000_000));
        output.extend(long.into_bytes());
        output.extend_from_slice(b"{\"id\":null,\"oops\":true}\nTraceback\n");
        let (_peer, mut reader, _written) = connect(LineReader::new(&output[..]));
        let Incoming::Notification { params, .. } = reader.next().await else { panic!() };
        assert_eq!(params, "\u{fffd}");
        let Incoming::Notification { params, .. } = reader.next().await else { panic!() };
        assert_eq!(params.as_str().unwrap().len(), 2_000_000);
        assert!(matches!(reader.next().await, Incoming::Opaque(_)));
        let Incoming::End(Some(why)) = reader.next().await else { panic!() };
        assert!(why.contains("Traceback"), "{why}");
    }

    #[tokio::test]
    async fn whoever_waits_is_told_when_the_process_is_gone() {
        let (peer, mut reader, _written) = connect(LineReader::new(&b""[..]));
        let waiting = peer.begin("a", json!({})).await.unwrap();
        assert_eq!(reader.next().await, Incoming::End(None));
        assert_eq!(waiting.within(SOON).await, Err(RpcError::Gone));
        peer.close();
        assert_eq!(peer.request("b", json!({}), SOON).await, Err(RpcError::Gone));
    }
}
