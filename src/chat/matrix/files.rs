//! The files of the account: the session, the crypto store and its key.
//!
//! They belong together. A session whose crypto store is gone is a device that can never read
//! again (the server keeps its old one-time keys), and a store whose session is gone belongs to a
//! device that nobody can use; both are refused with a way on. Before the first login the device's
//! id is written down, so that a kill between the login and the session file repeats the login as
//! the same device instead of leaving a dead one behind.

use super::connect::ConnectError;
use matrix_sdk::authentication::matrix::MatrixSession;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What opens the crypto store.
pub enum StoreSecret {
    /// A passphrase of the person's.
    Passphrase(secrecy::SecretString),
    /// A random key in a file of ours.
    Key(Box<[u8; 32]>),
}

/// Where the files are.
#[derive(Debug, Clone)]
pub struct Files {
    directory: PathBuf,
}

/// What stands in the session file.
#[derive(Serialize, Deserialize)]
struct SessionFile {
    homeserver: String,
    #[serde(flatten)]
    session: MatrixSession,
}

/// How to begin.
pub enum Beginning {
    /// With the session of an earlier start.
    Restore(Box<MatrixSession>),
    /// With a login as this device.
    Login {
        /// The device's id, the same at every attempt.
        device_id: String,
    },
}

impl Files {
    /// The files under the data directory; makes their directory.
    pub fn new(data_dir: &Path) -> Result<Self, ConnectError> {
        let directory = data_dir.join("matrix");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| ConnectError::File { path: directory.clone(), source })?;
        Ok(Self { directory })
    }

    /// The directory of all of them.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The SDK's stores.
    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    fn crypto_store(&self) -> PathBuf {
        self.store().join("matrix-sdk-crypto.sqlite3")
    }

    /// The session's file.
    pub fn session(&self) -> PathBuf {
        self.directory.join("session.json")
    }

    fn device(&self) -> PathBuf {
        self.directory.join("login-as-device")
    }

    fn key(&self) -> PathBuf {
        self.directory.join("store.key")
    }

    /// Looks at what is there and decides how to begin.
    pub fn beginning(&self, homeserver: &str, user_id: &str) -> Result<Beginning, ConnectError> {
        let has_store = self.crypto_store().exists();
        if let Some(text) = self.read(&self.session())? {
            let file: SessionFile = serde_json::from_str(&text).map_err(|error| {
                ConnectError::BadSession { path: self.session(), reason: error.to_string() }
            })?;
            let meta = &file.session.meta;
            if file.homeserver != homeserver || meta.user_id.as_str() != user_id {
                return Err(ConnectError::OtherAccount {
                    directory: self.directory.clone(),
                    found: format!("{} on {}", meta.user_id, file.homeserver),
                    configured: format!("{user_id} on {homeserver}"),
                });
            }
            if !has_store {
                return Err(ConnectError::StoreMissing {
                    store: self.crypto_store(),
                    directory: self.directory.clone(),
                    device: meta.device_id.to_string(),
                });
            }
            return Ok(Beginning::Restore(Box::new(file.session)));
        }
        if let Some(device_id) = self.read(&self.device())? {
            return Ok(Beginning::Login { device_id: device_id.trim().to_owned() });
        }
        if has_store {
            return Err(ConnectError::SessionMissing {
                session: self.session(),
                directory: self.directory.clone(),
            });
        }
        let device_id = uuid::Uuid::new_v4().simple().to_string()[..10].to_uppercase();
        self.write(&self.device(), device_id.as_bytes())?;
        Ok(Beginning::Login { device_id })
    }

    /// Keeps the session of a fresh login.
    pub fn keep(&self, homeserver: &str, session: MatrixSession) -> Result<(), ConnectError> {
        let file = SessionFile { homeserver: homeserver.to_owned(), session };
        let text = serde_json::to_string_pretty(&file).map_err(|error| {
            ConnectError::BadSession { path: self.session(), reason: error.to_string() }
        })?;
        self.write(&self.session(), text.as_bytes())?;
        // The session stands: the next start looks at it first, whether or not this is gone.
        let _ = std::fs::remove_file(self.device());
        Ok(())
    }

    /// The key of the crypto store; made when neither it nor the store is there.
    pub fn store_key(&self) -> Result<Box<[u8; 32]>, ConnectError> {
        let path = self.key();
        match std::fs::read(&path) {
            Ok(bytes) => <[u8; 32]>::try_from(bytes.as_slice()).map(Box::new).map_err(|_length| {
                ConnectError::BadKey { path, directory: self.directory.clone() }
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if self.crypto_store().exists() {
                    return Err(ConnectError::BadKey { path, directory: self.directory.clone() });
                }
                let key: [u8; 32] = rand::random();
                self.write(&path, &key)?;
                Ok(Box::new(key))
            }
            Err(source) => Err(ConnectError::File { path, source }),
        }
    }

    fn read(&self, path: &Path) -> Result<Option<String>, ConnectError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ConnectError::File { path: path.to_owned(), source }),
        }
    }

    /// Writes a file that only we can read, whole or not at all.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), ConnectError> {
        let part = path.with_extension("part");
        let write = || {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&part)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&part, path)?;
            std::fs::File::open(&self.directory)?.sync_all()
        };
        write().map_err(|source| ConnectError::File { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const HS: &str = "http://hs";
    const BOT: &str = "@bot:hs";

    fn session(device: &str) -> MatrixSession {
        serde_json::from_value(serde_json::json!({
            "user_id": BOT, "device_id": device, "access_token": "secret",
        }))
        .unwrap()
    }

    fn files() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path()).unwrap();
        (dir, files)
    }

    fn make_store(files: &Files) {
        std::fs::create_dir_all(files.store()).unwrap();
        std::fs::write(files.crypto_store(), "x").unwrap();
    }

    #[test]
    fn a_login_cut_short_is_repeated_as_the_same_device() {
        let (_dir, files) = files();
        let Ok(Beginning::Login { device_id: first }) = files.beginning(HS, BOT) else { panic!() };
        make_store(&files);
        let Ok(Beginning::Login { device_id: second }) = files.beginning(HS, BOT) else { panic!() };
        assert_eq!(first, second);
        files.keep(HS, session(&first)).unwrap();
        let Ok(Beginning::Restore(found)) = files.beginning(HS, BOT) else { panic!() };
        assert_eq!(found.meta.device_id.as_str(), first);
        let mode = std::fs::metadata(files.session()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_session_without_its_store_and_a_store_without_its_session_are_refused_with_a_way_on() {
        let (_dir, files) = files();
        files.keep(HS, session("DEV")).unwrap();
        let error = files.beginning(HS, BOT).err().unwrap().to_string();
        assert!(error.contains("DEV") && error.contains("move"), "{error}");
        std::fs::remove_file(files.session()).unwrap();
        make_store(&files);
        let error = files.beginning(HS, BOT).err().unwrap().to_string();
        assert!(error.contains("session.json") && error.contains("move"), "{error}");
    }

    #[test]
    fn another_account_in_the_same_directory_is_refused() {
        let (_dir, files) = files();
        files.keep(HS, session("DEV")).unwrap();
        make_store(&files);
        for (homeserver, user) in [("http://other", BOT), (HS, "@other:hs")] {
            let error = files.beginning(homeserver, user).err().unwrap().to_string();
            assert!(error.contains(BOT) && error.contains(user), "{error}");
        }
    }

    #[test]
    fn the_key_is_made_once_and_never_anew_beside_a_store() {
        let (_dir, files) = files();
        let key = files.store_key().unwrap();
        assert_eq!(key, files.store_key().unwrap());
        make_store(&files);
        std::fs::remove_file(files.key()).unwrap();
        assert!(files.store_key().is_err());
    }
}
