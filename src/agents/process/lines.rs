//! Lines of bytes from a runtime's stdout: any length up to a cap, any bytes.

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line: a screenshot that an agent reads is one line of more than a megabyte.
pub const LINE_MAX: usize = 16 * 1024 * 1024;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// What the reader found.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A whole line, without its end. Bytes that are no UTF-8 are replaced.
    Text(String),
    /// The stream ended in the middle of a line, which holds this.
    Partial(String),
    /// A line longer than [`LINE_MAX`]; the rest of the stream is not read.
    TooLong,
    /// The stream ended.
    End,
}

/// Reads lines. Cancel-safe: what was read stays in the buffer.
pub struct LineReader<R> {
    source: R,
    buffer: Vec<u8>,
    /// Up to here the buffer was searched for a line end.
    searched: usize,
    max: usize,
    ended: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// Reads from `source` with the usual cap.
    pub fn new(source: R) -> Self {
        Self { source, buffer: Vec::new(), searched: 0, max: LINE_MAX, ended: false }
    }

    /// The next line.
    pub async fn next(&mut self) -> std::io::Result<Line> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let end = self.searched + at;
                let line = text(&self.buffer[..end]);
                self.buffer.drain(..=end);
                self.searched = 0;
                return Ok(Line::Text(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > self.max {
                self.ended = true;
                self.buffer = Vec::new();
                self.searched = 0;
                return Ok(Line::TooLong);
            }
            if self.ended {
                return Ok(self.rest());
            }
            let mut chunk = vec![0; CHUNK];
            let read = self.source.read(&mut chunk).await?;
            self.ended = read == 0;
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }

    fn rest(&mut self) -> Line {
        self.searched = 0;
        let rest = std::mem::take(&mut self.buffer);
        if rest.is_empty() { Line::End } else { Line::Partial(text(&rest)) }
    }
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &[u8], max: usize) -> Vec<Line> {
        let mut reader = LineReader { max, ..LineReader::new(input) };
        let mut lines = vec![];
        loop {
            let line = reader.next().await.unwrap();
            let end = line == Line::End;
            lines.push(line);
            if end {
                return lines;
            }
        }
    }

    #[tokio::test]
    async fn lines_are_cut_at_their_ends_whatever_bytes_they_hold() {
        let found = lines(b"one\r\n\n\xff\xfe two\nlast", 100).await;
        let text = |line: &str| Line::Text(line.to_owned());
        assert_eq!(
            found,
            [
                text("one"),
                text(""),
                text("\u{fffd}\u{fffd} two"),
                Line::Partial("last".to_owned()),
                Line::End
            ]
        );
    }

    #[tokio::test]
    async fn a_line_of_two_megabytes_is_one_line_and_one_over_the_cap_is_refused() {
        let mut long = vec![b'x'; 2_000_000];
        long.push(b'\n');
        assert!(
            matches!(&lines(&long, LINE_MAX).await[0], Line::Text(line) if line.len() == 2_000_000)
        );
        assert_eq!(lines(&long, 1_000_000).await, [Line::TooLong, Line::End]);
    }
}
