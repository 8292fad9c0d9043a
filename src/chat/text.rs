//! What the chat itself says in a room, in one place.

/// The first words in a room.
pub fn hello(prefix: &str, direct: bool) -> String {
    let how = if direct { "Write to me" } else { "Mention me" };
    format!(
        "Hello! I run a team of coding agents. {how} and say what you need in plain words, or \
         type `{prefix}help` for the commands."
    )
}

/// Ends the message that goes before a file.
pub fn rest_in_file(bytes: usize) -> String {
    format!(
        "… The whole answer is {} KB long; it is in the file that follows.",
        bytes.div_ceil(1024)
    )
}

/// Stands in the place of a file that could not be attached.
pub fn file_failed(error: &str) -> String {
    format!(
        "The file with the whole answer could not be attached: {error}. Ask for it in smaller \
         parts."
    )
}

/// What an edit leaves of a message that is not needed any more.
pub const SEE_ABOVE: &str = "(see above)";

/// Stands for a file that a person attached.
pub fn attachment(name: &str, media_type: &str, bytes: Option<u64>) -> String {
    let size = bytes.map_or(String::new(), |bytes| format!(", {bytes} bytes"));
    format!("[attached: {name} ({media_type}{size}); attachments are not read]")
}
