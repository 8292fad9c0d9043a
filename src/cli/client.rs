//! Reaches whoever owns the database: a running server through its socket, or nobody, and then
//! this process opens it for the one call.
//!
//! Known races: the server starts or stops between two steps, or other calls hold the database.
//! So both ways are tried in turn until one works, for `PATIENCE`. A call that was sent and not
//! answered may have been carried out: it is repeated under the same key, which has no second
//! effect.

use super::failure::{Code, Failure};
use super::request::{Call, Request, Response};
use super::serve::{Ctx, handle};
use super::socket;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::store::{LockError, OpenError, Store};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for a database that others hold.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a server may take to answer: it waits for the disk, at most for one write.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two tries: short, for the others hold the database for milliseconds.
const PAUSE: Duration = Duration::from_millis(4);

/// Where to send calls.
pub struct Client {
    data_dir: PathBuf,
    config: Option<Config>,
    given: Option<PathBuf>,
}

impl Client {
    /// Finds the data directory: inside an agent by its environment, else by the configuration.
    pub fn find(given: Option<&Path>) -> Result<Self, Failure> {
        let told = std::env::var_os("MUSHER_DATA_DIR").filter(|dir| !dir.is_empty());
        if let (None, Some(dir)) = (given, told) {
            return Ok(Self { data_dir: dir.into(), config: None, given: None });
        }
        let config = config::load(&config::find(given)?)?;
        let given = given.map(Path::to_owned);
        Ok(Self { data_dir: config.data_dir.clone(), config: Some(config), given })
    }

    /// Carries out a call, wherever.
    pub fn call(&mut self, call: Call) -> Result<Value, Failure> {
        let began = Instant::now();
        let request = Request { key: Some(fresh_key()), call };
        loop {
            match self.through_socket(&request) {
                Ok(response) => return response.into_result(),
                Err(Unanswered::NoServer | Unanswered::Lost) => {}
            }
            match Store::open(&self.data_dir, Clock::system()) {
                Ok(store) => {
                    let config = Arc::new(self.config()?);
                    let response = handle(&Ctx::new(store.clone(), config), request);
                    store.close();
                    return response.into_result();
                }
                Err(OpenError::Lock(LockError::Held { owner })) => {
                    if began.elapsed() > PATIENCE {
                        let error = OpenError::Lock(LockError::Held { owner });
                        return Err(Failure::from(error).hint(
                            "it does not answer on its socket; wait until it has started or \
                             ended, then try again",
                        ));
                    }
                }
                Err(error) => return Err(error.into()),
            }
            std::thread::sleep(PAUSE + PAUSE.mul_f32(rand::random::<f32>()));
        }
    }

    /// The configuration, for a call that this process carries out itself.
    fn config(&mut self) -> Result<Config, Failure> {
        if let Some(config) = &self.config {
            return Ok(config.clone());
        }
        // An agent's environment names the data directory alone; the server left the file's name.
        let left = std::fs::read_to_string(self.data_dir.join(socket::CONFIG_NAME)).ok();
        let path = match (&self.given, left) {
            (Some(given), _) => given.clone(),
            (None, Some(left)) => PathBuf::from(left.trim()),
            (None, None) => config::find(None)?,
        };
        let config = config::load(&path)?;
        self.config = Some(config.clone());
        Ok(config)
    }

    fn through_socket(&self, request: &Request) -> Result<Response, Unanswered> {
        let stream = socket::connect(&self.data_dir).map_err(|_| Unanswered::NoServer)?;
        exchange(&stream, request).map_err(|_| Unanswered::Lost)
    }
}

/// Why a call has no answer.
enum Unanswered {
    /// Nobody listens: nothing was sent.
    NoServer,
    /// The connection broke: it may or may not have been carried out.
    Lost,
}

fn exchange(stream: &UnixStream, request: &Request) -> std::io::Result<Response> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let mut writer = stream;
    writer.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

fn fresh_key() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A failure to write to stdout: the reader has gone, which is its right.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Failed, format!("cannot write to stdout: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
