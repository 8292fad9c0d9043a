//! A reply in the two wire formats, as one document or as a stream of server-sent events.

use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use futures_util::stream;
use serde_json::{Value, json};

use super::reply::{Block, Reply, tokens};
use super::{Api, Request};

/// A streamed text comes in pieces of this many characters.
const PIECE: usize = 12;

/// Marks the request as abandoned, unless the answer was completed.
struct Watch {
    request: Request,
    complete: bool,
}

impl Watch {
    fn completed(&mut self) {
        self.complete = true;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.complete {
            self.request.abandon();
        }
    }
}

/// Answers `request` with `reply`.
pub(super) async fn answer(request: Request, reply: Reply) -> Response<Body> {
    let mut watch = Watch { request, complete: false };
    let reply = reply.with_fresh_ids();
    if reply.never {
        std::future::pending::<()>().await;
    }
    if let Some(mut hold) = reply.hold.clone() {
        // A dropped hold releases as well: the story is over.
        hold.wait_for(|released| *released).await.ok();
    }
    if !reply.delay.is_zero() {
        tokio::time::sleep(reply.delay).await;
    }
    let request = &watch.request;
    if let Some(status) = reply.status {
        let response = error(request.api, status, &reply);
        watch.completed();
        return response;
    }
    if request.wants_stream() {
        let pieces = match request.api {
            Api::Anthropic | Api::CountTokens => anthropic_events(request, &reply),
            Api::OpenAi => openai_events(request, &reply),
            Api::Responses => super::responses::events(request, &reply),
        };
        return streamed(watch, pieces, reply.pause, reply.drop_after);
    }
    let document = match request.api {
        Api::Anthropic | Api::CountTokens => anthropic_document(request, &reply),
        Api::OpenAi | Api::Responses => openai_document(request, &reply),
    };
    watch.completed();
    respond(200, &document, None)
}

/// Sends `pieces` one by one; each is a whole server-sent event.
fn streamed(
    watch: Watch,
    pieces: Vec<String>,
    pause: Duration,
    drop_after: Option<usize>,
) -> Response<Body> {
    let start = (watch, pieces.into_iter().enumerate());
    let body = stream::unfold(start, move |(mut watch, mut pieces)| async move {
        let Some((place, piece)) = pieces.next() else {
            watch.completed();
            return None;
        };
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if drop_after.is_some_and(|limit| place >= limit) {
            // Without this pause the pieces before may not have left yet.
            tokio::time::sleep(Duration::from_millis(20)).await;
            watch.completed();
            let broken = std::io::Error::other("scripted break of the connection");
            return Some((Err(broken), (watch, vec![].into_iter().enumerate())));
        }
        Some((Ok(piece), (watch, pieces)))
    });
    Response::builder()
        .header("content-type", "text/event-stream; charset=utf-8")
        .header("cache-control", "no-cache")
        .header("request-id", "req_test")
        .body(Body::from_stream(body))
        .unwrap()
}

fn respond(status: u16, document: &Value, retry_after: Option<Duration>) -> Response<Body> {
    let mut response = Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .header("request-id", "req_test");
    if let Some(wait) = retry_after {
        response = response.header("retry-after", wait.as_secs_f64().ceil().to_string());
    }
    response.body(Body::from(document.to_string())).unwrap()
}

fn error(api: Api, status: u16, reply: &Reply) -> Response<Body> {
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    let error = json!({"type": kind, "message": reply.message});
    let document = match api {
        Api::Anthropic | Api::CountTokens => json!({"type": "error", "error": error}),
        Api::OpenAi | Api::Responses => {
            json!({"error": {"message": reply.message, "type": kind, "code": kind, "param": null}})
        }
    };
    respond(status, &document, reply.retry_after)
}

/// What a path that is no API gets.
pub(super) fn not_found(path: &str) -> Response<Body> {
    let error = json!({"type": "not_found_error", "message": format!("no such path: {path}")});
    respond(404, &json!({"type": "error", "error": error}), None)
}

/// The answer of `/v1/messages/count_tokens`.
pub(super) fn token_count(request: &Request) -> Response<Body> {
    respond(200, &json!({"input_tokens": tokens(request.body.to_string().len())}), None)
}

// Anthropic

fn anthropic_usage(request: &Request, reply: &Reply) -> Value {
    let usage = reply.counted(request);
    json!({
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write,
    })
}

fn anthropic_stop(reply: &Reply) -> &str {
    let usual = if reply.calls_tool() { "tool_use" } else { "end_turn" };
    reply.stop_reason.as_deref().unwrap_or(usual)
}

fn message_id() -> String {
    format!("msg_{}", uuid::Uuid::new_v4().simple())
}

