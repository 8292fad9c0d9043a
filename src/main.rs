//! Musher.
fn main() {}
