use super::*;
use crate::model::llm::Speaker;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::Instant;

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server answers next.
#[derive(Clone)]
enum Answer {
    /// Frames of a stream; the connection then closes.
    Stream(Vec<String>),
    /// Frames of a stream; the connection then stays open and silent.
    Hang(Vec<String>),
    /// An error: status, headers, body.
    Fail(u16, Vec<(&'static str, &'static str)>, String),
}

#[derive(Clone, Default)]
struct Server {
    answers: Arc<Mutex<Vec<Answer>>>,
    /// Path, key and body of each request.
    seen: Arc<Mutex<Vec<(String, String, Value)>>>,
}

async fn handle(
    State(server): State<Server>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| {
        headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let key = format!("{}{}", header("x-api-key"), header("authorization"));
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    server.seen.lock().unwrap().push((uri.path().to_owned(), key, body));
    let answer = server.answers.lock().unwrap().remove(0);
    let response = Response::builder().header("content-type", "text/event-stream");
    let frames = |frames: Vec<String>| {
        futures_util::stream::iter(frames.into_iter().map(Ok::<_, std::io::Error>))
    };
    match answer {
        Answer::Stream(list) => response.body(Body::from_stream(frames(list))).unwrap(),
        Answer::Hang(list) => {
            use futures_util::StreamExt as _;
            let endless = frames(list).chain(futures_util::stream::pending());
            response.body(Body::from_stream(endless)).unwrap()
        }
        Answer::Fail(status, headers, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Body::from(body)).unwrap()
        }
    }
}