fn anthropic_document(request: &Request, reply: &Reply) -> Value {
    let content: Vec<Value> = reply
        .blocks
        .iter()
        .map(|block| match block {
            Block::Thinking(text) => {
                json!({"type": "thinking", "thinking": text, "signature": "test"})
            }
            Block::Text(text) => json!({"type": "text", "text": text}),
            Block::Call { id, name, input } => {
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        })
        .collect();
    json!({
        "id": message_id(),
        "type": "message",
        "role": "assistant",
        "model": request.model(),
        "content": content,
        "stop_reason": anthropic_stop(reply),
        "stop_sequence": null,
        "usage": anthropic_usage(request, reply),
    })
}

fn anthropic_events(request: &Request, reply: &Reply) -> Vec<String> {
    let usage = anthropic_usage(request, reply);
    let mut first = usage.clone();
    first["output_tokens"] = json!(1);
    let mut events = vec![
        json!({"type": "message_start", "message": {
            "id": message_id(), "type": "message", "role": "assistant", "model": request.model(),
            "content": [], "stop_reason": null, "stop_sequence": null, "usage": first,
        }}),
        json!({"type": "ping"}),
    ];
    for (index, block) in reply.blocks.iter().enumerate() {
        let (start, deltas) = anthropic_block(block);
        events.push(json!({"type": "content_block_start", "index": index, "content_block": start}));
        for delta in deltas {
            events.push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    events.push(json!({
        "type": "message_delta",
        "delta": {"stop_reason": anthropic_stop(reply), "stop_sequence": null},
        "usage": usage,
    }));
    events.push(json!({"type": "message_stop"}));
    let name = |event: &Value| event["type"].as_str().unwrap_or_default().to_owned();
    events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", name(event))).collect()
}

fn anthropic_block(block: &Block) -> (Value, Vec<Value>) {
    match block {
        Block::Thinking(text) => {
            let mut deltas: Vec<Value> = pieces(text)
                .map(|piece| json!({"type": "thinking_delta", "thinking": piece}))
                .collect();
            deltas.push(json!({"type": "signature_delta", "signature": "test"}));
            (json!({"type": "thinking", "thinking": "", "signature": ""}), deltas)
        }
        Block::Text(text) => {
            let delta = |piece| json!({"type": "text_delta", "text": piece});
            (json!({"type": "text", "text": ""}), pieces(text).map(delta).collect())
        }
        Block::Call { id, name, input } => {
            let input = input.to_string();
            let delta = |piece| json!({"type": "input_json_delta", "partial_json": piece});
            let start = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
            (start, pieces(&input).map(delta).collect())
        }
    }
}

// OpenAI

fn openai_usage(request: &Request, reply: &Reply) -> Value {
    let usage = reply.counted(request);
    let (input, output) = (usage.input.unwrap_or_default(), usage.output.unwrap_or_default());
    json!({
        "prompt_tokens": input,
        "completion_tokens": output,
        "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read},
    })
}

fn openai_stop(reply: &Reply) -> &str {
    match reply.stop_reason.as_deref() {
        Some("max_tokens") => "length",
        Some("refusal") => "content_filter",
        _ if reply.calls_tool() => "tool_calls",
        _ => "stop",
    }
}

fn openai_text(reply: &Reply) -> String {
    let text = |block: &Block| match block {
        Block::Text(text) => Some(text.clone()),
        Block::Thinking(_) | Block::Call { .. } => None,
    };
    reply.blocks.iter().filter_map(text).collect()
}

fn openai_calls(reply: &Reply) -> Vec<Value> {
    let calls = reply.blocks.iter().filter_map(|block| match block {
        Block::Call { id, name, input } => Some((id, name, input.to_string())),
        Block::Thinking(_) | Block::Text(_) => None,
    });
    calls
        .map(|(id, name, arguments)| {
            json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        })
        .collect()
}

fn openai_document(request: &Request, reply: &Reply) -> Value {
    let (text, calls) = (openai_text(reply), openai_calls(reply));
    let mut message = json!({"role": "assistant", "content": text});
    if !calls.is_empty() {
        message["tool_calls"] = json!(calls);
        message["content"] = if text.is_empty() { Value::Null } else { json!(text) };
    }
    json!({
        "id": format!("chatcmpl-{}", message_id()),
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": request.model(),
        "choices": [{"index": 0, "message": message, "finish_reason": openai_stop(reply)}],
        "usage": openai_usage(request, reply),
    })
}

fn openai_events(request: &Request, reply: &Reply) -> Vec<String> {
    let id = format!("chatcmpl-{}", message_id());
    let chunk = |choices: Value| {
        json!({
            "id": id, "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": request.model(), "choices": choices,
        })
    };
    let piece = |delta: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]));
    let mut chunks = vec![piece(json!({"role": "assistant", "content": ""}))];
    chunks.extend(pieces(&openai_text(reply)).map(|text| piece(json!({"content": text}))));
    for (index, mut call) in openai_calls(reply).into_iter().enumerate() {
        let arguments = call["function"]["arguments"].take();
        call["index"] = json!(index);
        call["function"]["arguments"] = json!("");
        chunks.push(piece(json!({"tool_calls": [call]})));
        for part in pieces(arguments.as_str().unwrap_or_default()) {
            let fragment = json!({"index": index, "function": {"arguments": part}});
            chunks.push(piece(json!({"tool_calls": [fragment]})));
        }
    }
    chunks.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": openai_stop(reply)}])));
    if request.body["stream_options"]["include_usage"] == true {
        let mut last = chunk(json!([]));
        last["usage"] = openai_usage(request, reply);
        chunks.push(last);
    }
    let mut events: Vec<String> = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    events.push("data: [DONE]\n\n".to_owned());
    events
}

/// Cuts a text into pieces, never inside a character.
fn pieces(text: &str) -> impl Iterator<Item = String> {
    let characters: Vec<char> = text.chars().collect();
    let cut: Vec<String> = characters.chunks(PIECE).map(|piece| piece.iter().collect()).collect();
    cut.into_iter()
}
