//! Logs go to stderr (of the console: to a file), with secrets taken out.

use musher::config::LogConfig;
use musher::redact::redact;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

/// Overrides the configured filter.
const VARIABLE: &str = "MUSHER_LOG";

/// Starts logging. A filter in the variable that is not understood is told and replaced by `info`;
/// the configured one was checked with the rest of the configuration.
pub fn start(config: &LogConfig, file: Option<&Path>) -> io::Result<()> {
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| config.filter.clone());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
        eprintln!("musher: the log filter `{wanted}` is not understood ({error}); using `info`");
        EnvFilter::new("info")
    });
    let out: Box<dyn Write + Send> = match file {
        Some(path) => Box::new(File::options().create(true).append(true).open(path)?),
        None => Box::new(io::stderr()),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Mutex::new(Redacting { out }));
    if config.json {
        builder.json().init()
    } else {
        builder.init()
    }
    Ok(())
}

/// Takes secrets out of each line: the subscriber writes an event in one piece.
///
/// A line that cannot be written (the log's disk is full) is lost. Were it an error, the subscriber
/// would complain on stderr, which may be the same file, and end the task that wanted to say
/// something.
struct Redacting {
    out: Box<dyn Write + Send>,
}

impl Write for Redacting {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.out.write_all(redact(&String::from_utf8_lossy(line)).as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.out.flush();
        Ok(())
    }
}
