//! The `olive` binary.

fn main() {}
