use super::*;
use crate::clock::Clock;
use axum::Router;

/// A provider that notes what it was asked, and answers with a stream.
async fn provider() -> (String, Arc<Mutex<Vec<(String, String, String)>>>) {
    let asked: Arc<Mutex<Vec<(String, String, String)>>> = Arc::default();
    let seen = Arc::clone(&asked);
    let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap, body: String| {
        let key = headers.get("x-api-key").map(|key| key.to_str().unwrap().to_owned());
        hold(&seen).push((uri.to_string(), key.unwrap_or_default(), body));
        async {
            let start = json!({"message": {"model": "claude-sonnet-4-5",
                "usage": {"input_tokens": 100, "output_tokens": 1}}});
            let end = json!({"delta": {}, "usage": {"output_tokens": 50}});
            ([("content-type", "text/event-stream")], format!("data: {start}\n\ndata: {end}\n\n"))
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, asked)
}

fn config(agent: Value) -> Arc<Config> {
    let config = json!({"llm": {"provider": "replay"}, "agents": [agent]});
    Arc::new(serde_json::from_value(config).unwrap())
}

#[tokio::test]
async fn the_key_stays_here_calls_are_counted_and_the_token_ends_with_the_session_or_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    let config = config(json!({
        "name": "coder-1", "role": "coder", "runtime": "claude-code", "max_tokens": 160,
    }));
    let (upstream, asked) = provider().await;
    let gateway = Gateway::start(store.clone(), Arc::clone(&config)).await.unwrap();
    let (events, mut heard) = mpsc::channel(8);
    let (agent, project) = (&config.agents[0], ProjectName::from("demo"));
    let bearer = Bearer { agent, item: ItemId(1), project: &project, events: &events };
    let mut env: BTreeMap<String, String> = [
        ("ANTHROPIC_API_KEY", "sk-real"),
        ("ANTHROPIC_AUTH_TOKEN", "also-real"),
        ("ANTHROPIC_BASE_URL", upstream.as_str()),
        ("PATH", "/bin"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let token = gateway.grant(&bearer, &mut env).unwrap();
    assert!(!format!("{env:?}").contains("real"), "{env:?}");
    assert!(!env.contains_key("ANTHROPIC_AUTH_TOKEN"));
    let (base, given) = (env["ANTHROPIC_BASE_URL"].clone(), env["ANTHROPIC_API_KEY"].clone());
    let client = reqwest::Client::new();
    let call = |key: &str| {
        let url = format!("{base}/v1/messages?beta=true");
        let request = client.post(url).header("x-api-key", key).body(r#"{"model":"m"}"#);
        async move {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }
    };

    let (status, text) = call(&given).await;
    assert_eq!((status, text.matches("data: ").count()), (200, 2), "{text}");
    let expected =
        ("/v1/messages?beta=true".to_owned(), "sk-real".to_owned(), r#"{"model":"m"}"#.to_owned());
    assert_eq!(hold(&asked)[0], expected);
    let told = tokio::time::timeout(Duration::from_secs(10), heard.recv()).await.unwrap();
    assert!(matches!(told, Some(RuntimeEvent::Metered { microusd: 1050, .. })), "{told:?}");
    let spent =
        store.read(|conn| costs::of_name_on_item(conn, "coder-1", ItemId(1))).await.unwrap();
    assert_eq!((spent.tokens(), spent.microusd), (150, 1050));

    assert_eq!(call("sk-guessed").await.0, 401);
    assert_eq!(call(&given).await.0, 200, "10 tokens are left, and nobody knows what a call takes");
    tokio::time::timeout(Duration::from_secs(10), heard.recv()).await.unwrap();
    let (status, text) = call(&given).await;
    assert!(status == 400 && text.contains("max_tokens"), "{status} {text}");
    drop(token);
    assert_eq!(call(&given).await.0, 401, "the session is over");
    assert_eq!(hold(&asked).len(), 2, "nothing more was passed on");
}

#[tokio::test]
async fn what_has_no_key_to_keep_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    let agent = |runtime: &str, gateway: bool| {
        let agent = json!({"name": "a", "role": "coder", "runtime": runtime, "gateway": gateway});
        config(agent)
    };
    assert!(leads(&agent("claude-code", true).agents[0]));
    assert!(!leads(&agent("claude-code", false).agents[0]));
    assert!(!leads(&agent("api", true).agents[0]));
    let config = agent("codex", true);
    let gateway = Gateway::start(store, Arc::clone(&config)).await.unwrap();
    let (events, _heard) = mpsc::channel(1);
    let project = ProjectName::from("demo");
    let bearer =
        Bearer { agent: &config.agents[0], item: ItemId(1), project: &project, events: &events };
    // The person's own login, or another provider's key.
    let mut env: BTreeMap<String, String> =
        [("ANTHROPIC_API_KEY".to_owned(), "x".to_owned())].into();
    let before = env.clone();
    assert!(gateway.grant(&bearer, &mut env).is_none());
    assert_eq!(env, before);
    env.insert("OPENAI_API_KEY".to_owned(), "sk-real".to_owned());
    let _token = gateway.grant(&bearer, &mut env).unwrap();
    assert!(
        env["OPENAI_API_KEY"].starts_with("musher-") && env["OPENAI_BASE_URL"].ends_with("/openai")
    );
}
