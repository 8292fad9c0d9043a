//! Getting a client that is logged in, or one clear sentence why not.

use super::access::{Access, RoomEntry, room_entries};
use super::files::{Beginning, Files, StoreSecret};
use super::position;
use crate::config::{self, MatrixConfig, SecretError};
use crate::store::{Store, StoreError};
use matrix_sdk::config::RequestConfig;
use matrix_sdk::cross_process_lock::CrossProcessLockConfig;
use matrix_sdk::encryption::{BackupDownloadStrategy, EncryptionSettings};
use matrix_sdk::ruma::api::error::ErrorKind;
use matrix_sdk::ruma::{OwnedRoomAliasId, OwnedUserId};
use matrix_sdk::store::StateStoreDataKey;
use matrix_sdk::{Client, HttpError, SqliteStoreConfig};
use matrix_sdk_base::crypto::{CollectStrategy, DecryptionSettings, TrustRequirement};
use matrix_sdk_base::store::StateStoreDataValue;
use secrecy::{ExposeSecret, SecretString};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the SDK may repeat a request of its own; ours are repeated by those who make them.
const SDK_RETRIES: usize = 2;

/// Why the bot cannot be connected. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration cannot be used.
    #[error("the [matrix] configuration cannot be used: {0}")]
    Config(String),
    /// No password, and no session yet.
    #[error(
        "there is no session for {user} yet and no password to log in with: \
         set password_env or password_file in [matrix]"
    )]
    NoPassword {
        /// The account.
        user: String,
    },
    /// A secret cannot be read.
    #[error("a secret of [matrix] cannot be read: {0}")]
    Secret(#[from] SecretError),
    /// The homeserver refused the password.
    #[error(
        "{homeserver} refuses the password of {user}: correct the secret that {secret} names, \
         or the account in [matrix] user_id"
    )]
    BadPassword {
        /// The homeserver.
        homeserver: String,
        /// The account.
        user: String,
        /// Where the password came from.
        secret: String,
    },
    /// The homeserver limits logins.
    #[error("{homeserver} allows no more logins for now: wait {} s and start again", .wait.as_secs())]
    LoginLimited {
        /// The homeserver.
        homeserver: String,
        /// How long.
        wait: Duration,
    },
    /// The homeserver does not answer, or not as one.
    #[error(
        "the homeserver {homeserver} cannot be reached ({reason}): check that it runs and that \
         [matrix] homeserver is its base URL"
    )]
    Unreachable {
        /// The homeserver.
        homeserver: String,
        /// Why.
        reason: String,
    },
    /// The session was ended from outside.
    #[error(
        "the homeserver no longer knows the session of {user} (device {device}): it was logged \
         out or deleted. Move the directory {} away and start again with the password; the bot \
         then logs in as a new device", directory.display()
    )]
    SessionEnded {
        /// The account.
        user: String,
        /// The device.
        device: String,
        /// The directory of the account's files.
        directory: PathBuf,
    },
    /// The session is there, its crypto store is not.
    #[error(
        "the session of device {device} is there but its crypto store {} is not. As that device \
         the bot could not read encrypted rooms ever again, so it does not start. Put the store \
         back; or move the directory {} away and start again with the password, as a new device",
        store.display(), directory.display()
    )]
    StoreMissing {
        /// The crypto store.
        store: PathBuf,
        /// The directory of the account's files.
        directory: PathBuf,
        /// The device.
        device: String,
    },
    /// The crypto store is there, its session is not.
    #[error(
        "there is a crypto store but no session ({}). Put the file back; or move the directory \
         {} away and start again with the password, as a new device",
        session.display(), directory.display()
    )]
    SessionMissing {
        /// The session's file.
        session: PathBuf,
        /// The directory of the account's files.
        directory: PathBuf,
    },
    /// The session's file is not one.
    #[error("the session file {} cannot be used ({reason}): put a good copy back", path.display())]
    BadSession {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The files are of another account.
    #[error(
        "{} belongs to {found}, but the configuration names {configured}: correct [matrix], or \
         use another data_dir", directory.display()
    )]
    OtherAccount {
        /// The directory of the account's files.
        directory: PathBuf,
        /// Whose they are.
        found: String,
        /// Who is configured.
        configured: String,
    },
    /// The key of the crypto store is missing or broken.
    #[error(
        "the key {} of the crypto store is missing or broken. Put it back; or move the directory \
         {} away and start again with the password, as a new device",
        path.display(), directory.display()
    )]
    BadKey {
        /// The key's file.
        path: PathBuf,
        /// The directory of the account's files.
        directory: PathBuf,
    },
    /// The crypto store cannot be opened.
    #[error(
        "the crypto store in {} cannot be opened ({reason}): check the passphrase that [matrix] \
         store_passphrase_env or store_passphrase_file names", directory.display()
    )]
    StoreUnusable {
        /// The directory of the account's files.
        directory: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An alias does not resolve.
    #[error(
        "the alias {alias} in {key} does not resolve ({reason}): correct it, or name the room by \
         its id"
    )]
    Alias {
        /// The alias.
        alias: String,
        /// Where it stands in the configuration.
        key: &'static str,
        /// Why.
        reason: String,
    },
    /// Our own database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A client with a session. Whether that still stands the homeserver has not said yet.
