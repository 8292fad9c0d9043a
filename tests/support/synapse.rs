//! A real Synapse on a loopback port, with SQLite in a temporary directory.
//!
//! One server is shared by all stories of a test binary, since it takes seconds to start; each
//! story registers people of its own. The server ends when its stdin closes, which the kernel
//! does for us however the test binary ends, and removes its directory then.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{installed, tail, unique};

/// The name in user ids; never resolved.
pub const SERVER_NAME: &str = "test.local";

/// A cold start takes 3 s on an idle machine; many times that with all cores compiling.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Runs the homeserver in this process and ends it when stdin closes.
const RUN: &str = r#"
import os, shutil, sys, threading
def watch():
    sys.stdin.buffer.read()
    if os.environ.get("REMOVE"):
        shutil.rmtree(os.environ["REMOVE"], ignore_errors=True)
    os._exit(0)
threading.Thread(target=watch, daemon=True).start()
sys.argv = ["synapse", "-c", sys.argv[1]]
from synapse.app.homeserver import main
main()
"#;

/// Which rate limits the server applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimits {
    /// None that a test could meet.
    Raised,
    /// Those of a fresh Synapse: 10 messages, then one in 5 s; 5 logins. Registering is free.
    Default,
}

/// A running homeserver.
#[derive(Debug)]
pub struct Synapse {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    port: u16,
    directory: PathBuf,
    child: Mutex<Option<Child>>,
}

/// A registered account, logged in once.
#[derive(Debug, Clone)]
pub struct Account {
    pub user_id: String,
    pub localpart: String,
    pub password: String,
    pub access_token: String,
    pub device_id: String,
    pub homeserver: String,
}

