use super::*;
use proptest::prelude::*;

fn rendered(markdown: &str) -> String {
    html(markdown).unwrap_or_default()
}

#[test]
fn markdown_becomes_the_html_of_matrix() {
    for (markdown, expected) in [
        ("**bold** and `code`", "<p><strong>bold</strong> and <code>code</code></p>"),
        ("one\ntwo", "<p>one<br>\ntwo</p>"),
        ("~~gone~~", "<p><del>gone</del></p>"),
        (
            "```rust\nfn main() {}\n```",
            "<pre><code class=\"language-rust\">fn main() {}\n</code></pre>",
        ),
        (
            "| a | b |\n|---|--:|\n| 1 | 2 |",
            "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody>\n\
             <tr><td>1</td><td>2</td></tr>\n</tbody></table>",
        ),
        ("3. three\n4. four", "<ol start=\"3\">\n<li>three</li>\n<li>four</li>\n</ol>"),
        ("- [x] done\n- [ ] open", "<ul>\n<li>☑ done</li>\n<li>☐ open</li>\n</ul>"),
        ("[x](https://a.example)", "<p><a href=\"https://a.example\">x</a></p>"),
        ("![cat](mxc://hs/1)", "<p><img src=\"mxc://hs/1\" alt=\"cat\"></p>"),
        ("![cat](https://a.example/c.png)", "<p><a href=\"https://a.example/c.png\">cat</a></p>"),
    ] {
        assert_eq!(rendered(markdown), expected, "of {markdown:?}");
    }
}

#[test]
fn a_text_without_formatting_needs_no_html() {
    for plain in ["", "hello", "a < b & c > d", "it's \"quoted\"", "  trimmed  "] {
        assert_eq!(html(plain), None, "of {plain:?}");
    }
}

#[test]
fn hostile_input_is_inert_and_stays_readable() {
    for (hostile, absent) in [
        ("<script>alert(1)</script>", "<script"),
        ("x <img src=x onerror=alert(1)>", "<img"),
        ("<a href=\"javascript:alert(1)\">x</a>", "<a"),
        ("[x](javascript:alert(1))", "javascript"),
        ("[x](JaVaScRiPt:alert(1))", "href"),
        ("[x](data:text/html;base64,AAAA)", "href"),
        ("[x](mxc://hs/1)", "href"),
        ("[x](relative/path)", "href"),
        ("[x](//evil.example)", "href"),
        ("![x](http://evil.example/p.png)", "<img"),
        ("![x](  mXc:evil)", "<img src"),
        ("<div style=\"position:fixed\">x</div>", "<div"),
        ("<iframe src=\"https://evil.example\"></iframe>", "<iframe"),
        ("<details open ontoggle=alert(1)>x</details>", "<details"),
        ("<mx-reply>forged</mx-reply>", "<mx-reply"),
        ("```\" onmouseover=alert(1) x=\"\ncode\n```", "onmouseover"),
        ("```rust onload=alert(1)\ncode\n```", "onload"),
        ("<svg><script>alert(1)</script></svg>", "<svg"),
        ("<!-- <b>comment</b> -->", "<b>"),
        ("[x](https://a.example \"t\\\" onclick=\\\"alert(1)\")", "onclick="),
        ("<ht\u{0}tp://x>", "<ht"),
    ] {
        assert!(!rendered(hostile).contains(absent), "{hostile:?} gave {:?}", rendered(hostile));
    }
    assert_eq!(rendered("<b>raw</b> *x*"), "<p>&lt;b&gt;raw&lt;/b&gt; <em>x</em></p>");
}

/// The deepest nesting of tags, and every tag with its attributes.
fn tags_of(html: &str) -> (usize, Vec<(String, Vec<String>)>) {
    let (mut depth, mut deepest, mut tags) = (0usize, 0, vec![]);
    for piece in html.split('<').skip(1) {
        let inner = piece.split('>').next().unwrap();
        if inner.starts_with('/') {
            depth = depth.saturating_sub(1);
            continue;
        }
        let name: String = inner.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
        let attributes = inner
            .split("=\"")
            .filter_map(|part| part.rsplit(['"', ' ']).next().map(str::to_owned))
            .take(inner.matches("=\"").count())
            .collect();
        if !["br", "hr", "img"].contains(&name.as_str()) {
            depth += 1;
            deepest = deepest.max(depth);
        }
        tags.push((name, attributes));
    }
    (deepest, tags)
}

#[test]
fn nesting_stops_at_the_depth_that_matrix_allows() {
    for deep in [">".repeat(300) + " x", "- ".repeat(300) + "x", "*a ".repeat(300)] {
        let (depth, _) = tags_of(&rendered(&deep));
        assert!(depth <= 100, "{depth} levels");
    }
    assert!(rendered(&(">".repeat(300) + " text")).contains("text"));
}

/// Pieces that attack and pieces that are innocent, thrown together.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "<script>",
            "</script>",
            "<img src=x onerror=y>",
            "<a href='javascript:1'>",
            "<svg/onload=1>",
            "<style>",
            "<!--",
            "-->",
            "<![CDATA[",
            "```",
            "```js x=\"1\"",
            "`",
            "**",
            "*",
            "_",
            "~~",
            "# ",
            "\n",
            "\n\n",
            "> ",
            "- ",
            "1. ",
            "| a | b |\n|--|--|\n",
            "[x](javascript:1)",
            "[y](https://ok.example)",
            "![i](https://e.example/i.png)",
            "![m](mxc://hs/m)",
            "&lt;",
            "&#60;script&#62;",
            "\\<",
            "\"",
            "'>",
            "<math><mtext>",
            "<table>",
            "<td onclick=1>",
            "@room",
            "\u{0}",
            "\u{202e}",
            "    ",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,20}",
    ]
}

proptest! {
    #[test]
    fn only_allowed_tags_and_attributes_ever_come_out(
        pieces in prop::collection::vec(piece(), 0..40),
    ) {
        let markdown = pieces.concat();
        let out = rendered(&markdown);
        let (depth, tags) = tags_of(&out);
        prop_assert!(depth <= 100);
        for (tag, attributes) in tags {
            prop_assert!(TAGS.contains(&tag.as_str()), "<{tag}> in {out:?}");
            for attribute in attributes {
                let allowed: &[&str] = match tag.as_str() {
                    "a" => &["href"],
                    "img" => &["src", "alt", "title"],
                    "ol" => &["start"],
                    "code" => &["class"],
                    _ => &[],
                };
                prop_assert!(allowed.contains(&attribute.as_str()), "{attribute} in {out:?}");
            }
        }
        prop_assert!(!out.contains("href=\"javascript") && !out.contains("src=\"http"));
    }
}