pub struct Opened {
    /// The client.
    pub client: Client,
    /// The files of the account.
    pub files: Files,
    /// Whether the session is that of an earlier start.
    pub restored: bool,
}

/// What only the homeserver can tell.
pub struct Reached {
    /// The allow-lists.
    pub access: Access,
    /// The bot's display name, if it has one.
    pub display_name: Option<String>,
    /// The ids of the aliases that were asked for.
    pub rooms: HashMap<String, String>,
}

/// Logs in, or restores the session of an earlier start; the latter asks nobody.
pub async fn open(config: &MatrixConfig, store: &Store) -> Result<Opened, ConnectError> {
    let user = OwnedUserId::try_from(config.user_id.as_str()).map_err(|error| {
        ConnectError::Config(format!("user_id {:?} is no user id: {error}", config.user_id))
    })?;
    // Both are checked before anything is asked of the homeserver.
    room_entries(config)?;
    Access::new(config, None)?;
    let files = Files::new(store.data_dir())?;
    let beginning = files.beginning(&config.homeserver, user.as_str())?;
    let password = match &beginning {
        Beginning::Login { .. } => Some(password(config)?),
        Beginning::Restore(_) => None,
    };
    let client = build(config, &files).await?;
    let restored = password.is_none();
    match (beginning, password) {
        (Beginning::Login { device_id }, Some((password, secret))) => {
            login(config, &client, &device_id, &password, secret).await?;
            let session = client
                .matrix_auth()
                .session()
                .ok_or_else(|| ConnectError::Config("the homeserver gave no session".to_owned()))?;
            files.keep(&config.homeserver, session)?;
            tracing::info!(user = %user, device = %device_id, "logged in as a new device");
        }
        (Beginning::Restore(session), _) => {
            set_sync_token(&client, store, user.as_str()).await?;
            client
                .restore_session(*session)
                .await
                .map_err(|error| store_unusable(&files, &error))?;
        }
        (Beginning::Login { .. }, None) => {
            return Err(ConnectError::NoPassword { user: user.to_string() });
        }
    }
    Ok(Opened { client, files, restored })
}

/// Asks the homeserver whether the session stands, and for what `config` and `aliases` (those of
/// the projects' rooms) leave open. Safe to repeat.
pub async fn reach(
    config: &MatrixConfig,
    opened: &Opened,
    aliases: &[String],
) -> Result<Reached, ConnectError> {
    let client = &opened.client;
    let display_name = check_session(config, client, &opened.files).await?;
    let allowed = match room_entries(config)? {
        None => None,
        Some(entries) => {
            let mut rooms = HashSet::new();
            for entry in entries {
                rooms.insert(match entry {
                    RoomEntry::Id(id) => id.to_owned(),
                    RoomEntry::Alias(alias) => {
                        resolve(config, client, alias, "[matrix] allowed_rooms").await?
                    }
                });
            }
            Some(rooms)
        }
    };
    let mut rooms = HashMap::new();
    for alias in aliases {
        let id = resolve(config, client, alias, "[[projects]] room").await?;
        rooms.insert(alias.clone(), id);
    }
    Ok(Reached { access: Access::new(config, allowed)?, display_name, rooms })
}

async fn build(config: &MatrixConfig, files: &Files) -> Result<Client, ConnectError> {
    let secret = match config::secret(
        config.store_passphrase_env.as_deref(),
        config.store_passphrase_file.as_deref(),
    )? {
        Some(passphrase) => StoreSecret::Passphrase(passphrase),
        None => StoreSecret::Key(files.store_key()?),
    };
    let stores = SqliteStoreConfig::with_low_memory_config(files.store());
    let stores = match &secret {
        StoreSecret::Passphrase(passphrase) => stores.passphrase(Some(passphrase.expose_secret())),
        StoreSecret::Key(key) => stores.key(Some(key)),
    };
    let mut builder = Client::builder()
        .homeserver_url(&config.homeserver)
        .sqlite_store_with_config_and_cache_path(stores, None::<PathBuf>)
        // Our own lock on the data directory keeps other processes out.
        .cross_process_store_config(CrossProcessLockConfig::SingleProcess)
        .request_config(RequestConfig::new().timeout(REQUEST_TIMEOUT).retry_limit(SDK_RETRIES))
        .with_encryption_settings(EncryptionSettings {
            auto_enable_cross_signing: true,
            auto_enable_backups: true,
            backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
        });
    if config.require_verified_devices {
        builder = builder
            .with_room_key_recipient_strategy(CollectStrategy::IdentityBasedStrategy)
            .with_decryption_settings(DecryptionSettings {
                sender_device_trust_requirement: TrustRequirement::CrossSigned,
            });
    }
    builder.build().await.map_err(|error| {
        if matches!(error, matrix_sdk::ClientBuildError::Url(_)) {
            let homeserver = &config.homeserver;
            ConnectError::Config(format!("homeserver {homeserver:?} is no URL: {error}"))
        } else {
            store_unusable(files, &error)
        }
    })
}

