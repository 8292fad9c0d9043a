//! Cutting long Markdown into messages.
//!
//! Each piece is Markdown in its own right: a code fence that a cut falls into is closed at the
//! end of the piece and opened again, with its language, at the beginning of the next. Cuts fall
//! between paragraphs where that does not waste more than two thirds of a piece, else between
//! lines, and inside a line only when the line alone is too long.

use super::text;

/// How many bytes of Markdown go into one message: with its HTML beside it and encrypted, that
/// stays well under the 64 KiB which Matrix allows an event.
pub const PART_LIMIT: usize = 8 * 1024;

/// More messages than these become a file with a summary.
pub const PARTS_MAX: usize = 3;

/// What is reserved in each piece for its number and the closing of a fence.
const RESERVED: usize = 48;

/// The smallest limit that is honoured; below, pieces would be all fence and number.
const LIMIT_MIN: usize = 256;

/// The beginning of a longer text stands in its summary up to here.
const SUMMARY: usize = 1500;

/// What a text becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// Messages, in order. One when it fits; several carry their number.
    Messages(Vec<String>),
    /// Too long for messages: its beginning, and the whole as a file.
    File {
        /// The message that goes before the file.
        summary: String,
    },
}

/// Decides how `markdown` is posted when a message holds `limit` bytes.
pub fn cut(markdown: &str, limit: usize) -> Cut {
    if markdown.len() <= limit {
        return Cut::Messages(vec![markdown.to_owned()]);
    }
    let pieces = pieces(markdown, limit);
    let count = pieces.len();
    if count > PARTS_MAX {
        return Cut::File { summary: summary(markdown) };
    }
    Cut::Messages(
        pieces
            .into_iter()
            .enumerate()
            .map(|(index, piece)| format!("{}\n\n({}/{count})", piece.trim_end(), index + 1))
            .collect(),
    )
}

/// The beginning of a text that goes out as a file.
fn summary(markdown: &str) -> String {
    let beginning = pieces(markdown, SUMMARY).into_iter().next().unwrap_or_default();
    format!("{}\n\n{}", beginning.trim_end(), text::rest_in_file(markdown.len()))
}

/// A fence that is open: how it was opened, and what closes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fence {
    /// The line that opened it, without its end.
    opening: String,
    /// Its marks: at least as many of these close it.
    marks: String,
}

/// The marks at the start of a line and what follows them, if they may belong to a fence.
fn fence_marks(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let mark = line.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
    let length = line.len() - line.trim_start_matches(mark).len();
    (length >= 3).then(|| line.split_at(length))
}

/// The fence that is open after `line`.
fn after(open: Option<Fence>, line: &str) -> Option<Fence> {
    let Some((marks, rest)) = fence_marks(line) else { return open };
    match open {
        Some(fence) => {
            let closes = rest.is_empty() && marks.starts_with(&fence.marks);
            (!closes).then_some(fence)
        }
        // Backticks after opening backticks make it inline code, not a fence.
        None if marks.starts_with('`') && rest.contains('`') => None,
        None => Some(Fence { opening: line.trim_end().to_owned(), marks: marks.to_owned() }),
    }
}

/// Cuts `markdown` into pieces of at most `limit` bytes.
pub(crate) fn pieces(markdown: &str, limit: usize) -> Vec<String> {
    let mut cutter = Cutter::new(limit.max(LIMIT_MIN) - RESERVED);
    for line in markdown.split_inclusive('\n') {
        cutter.line(line);
    }
    cutter.finish()
}

/// Collects lines into pieces.
struct Cutter {
    limit: usize,
    done: Vec<String>,
    piece: String,
    /// The fence that is open at the end of `piece`.
    fence: Option<Fence>,
    /// Where `piece` may be cut between paragraphs: after the last blank line outside a fence.
    paragraph: usize,
}

impl Cutter {
    fn new(limit: usize) -> Self {
        Self { limit, done: vec![], piece: String::new(), fence: None, paragraph: 0 }
    }

    fn line(&mut self, line: &str) {
        let mut rest = line;
        while self.piece.len() + rest.len() + self.closing_len() > self.limit {
            if self.paragraph > self.limit / 3 {
                self.cut_at_paragraph();
                continue;
            }
            let opening = self.fence.as_ref().map_or(0, |fence| fence.opening.len() + 1);
            if self.piece.len() > opening.max(self.limit / 3) {
                self.cut_here();
                continue;
            }
            // The line alone is too long: fill the piece up with a part of it.
            let room = self.limit.saturating_sub(self.piece.len() + self.closing_len() + 1);
            let at = break_in(rest, room.max(1));
            let (head, tail) = rest.split_at(at);
            self.piece.push_str(head);
            if !head.ends_with('\n') {
                self.piece.push('\n');
            }
            rest = tail;
            self.cut_here();
            if rest.is_empty() {
                return;
            }
        }
        self.piece.push_str(rest);
        self.fence = after(self.fence.take(), line);
        if self.fence.is_none() && rest.trim().is_empty() {
            self.paragraph = self.piece.len();
        }
    }

    /// What it takes to close the open fence.
    fn closing_len(&self) -> usize {
        self.fence.as_ref().map_or(0, |fence| fence.marks.len() + 2)
    }

    /// Ends the piece after its last paragraph; the rest begins the next.
    fn cut_at_paragraph(&mut self) {
        let rest = self.piece.split_off(self.paragraph);
        let piece = std::mem::replace(&mut self.piece, rest);
        self.push(piece);
        self.paragraph = 0;
    }

    /// Ends the piece where it is, closing and opening again the fence.
    fn cut_here(&mut self) {
        let mut piece = std::mem::take(&mut self.piece);
        self.paragraph = 0;
        if let Some(fence) = &self.fence {
            close(&mut piece, fence);
            self.piece.push_str(&fence.opening);
            self.piece.push('\n');
        }
        self.push(piece);
    }

    fn push(&mut self, piece: String) {
        if !piece.trim().is_empty() {
            self.done.push(piece);
        }
    }

    fn finish(mut self) -> Vec<String> {
        let mut piece = std::mem::take(&mut self.piece);
        if let Some(fence) = self.fence.take() {
            close(&mut piece, &fence);
        }
        self.push(piece);
        self.done
    }
}

fn close(piece: &mut String, fence: &Fence) {
    if !piece.ends_with('\n') {
        piece.push('\n');
    }
    piece.push_str(&fence.marks);
    piece.push('\n');
}

/// Where to break a line that has more than `room` bytes: after the last space that is not in its
/// first half, else at the last whole character.
fn break_in(line: &str, room: usize) -> usize {
    let mut at = room.min(line.len());
    while !line.is_char_boundary(at) {
        at -= 1;
    }
    if at == 0 {
        return line.chars().next().map_or(0, char::len_utf8);
    }
    match line[..at].rfind(' ') {
        Some(space) if space > at / 2 => space + 1,
        Some(_) | None => at,
    }
}

#[cfg(test)]
mod tests;