impl Synapse {
    /// The server of all stories, with rate limits out of the way; started by the first caller.
    pub async fn shared() -> &'static Self {
        static SERVER: OnceCell<Result<Synapse, String>> = OnceCell::const_new();
        Self::once(&SERVER, RateLimits::Raised).await
    }

    /// The server for stories about Synapse's own rate limits.
    pub async fn with_default_rate_limits() -> &'static Self {
        static SERVER: OnceCell<Result<Synapse, String>> = OnceCell::const_new();
        Self::once(&SERVER, RateLimits::Default).await
    }

    async fn once(
        cell: &'static OnceCell<Result<Self, String>>,
        limits: RateLimits,
    ) -> &'static Self {
        // The result is kept, not only a success: else each story would wait for its own failure.
        match cell.get_or_init(|| Self::try_start(limits)).await {
            Ok(server) => server,
            Err(why) => panic!("{why}"),
        }
    }

    /// A server of one's own, to be stopped and started at will; it ends when dropped.
    pub async fn start(limits: RateLimits) -> Self {
        Self::try_start(limits).await.unwrap_or_else(|why| panic!("{why}"))
    }

    async fn try_start(limits: RateLimits) -> Result<Self, String> {
        let directory =
            tempfile::Builder::new().prefix("musher-synapse-").tempdir().unwrap().keep();
        let mut failure = String::new();
        // Another process may take the port between our looking and the server's binding.
        for _ in 0..3 {
            let port = free_port();
            write_configuration(&directory, port, limits);
            let server = Self {
                url: format!("http://127.0.0.1:{port}"),
                port,
                directory: directory.clone(),
                child: Mutex::new(None),
            };
            match server.launch().await {
                Ok(()) => return Ok(server),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    async fn launch(&self) -> Result<(), String> {
        let log = std::fs::File::create(self.directory.join("stderr.log")).unwrap();
        let child = Command::new(installed("venv/bin/python"))
            .args(["-c", RUN])
            .arg(self.directory.join("homeserver.yaml"))
            .current_dir(&self.directory)
            .env("REMOVE", &self.directory)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("cannot start Synapse: {error}"))?;
        *self.child.lock().unwrap() = Some(child);
        self.wait_until_healthy().await
    }

    async fn wait_until_healthy(&self) -> Result<(), String> {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let began = Instant::now();
        loop {
            let health = http.get(format!("{}/health", self.url)).send().await;
            if health.is_ok_and(|response| response.status().is_success()) {
                return Ok(());
            }
            let ended = self.child.lock().unwrap().as_mut().and_then(|c| c.try_wait().unwrap());
            if ended.is_some() || began.elapsed() > START_LIMIT {
                return Err(format!(
                    "Synapse is not up after {:?} (exit status {ended:?}). Its last words:\n{}\n{}",
                    began.elapsed(),
                    tail(&self.directory.join("stderr.log"), 30),
                    tail(&self.directory.join("homeserver.log"), 30),
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends the server at once, as a power cut would; its data stays for [`Synapse::resume`].
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Starts a killed server again on the same port and data.
    pub async fn resume(&self) {
        self.launch().await.unwrap_or_else(|why| panic!("{why}"));
    }

    /// Registers a new account whose name begins with `name`.
    pub async fn register(&self, name: &str) -> Account {
        let localpart = unique(name).to_lowercase();
        self.register_exactly(&localpart).await
    }

    /// Registers an account with just this name.
    pub async fn register_exactly(&self, localpart: &str) -> Account {
        let password = unique("password");
        let answer: Value = reqwest::Client::builder()
            .no_proxy()
            .build()
            .unwrap()
            .post(format!("{}/_matrix/client/v3/register", self.url))
            .json(&json!({
                "username": localpart,
                "password": password,
                "auth": {"type": "m.login.dummy"},
                "initial_device_display_name": "test",
            }))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let text = |key: &str| match answer[key].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("cannot register {localpart}: {answer}"),
        };
        Account {
            user_id: text("user_id"),
            localpart: localpart.to_owned(),
            password,
            access_token: text("access_token"),
            device_id: text("device_id"),
            homeserver: self.url.clone(),
        }
    }

    /// The server's own log (warnings and errors), for a message about what went wrong.
    pub fn log_tail(&self) -> String {
        tail(&self.directory.join("homeserver.log"), 40)
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        self.kill();
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

/// A loopback port that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn write_configuration(directory: &Path, port: u16, limits: RateLimits) {
    // 43 characters of unpadded base64 are 32 bytes, and hexadecimal digits are base64 too.
    let digits = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let seed = format!("{}A", &digits[..42]);
    std::fs::write(directory.join("signing.key"), format!("ed25519 a_test {seed}\n")).unwrap();

    let at = |name: &str| directory.join(name).display().to_string();
    let mut yaml = format!(
        r#"server_name: "{SERVER_NAME}"
pid_file: "{pid}"
public_baseurl: "http://127.0.0.1:{port}/"
listeners:
  - port: {port}
    bind_addresses: ["127.0.0.1"]
    type: http
    resources: [{{names: [client, media]}}]
database: {{name: sqlite3, args: {{database: "{database}"}}}}
log_config: "{log_config}"
media_store_path: "{media}"
signing_key_path: "{key}"
registration_shared_secret: "shared"
macaroon_secret_key: "macaroon"
form_secret: "form"
report_stats: false
suppress_key_server_warning: true
trusted_key_servers: []
enable_registration: true
enable_registration_without_verification: true
bcrypt_rounds: 4
presence: {{enabled: false}}
url_preview_enabled: false
rc_registration: {{per_second: 1000, burst_count: 10000}}
"#,
        pid = at("homeserver.pid"),
        database = at("homeserver.db"),
        log_config = at("log.yaml"),
        media = at("media"),
        key = at("signing.key"),
    );
    if limits == RateLimits::Raised {
        for limit in ["rc_message", "rc_admin_redaction", "rc_joins_per_room", "rc_room_creation"] {
            writeln!(yaml, "{limit}: {{per_second: 1000, burst_count: 10000}}").unwrap();
        }
        let groups: [(&str, &[&str]); 3] = [
            ("rc_login", &["address", "account", "failed_attempts"]),
            ("rc_invites", &["per_room", "per_user", "per_issuer"]),
            ("rc_joins", &["local", "remote"]),
        ];
        for (group, limits) in groups {
            writeln!(yaml, "{group}:").unwrap();
            for limit in limits {
                writeln!(yaml, "  {limit}: {{per_second: 1000, burst_count: 10000}}").unwrap();
            }
        }
    }
    std::fs::write(directory.join("homeserver.yaml"), yaml).unwrap();
    let log = format!(
        "version: 1\nformatters: {{p: {{format: '%(asctime)s %(levelname)s %(name)s %(message)s'}}}}\n\
         handlers: {{f: {{class: logging.FileHandler, filename: '{}', formatter: p}}}}\n\
         root: {{level: WARNING, handlers: [f]}}\n",
        at("homeserver.log"),
    );
    std::fs::write(directory.join("log.yaml"), log).unwrap();
}
