//! Who is heard, and where. Looks at ids only: a display name is anybody's to choose.

use super::connect::ConnectError;
use crate::config::MatrixConfig;
use crate::model::ids::RoomKey;
use std::collections::HashSet;

/// One entry of `allowed_users`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    /// Just this person.
    Person(String),
    /// Everyone of a server, as `*:server`.
    Server(String),
}

/// The allow-lists, with aliases resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    users: Vec<Who>,
    /// `None`: any room that an allowed user invites the bot to.
    rooms: Option<HashSet<String>>,
}

/// An entry of `allowed_rooms`, as written.
pub enum RoomEntry<'c> {
    /// A room's id.
    Id(&'c str),
    /// An alias, to be resolved.
    Alias(&'c str),
}

/// The entries of `allowed_rooms`; `None` when `*` is among them.
pub fn room_entries(config: &MatrixConfig) -> Result<Option<Vec<RoomEntry<'_>>>, ConnectError> {
    if config.allowed_rooms.iter().any(|entry| entry == "*") {
        return Ok(None);
    }
    let entry = |entry| match str::chars(entry).next() {
        Some('!') => Ok(RoomEntry::Id(entry)),
        Some('#') => Ok(RoomEntry::Alias(entry)),
        Some(_) | None => Err(ConnectError::Config(format!(
            "allowed_rooms holds {entry:?}, which is neither a room id (!…) nor an alias (#…) \
             nor \"*\""
        ))),
    };
    config.allowed_rooms.iter().map(|text| entry(text.as_str())).collect::<Result<_, _>>().map(Some)
}

impl Access {
    /// The lists of `config`, with the ids of its rooms; `None` for any.
    pub fn new(
        config: &MatrixConfig,
        rooms: Option<HashSet<String>>,
    ) -> Result<Self, ConnectError> {
        let who = |entry: &String| match entry.strip_prefix("*:") {
            Some(server) if !server.is_empty() => Ok(Who::Server(server.to_owned())),
            None if entry.starts_with('@') && entry.contains(':') => Ok(Who::Person(entry.clone())),
            Some(_) | None => Err(ConnectError::Config(format!(
                "allowed_users holds {entry:?}, which is neither a user id (@name:server) nor \
                 *:server"
            ))),
        };
        let users = config.allowed_users.iter().map(who).collect::<Result<_, _>>()?;
        Ok(Self { users, rooms })
    }

    /// Whether `user` is heard.
    pub fn allows_user(&self, user: &str) -> bool {
        self.users.iter().any(|who| match who {
            Who::Person(id) => id == user,
            // The first colon ends the name: what follows is the server with its port.
            Who::Server(server) => user.split_once(':').is_some_and(|(_, of)| of == server),
        })
    }

    /// Whether anything said in `room` is heard.
    pub fn allows_room(&self, room: &RoomKey) -> bool {
        self.rooms.as_ref().is_none_or(|rooms| rooms.contains(room.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(users: &[&str], rooms: &[&str]) -> MatrixConfig {
        MatrixConfig {
            homeserver: "http://localhost".to_owned(),
            user_id: "@bot:hs".to_owned(),
            password_env: None,
            password_file: None,
            store_passphrase_env: None,
            store_passphrase_file: None,
            device_name: "Musher".to_owned(),
            allowed_users: users.iter().map(|user| (*user).to_owned()).collect(),
            allowed_rooms: rooms.iter().map(|room| (*room).to_owned()).collect(),
            admin_users: vec![],
            require_verified_devices: false,
        }
    }

    #[test]
    fn users_are_heard_by_exact_id_or_server_and_an_empty_list_means_nobody() {
        let access = |users: &[&str]| Access::new(&config(users, &[]), None).unwrap();
        for (users, user, heard) in [
            (&["@ann:hs"][..], "@ann:hs", true),
            (&["@ann:hs"], "@ann:hs.evil", false),
            (&["@ann:hs"], "@Ann:hs", false),
            (&["*:hs"], "@anyone:hs", true),
            (&["*:hs"], "@anyone:hs:8448", false),
            (&["*:hs:8448"], "@anyone:hs:8448", true),
            (&["*:hs"], "@evil:evil.hs", false),
            (&["*:hs"], "@x:evil:hs", false),
            (&[], "@ann:hs", false),
        ] {
            assert_eq!(access(users).allows_user(user), heard, "{users:?} {user}");
        }
    }

    #[test]
    fn an_entry_that_is_no_id_is_an_error_that_names_it() {
        for users in [&["ann"][..], &["*"], &["*:"], &["@ann"]] {
            let error = Access::new(&config(users, &[]), None).unwrap_err().to_string();
            assert!(error.contains(users[0]), "{error}");
        }
        assert!(room_entries(&config(&[], &["room"])).is_err());
        assert!(room_entries(&config(&[], &["!a:hs", "*"])).unwrap().is_none());
        assert_eq!(room_entries(&config(&[], &["!a:hs", "#b:hs"])).unwrap().unwrap().len(), 2);
    }

    #[test]
    fn no_rooms_means_nowhere_and_a_star_means_anywhere() {
        let config = config(&[], &[]);
        let nowhere = Access::new(&config, Some(HashSet::new())).unwrap();
        assert!(!nowhere.allows_room(&"!a:hs".into()));
        let anywhere = Access::new(&config, None).unwrap();
        assert!(anywhere.allows_room(&"!a:hs".into()));
    }
}
