//! The version of this binary.

/// The version, with the commit when it was built by `rebuild`.
pub fn version() -> &'static str {
    match option_env!("MUSHER_VERSION") {
        Some(version) => version,
        None => plain(),
    }
}

/// The version without the commit.
pub fn plain() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
