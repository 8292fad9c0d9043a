//! Markdown to the HTML that Matrix allows.
//!
//! What models, agents and repositories write is hostile until shown otherwise. Raw HTML in it is
//! shown as text, never passed on; remote images become links (an image would tell a stranger's
//! server who read the message and when); and what comes out of the Markdown renderer still goes
//! through a sanitiser that knows exactly the tags and attributes of the Matrix specification
//! (client-server API, `m.room.message` formatted bodies).

use ammonia::{Builder, UrlRelative};
use pulldown_cmark::{CodeBlockKind, CowStr, Event, LinkType, Options, Parser, Tag, TagEnd, html};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// How deep Markdown may nest; deeper nesting is flattened. One level makes at most two levels of
/// HTML, and Matrix allows a hundred.
const DEPTH_MAX: usize = 40;

/// The tags that Matrix allows.
pub(crate) const TAGS: [&str; 37] = [
    "del",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "blockquote",
    "p",
    "a",
    "ul",
    "ol",
    "sup",
    "sub",
    "li",
    "b",
    "i",
    "u",
    "strong",
    "em",
    "s",
    "code",
    "hr",
    "br",
    "div",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "caption",
    "pre",
    "span",
    "img",
    "details",
    "summary",
];

/// What a link may point to.
const LINK_SCHEMES: [&str; 5] = ["http", "https", "ftp", "mailto", "magnet"];

static SANITISER: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let attributes: HashMap<&str, HashSet<&str>> = [
        ("a", &["href", "target"][..]),
        ("img", &["width", "height", "alt", "title", "src"][..]),
        ("ol", &["start"][..]),
        ("code", &["class"][..]),
        ("span", &["data-mx-bg-color", "data-mx-color", "data-mx-spoiler", "data-mx-maths"][..]),
        ("div", &["data-mx-maths"][..]),
    ]
    .into_iter()
    .map(|(tag, names)| (tag, names.iter().copied().collect()))
    .collect();
    let mut builder = Builder::empty();
    builder
        .tags(HashSet::from(TAGS))
        .clean_content_tags(HashSet::from(["script", "style"]))
        .tag_attributes(attributes)
        .generic_attributes(HashSet::new())
        .url_schemes(LINK_SCHEMES.into_iter().chain(["mxc"]).collect())
        .url_relative(UrlRelative::Deny)
        .link_rel(None)
        .attribute_filter(filter_attribute);
    builder
});

/// Lets an attribute pass, as it is or trimmed to what is allowed.
fn filter_attribute<'u>(tag: &str, attribute: &str, value: &'u str) -> Option<Cow<'u, str>> {
    let is_mxc = value.trim_start().to_ascii_lowercase().starts_with("mxc:");
    match (tag, attribute) {
        ("img", "src") => is_mxc.then_some(value.into()),
        ("a", "href") => (!is_mxc).then_some(value.into()),
        ("code", "class") => {
            value.split_whitespace().find(|class| is_language(class)).map(Cow::from)
        }
        _ => Some(value.into()),
    }
}

fn is_language(class: &str) -> bool {
    class.strip_prefix("language-").is_some_and(|name| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '#' | '.' | '_'))
    })
}

/// Renders Markdown as HTML for a Matrix message.
///
/// `None` when the text has no formatting that HTML would add to: the plain body says it all.
pub fn html(markdown: &str) -> Option<String> {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut events = Tamer::default();
    let tame = Parser::new_ext(markdown, options).flat_map(|event| events.tame(event));
    let mut raw = String::with_capacity(markdown.len() * 3 / 2);
    html::push_html(&mut raw, tame);
    let clean = SANITISER.clean(&raw).to_string();
    let clean = clean.trim_end();
    (!is_plain(clean, markdown)).then(|| clean.to_owned())
}

/// Whether `html` is one paragraph that shows just what the plain text shows.
fn is_plain(html: &str, markdown: &str) -> bool {
    let Some(inner) = html.strip_prefix("<p>").and_then(|rest| rest.strip_suffix("</p>")) else {
        return html.is_empty();
    };
    if inner.contains('<') {
        return false;
    }
    let shown = inner
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&nbsp;", "\u{a0}")
        .replace("&amp;", "&");
    shown == markdown.trim()
}

/// Takes out of the Markdown events what must not become HTML.
#[derive(Default)]
struct Tamer {
    /// How many tags are open; those beyond [`DEPTH_MAX`] are left out.
    depth: usize,
    /// The links that stand for images that are open, innermost last; `None`: nothing was opened.
    images: Vec<Option<TagEnd>>,
}

impl Tamer {
    fn tame<'e>(&mut self, event: Event<'e>) -> Vec<Event<'e>> {
        match event {
            Event::Start(Tag::HtmlBlock) => vec![Event::Start(Tag::Paragraph)],
            Event::End(TagEnd::HtmlBlock) => vec![Event::End(TagEnd::Paragraph)],
            Event::Html(text) | Event::InlineHtml(text) => vec![Event::Text(text)],
            Event::SoftBreak => vec![Event::HardBreak],
            Event::TaskListMarker(done) => {
                vec![Event::Text(CowStr::Borrowed(if done { "☑ " } else { "☐ " }))]
            }
            Event::Start(Tag::Image { dest_url, title, id, .. }) => {
                self.open_image(dest_url, title, id)
            }
            Event::End(TagEnd::Image) => match self.images.pop().flatten() {
                Some(end) => self.end(end),
                None => vec![],
            },
            Event::Start(tag) => self.start(tame_tag(tag)),
            Event::End(end) => self.end(end),
            Event::Text(_)
            | Event::Code(_)
            | Event::InlineMath(_)
            | Event::DisplayMath(_)
            | Event::FootnoteReference(_)
            | Event::HardBreak
            | Event::Rule => vec![event],
        }
    }

    fn start<'e>(&mut self, tag: Tag<'e>) -> Vec<Event<'e>> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { vec![] } else { vec![Event::Start(tag)] }
    }

    fn end<'e>(&mut self, end: TagEnd) -> Vec<Event<'e>> {
        let shown = self.depth <= DEPTH_MAX;
        self.depth = self.depth.saturating_sub(1);
        if shown { vec![Event::End(end)] } else { vec![] }
    }

    /// An image of the homeserver's own media stays one; any other becomes a link to it.
    fn open_image<'e>(
        &mut self,
        dest_url: CowStr<'e>,
        title: CowStr<'e>,
        id: CowStr<'e>,
    ) -> Vec<Event<'e>> {
        let link_type = LinkType::Inline;
        if dest_url.starts_with("mxc://") {
            self.images.push(Some(TagEnd::Image));
            return self.start(Tag::Image { link_type, dest_url, title, id });
        }
        self.images.push(Some(TagEnd::Link));
        self.start(Tag::Link { link_type, dest_url, title, id })
    }
}

/// A code block's language is one word; the rest of its info string is nobody's business.
fn tame_tag(tag: Tag<'_>) -> Tag<'_> {
    let Tag::CodeBlock(CodeBlockKind::Fenced(info)) = tag else { return tag };
    let language: String = info
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '#' | '.' | '_'))
        .collect();
    Tag::CodeBlock(CodeBlockKind::Fenced(language.into()))
}

#[cfg(test)]
mod tests;