fn store_unusable(files: &Files, error: &dyn std::fmt::Display) -> ConnectError {
    ConnectError::StoreUnusable {
        directory: files.directory().to_owned(),
        reason: error.to_string(),
    }
}

/// Makes the SDK continue where our journal ends, not where it got to itself.
///
/// The SDK commits its position before anything is done with the events behind it; a crash there
/// would lose them. Asking the server for our position is not enough: the SDK drops a response
/// whose end it has already seen. So its own memory of the position is replaced.
async fn set_sync_token(client: &Client, store: &Store, user: &str) -> Result<(), ConnectError> {
    let user = user.to_owned();
    let own = store.read(move |conn| position::find(conn, &user)).await?;
    let state = client.state_store();
    let done = match own {
        Some(token) => {
            state
                .set_kv_data(StateStoreDataKey::SyncToken, StateStoreDataValue::SyncToken(token))
                .await
        }
        None => state.remove_kv_data(StateStoreDataKey::SyncToken).await,
    };
    done.map_err(|error| ConnectError::StoreUnusable {
        directory: store.data_dir().join("matrix"),
        reason: error.to_string(),
    })
}

async fn login(
    config: &MatrixConfig,
    client: &Client,
    device_id: &str,
    password: &SecretString,
    secret: String,
) -> Result<(), ConnectError> {
    let homeserver = config.homeserver.clone();
    let sent = client
        .matrix_auth()
        .login_username(&config.user_id, password.expose_secret())
        .device_id(device_id)
        .initial_device_display_name(&config.device_name)
        .send()
        .await;
    let Err(error) = sent else { return Ok(()) };
    Err(match error.client_api_error_kind() {
        Some(ErrorKind::Forbidden | ErrorKind::UserDeactivated) => {
            ConnectError::BadPassword { homeserver, user: config.user_id.clone(), secret }
        }
        Some(ErrorKind::LimitExceeded(limit)) => {
            let wait = super::outgoing::wait_of(limit.retry_after.as_ref());
            ConnectError::LoginLimited { homeserver, wait }
        }
        _ => ConnectError::Unreachable { homeserver, reason: super::outgoing::words(&error) },
    })
}

/// Asks the homeserver who we are, and for our display name.
async fn check_session(
    config: &MatrixConfig,
    client: &Client,
    files: &Files,
) -> Result<Option<String>, ConnectError> {
    let account = client.account();
    let (whoami, name) = tokio::join!(client.whoami(), account.get_display_name());
    let failed = |error: HttpError| match error.client_api_error_kind() {
        Some(ErrorKind::UnknownToken { .. } | ErrorKind::MissingToken) => {
            ConnectError::SessionEnded {
                user: config.user_id.clone(),
                device: client.device_id().map_or(String::new(), ToString::to_string),
                directory: files.directory().to_owned(),
            }
        }
        _ => ConnectError::Unreachable {
            homeserver: config.homeserver.clone(),
            reason: super::outgoing::words(&error.into()),
        },
    };
    whoami.map_err(failed)?;
    // An account without a profile has no name; that is no reason not to start.
    Ok(name.ok().flatten())
}

/// The id of a room; `key` is where its alias stands in the configuration.
async fn resolve(
    config: &MatrixConfig,
    client: &Client,
    alias: &str,
    key: &'static str,
) -> Result<String, ConnectError> {
    let failed = |reason: String| ConnectError::Alias { alias: alias.to_owned(), key, reason };
    let parsed = OwnedRoomAliasId::try_from(alias).map_err(|error| failed(error.to_string()))?;
    let error = match client.resolve_room_alias(&parsed).await {
        Ok(found) => return Ok(found.room_id.to_string()),
        Err(error) => error,
    };
    let status = error.as_client_api_error().map(|error| error.status_code.as_u16());
    let reason = super::outgoing::words(&error.into());
    Err(match status {
        Some(400..=428 | 430..=499) => failed(reason),
        // Overloaded or gone since it was asked who we are.
        Some(_) | None => {
            ConnectError::Unreachable { homeserver: config.homeserver.clone(), reason }
        }
    })
}

/// The password, and where it came from.
fn password(config: &MatrixConfig) -> Result<(SecretString, String), ConnectError> {
    let (variable, file) = (config.password_env.as_deref(), config.password_file.as_deref());
    let password = config::secret(variable, file)?
        .ok_or_else(|| ConnectError::NoPassword { user: config.user_id.clone() })?;
    let source = match (variable, file) {
        (Some(variable), _) => format!("password_env ({variable})"),
        (None, file) => {
            let path = file.map(|file| file.display().to_string()).unwrap_or_default();
            format!("password_file ({path})")
        }
    };
    Ok((password, source))
}
