//! What a model writes is text: it neither runs in a reader's client nor calls people.

use crate::support::model_server::{Reply, Request};
use crate::support::scene::Scene;

const HOSTILE: &str = r#"Here you are, @room and @everyone:

<script>alert(1)</script>
<img src="https://evil.example/pixel.png" onerror="alert(2)">
<a href="javascript:alert(3)" onclick="alert(4)">a trap</a>
<iframe src="https://evil.example"></iframe><style>*{display:none}</style>
<svg onload=alert(5)></svg><form action="https://evil.example"><input name=p></form>

[another trap](javascript:alert(6)) and [data](data:text/html;base64,PHNjcmlwdD4=)
![tracker](https://evil.example/tracker.png) <https://safe.example/page>

| name | count |
|---|---|
| apples | 3 |

```rust
fn main() { println!("<script>"); }
```

The end, with `<b>code</b>` and **bold**."#;

#[tokio::test]
async fn a_models_html_never_reaches_the_room() {
    let scene = Scene::new().await;
    scene.model.always(Request::is_musher, Reply::text(HOSTILE));
    scene.say("show me a table").await;
    let answer = scene.hear("The end").await;
    let html = answer.html().to_lowercase();

    // As text these may stand there, escaped; as tags or addresses they may not.
    for tag in ["<script", "<img", "<iframe", "<style", "<svg", "<form", "<input", "<b>code"] {
        assert!(!html.contains(tag), "{tag} in {html}");
    }
    let tags: Vec<&str> =
        html.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()).collect();
    for tag in &tags {
        for part in ["javascript:", "data:", "onerror", "onclick", "onload", "src="] {
            assert!(!tag.contains(part), "{part} in <{tag}> in {html}");
        }
        // A link is fetched when a person wants it; nothing else may name a server.
        let is_link = tag.starts_with("a href=\"https://");
        assert!(is_link || !tag.contains("evil.example"), "<{tag}> in {html}");
    }
    assert!(html.contains("<table>") && html.contains("<td>apples</td>"), "{html}");
    assert!(html.contains("<pre><code class=\"language-rust\">"), "{html}");
    assert!(html.contains("println!") && html.contains("&lt;script&gt;"), "{html}");
    assert!(html.contains("<strong>bold</strong>"), "{html}");
    assert!(html.contains("href=\"https://safe.example/page\""), "{html}");

    // `m.mentions` is there and empty: without it, servers fall back to searching the text.
    assert_eq!(answer.content["m.mentions"], serde_json::json!({}), "{}", answer.raw);
    assert!(answer.raw["content"]["m.mentions"]["room"].is_null());
    assert!(!html.contains("matrix.to/#/@"), "no pill for a name in a model's text: {html}");
}

#[tokio::test]
async fn a_name_that_a_person_gives_is_text_too() {
    let scene = Scene::new().await;
    let filed =
        scene.ask("!story <script>alert(1)</script> **loud** <img src=x onerror=y> @room").await;
    let board = scene.ask("!status").await;
    for message in [&filed, &board] {
        let html = message.html().to_lowercase();
        assert!(!html.contains("<script") && !html.contains("<img"), "{html}");
        assert_eq!(message.content["m.mentions"], serde_json::json!({}), "{}", message.raw);
    }
    assert!(board.body().contains("<script>alert(1)</script>"), "as text: {}", board.body());
    assert_eq!(
        scene.items().await[0]["name"],
        "<script>alert(1)</script> **loud** <img src=x onerror=y> @room"
    );
}
