//! Cutting long Markdown into messages.

/// How many bytes of Markdown go into one message.
pub const PART_LIMIT: usize = 8 * 1024;