/// Starts a server that gives these answers, one a request.
async fn serve(answers: Vec<Answer>) -> (Server, String) {
    let server = Server { answers: Arc::new(Mutex::new(answers)), ..Server::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(handle).with_state(server.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (server, url)
}

fn config(provider: Provider, url: &str) -> LlmConfig {
    let provider = serde_json::to_value(provider).unwrap();
    let model = "claude-sonnet-4-5";
    serde_json::from_value(json!({"provider": provider, "model": model, "base_url": url})).unwrap()
}

fn frame(event: &str, data: Value) -> String {
    format!("event: {event}\ndata: {data}\n\n")
}

/// A text and a call, as Anthropic streams them.
fn anthropic() -> Vec<String> {
    vec![
        frame(
            "message_start",
            json!({"type": "message_start", "message": {"id": "m", "usage": {
            "input_tokens": 10, "cache_read_input_tokens": 2000,
            "cache_creation_input_tokens": 100, "output_tokens": 1}}}),
        ),
        frame(
            "content_block_start",
            json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
        ),
        frame("ping", json!({"type": "ping"})),
        frame(
            "content_block_delta",
            json!({"index": 0, "delta": {"type": "text_delta", "text": "Let me "}}),
        ),
        frame(
            "content_block_delta",
            json!({"index": 0, "delta": {"type": "text_delta", "text": "look."}}),
        ),
        frame("content_block_stop", json!({"index": 0})),
        frame(
            "content_block_start",
            json!({"index": 1, "content_block":
            {"type": "tool_use", "id": "toolu_1", "name": "item_show", "input": {}}}),
        ),
        frame(
            "content_block_delta",
            json!({"index": 1, "delta":
            {"type": "input_json_delta", "partial_json": "{\"item\":"}}),
        ),
        frame(
            "content_block_delta",
            json!({"index": 1, "delta":
            {"type": "input_json_delta", "partial_json": " 7}"}}),
        ),
        frame("content_block_stop", json!({"index": 1})),
        frame(
            "message_delta",
            json!({"delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 20}}),
        ),
        frame("message_stop", json!({"type": "message_stop"})),
    ]
}

/// The same, as OpenAI streams it.
fn openai() -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        format!(
            "data: {}\n\n",
            json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        )
    };
    let call = |call: Value| json!({"tool_calls": [call]});
    vec![
        chunk(json!({"role": "assistant", "content": ""}), Value::Null),
        chunk(json!({"content": "Let me "}), Value::Null),
        chunk(json!({"content": "look."}), Value::Null),
        chunk(
            call(json!({"index": 0, "id": "call_a", "type": "function",
            "function": {"name": "item_show", "arguments": ""}})),
            Value::Null,
        ),
        chunk(call(json!({"index": 0, "function": {"arguments": "{\"item\":"}})), Value::Null),
        chunk(call(json!({"index": 0, "function": {"arguments": " 7}"}})), Value::Null),
        chunk(json!({}), json!("tool_calls")),
        format!(
            "data: {}\n\n",
            json!({"choices": [], "usage": {"prompt_tokens": 2110,
            "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 2000}}})
        ),
        "data: [DONE]\n\n".to_owned(),
    ]
}

/// A conversation with a tool call that failed.
fn conversation() -> Vec<LlmMessage> {
    let call =
        Part::ToolCall { id: "c1".into(), name: "item_show".into(), arguments: json!({"item": 6}) };
    let result = Part::ToolResult { id: "c1".into(), text: "no item #6".into(), is_error: true };
    vec![
        LlmMessage::user("show me"),
        LlmMessage { speaker: Speaker::Assistant, parts: vec![call] },
        LlmMessage {
            speaker: Speaker::User,
            parts: vec![result, Part::Text { text: "I meant 7".into() }],
        },
    ]
}

fn tools() -> Vec<ToolSpec> {
    vec![ToolSpec {
        name: "item_show".into(),
        description: "Shows an item.".into(),
        schema: json!({"type": "object", "properties": {"item": {"type": "integer"}}}),
    }]
}

/// Asks; returns the outcome and what was streamed.
async fn ask(llm: &Llm, cancel: CancellationToken) -> (Result<Reply, LlmError>, Vec<Delta>) {
    let (messages, tools) = (conversation(), tools());
    let request = Request {
        system: "You are a test.",
        messages: &messages,
        tools: &tools,
        max_output_tokens: 100,
        cancel,
    };
    let mut deltas = Vec::new();
    let mut on = |delta| deltas.push(delta);
    let outcome = tokio::time::timeout(PATIENCE, llm.stream(request, &mut on)).await;
    let outcome = outcome.expect("the call ends");
    (outcome, deltas)
}

fn check_reply(reply: &Reply, deltas: &[Delta]) {
    let text: String = deltas
        .iter()
        .filter_map(|delta| if let Delta::Text(text) = delta { Some(text.as_str()) } else { None })
        .collect();
    assert_eq!(text, "Let me look.");
    assert_eq!(reply.message.text(), "Let me look.");
    let Some(Part::ToolCall { name, arguments, .. }) = reply.message.parts.last() else {
        panic!("no call in {reply:?}");
    };
    assert_eq!((name.as_str(), arguments), ("item_show", &json!({"item": 7})));
    assert!(deltas.contains(&Delta::ToolCall { name: "item_show".into() }));
    assert_eq!(reply.stop, Stop::ToolCalls);
    assert_eq!(reply.usage, Usage { input: 110, cached: 2000, output: 20 });
}

#[tokio::test]
async fn anthropics_wire_streams_text_and_calls_and_counts_the_cache() {
    let (server, url) = serve(vec![Answer::Stream(anthropic())]).await;
    let llm = Llm::new(&config(Provider::Anthropic, &url), None).unwrap();
    let (reply, deltas) = ask(&llm, CancellationToken::new()).await;
    let reply = reply.unwrap();
    check_reply(&reply, &deltas);
    // 10 fresh at 3, 2000 cached at 0.3, 100 written at 3.75, 20 out at 15 dollars a million.
    assert_eq!(reply.cost_microusd, 30 + 600 + 375 + 300);
    let (path, _, body) = server.seen.lock().unwrap()[0].clone();
    assert_eq!(path, "/v1/messages");
    assert_eq!(body["system"], "You are a test.");
    assert_eq!(body["tools"][0]["name"], "item_show");
    assert_eq!(body["messages"][2]["content"][0]["is_error"], true);
    assert_eq!(body["messages"][3]["content"][0]["cache_control"]["type"], "ephemeral");
}

#[tokio::test]
async fn openais_wire_streams_text_and_calls_and_counts_the_cache() {
    let (server, url) = serve(vec![Answer::Stream(openai())]).await;
    let llm = Llm::new(&config(Provider::Openai, &format!("{url}/v1")), Some("gpt-4o")).unwrap();
    let (reply, deltas) = ask(&llm, CancellationToken::new()).await;
    check_reply(&reply.unwrap(), &deltas);
    let (path, _, body) = server.seen.lock().unwrap()[0].clone();
    assert_eq!(path, "/v1/chat/completions");
    assert_eq!(body["model"], "gpt-4o");
    assert_eq!(body["messages"][0]["role"], "system");
    assert_eq!(body["messages"][3]["role"], "tool");
    assert_eq!(body["messages"][3]["content"], "ERROR: no item #6");
    assert_eq!(body["messages"][4]["content"], "I meant 7");
}

#[tokio::test]
async fn a_wrong_key_is_said_at_once_with_the_remedy_and_never_tried_again() {
    let body = json!({"error": {"type": "authentication_error", "message": "invalid x-api-key"}});
    let (server, url) = serve(vec![Answer::Fail(401, vec![], body.to_string())]).await;
    let llm = Llm::new(&config(Provider::Anthropic, &url), None).unwrap();
    let (outcome, _) = ask(&llm, CancellationToken::new()).await;
    let error = outcome.unwrap_err();
    assert!(matches!(error, LlmError::Unauthorised { .. }) && !error.is_transient());
    assert!(error.to_string().contains("invalid x-api-key"), "{error}");
    assert!(error.to_string().contains("api_key_env"), "{error}");
    assert_eq!(server.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_rate_limit_is_waited_out_as_long_as_the_server_says() {
    let limited = Answer::Fail(429, vec![("retry-after", "1")], "{}".into());
    let (_server, url) = serve(vec![limited, Answer::Stream(openai())]).await;
    let llm = Llm::new(&config(Provider::Openai, &url), None).unwrap();
    let began = Instant::now();
    let (reply, deltas) = ask(&llm, CancellationToken::new()).await;
    check_reply(&reply.unwrap(), &deltas);
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(matches!(&deltas[0], Delta::Retrying { wait, .. } if *wait == Duration::from_secs(1)));
}

#[tokio::test]
async fn a_rate_limit_that_lasts_is_told_and_not_waited_for() {
    let limited = Answer::Fail(429, vec![("retry-after", "3600")], "{}".into());
    let (_server, url) = serve(vec![limited]).await;
    let llm = Llm::new(&config(Provider::Anthropic, &url), None).unwrap();
    let (outcome, _) = ask(&llm, CancellationToken::new()).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert!(error.to_string().contains("3600 s"), "{error}");
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_a_failed_attempt_and_not_an_answer() {
    for (provider, mut frames) in [(Provider::Anthropic, anthropic()), (Provider::Openai, openai())]
    {
        let whole = frames.clone();
        frames.pop();
        let (_server, url) = serve(vec![Answer::Stream(frames), Answer::Stream(whole)]).await;
        let llm = Llm::new(&config(provider, &url), None).unwrap();
        let (reply, deltas) = ask(&llm, CancellationToken::new()).await;
        let retrying = deltas.iter().position(|delta| matches!(delta, Delta::Retrying { .. }));
        check_reply(&reply.unwrap(), &deltas[retrying.unwrap() + 1..]);
    }
}

#[tokio::test]
async fn an_error_inside_a_stream_ends_it() {
    let mut frames = anthropic();
    frames.truncate(4);
    frames.push(frame(
        "error",
        json!({"type": "error", "error": {"type": "invalid_request_error", "message": "bad"}}),
    ));
    frames.extend(anthropic());
    let (_server, url) = serve(vec![Answer::Stream(frames)]).await;
    let llm = Llm::new(&config(Provider::Anthropic, &url), None).unwrap();
    let (outcome, _) = ask(&llm, CancellationToken::new()).await;
    assert!(matches!(outcome, Err(LlmError::BadRequest { .. })));
}

#[tokio::test]
async fn a_hanging_call_is_cancelled_at_once() {
    let frames = anthropic()[..4].to_vec();
    let (_server, url) = serve(vec![Answer::Hang(frames)]).await;
    let llm = Llm::new(&config(Provider::Anthropic, &url), None).unwrap();
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.cancel();
    });
    let began = Instant::now();
    let (outcome, deltas) = ask(&llm, cancel).await;
    assert_eq!(outcome, Err(LlmError::Cancelled));
    assert_eq!(deltas, [Delta::Text("Let me ".into())]);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn nobody_listening_is_unreachable_and_said_so() {
    let url = "http://127.0.0.1:1";
    let wire = wire::Wire::new(&config(Provider::Openai, url), "gpt-4o", None).unwrap();
    let (messages, tools) = (conversation(), tools());
    let request = Request {
        system: "",
        messages: &messages,
        tools: &tools,
        max_output_tokens: 1,
        cancel: CancellationToken::new(),
    };
    let error = wire.attempt(&request, &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, LlmError::Unreachable { .. }), "{error:?}");
    assert!(error.is_transient() && error.to_string().contains("base_url"));
}

#[tokio::test]
async fn a_key_from_a_file_is_sent_and_kept_out_of_every_text() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "very-secret-key\n").unwrap();
    let (server, url) = serve(vec![Answer::Fail(401, vec![], "no very-secret-key".into())]).await;
    let mut config = config(Provider::Anthropic, &url);
    config.api_key_file = Some(path.clone());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Llm::new(&config, None).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let llm = Llm::new(&config, None).unwrap();
    let (outcome, _) = ask(&llm, CancellationToken::new()).await;
    assert_eq!(server.seen.lock().unwrap()[0].1, "very-secret-key");
    assert!(!outcome.unwrap_err().to_string().contains("very-secret-key"));
}

#[tokio::test]
async fn ids_of_calls_are_unique_in_a_conversation_whatever_the_server_sends() {
    let frames: Vec<String> =
        openai().into_iter().map(|frame| frame.replace("call_a", "c1")).collect();
    let (_server, url) = serve(vec![Answer::Stream(frames)]).await;
    let llm = Llm::new(&config(Provider::Openai, &url), None).unwrap();
    let (reply, _) = ask(&llm, CancellationToken::new()).await;
    let parts = reply.unwrap().message.parts;
    assert!(matches!(parts.last(), Some(Part::ToolCall { id, .. }) if id != "c1"), "{parts:?}");
}

#[tokio::test]
async fn a_recording_is_chosen_by_what_was_asked_and_fills_in_results() {
    let recording = replay::Recording::parse(
        r#"{"exchanges": [
            {"when": ["fix"], "steps": [
                {"text": "I file it.", "calls": [{"name": "item_create", "arguments": {"name": "x"}}]},
                {"calls": [{"name": "item_start", "arguments": {"item": "{{item}}", "why": "for #{{item}}"}}]},
                {"text": "Started #{{item}}."}]},
            {"steps": [{"text": "I only know the recording."}]}]}"#,
    );
    let llm = Llm::from_model(Arc::new(recording.unwrap()), "replay");
    let mut messages = vec![LlmMessage::user("The tests fail, please FIX")];
    for (number, expected) in
        [json!({"name": "x"}), json!({"item": 12, "why": "for #12"})].into_iter().enumerate()
    {
        let reply = llm.stream(plain(&messages), &mut |_| {}).await.unwrap();
        let Some(Part::ToolCall { id, arguments, .. }) = reply.message.parts.last() else {
            panic!("no call");
        };
        assert_eq!(arguments, &expected);
        let result =
            Part::ToolResult { id: id.clone(), text: format!("#{}", 12 + number), is_error: false };
        messages.push(reply.message.clone());
        messages.push(LlmMessage { speaker: Speaker::User, parts: vec![result] });
    }
    let reply = llm.stream(plain(&messages), &mut |_| {}).await.unwrap();
    assert!(reply.message.text().starts_with("Started #13."));
    assert!(reply.message.text().contains(replay::LABEL));
    messages.push(LlmMessage::user("and now?"));
    let reply = llm.stream(plain(&messages), &mut |_| {}).await.unwrap();
    assert!(reply.message.text().starts_with("I only know"));
}

fn plain(messages: &[LlmMessage]) -> Request<'_> {
    Request {
        system: "",
        messages,
        tools: &[],
        max_output_tokens: 1,
        cancel: CancellationToken::new(),
    }
}
