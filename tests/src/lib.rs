//! Helpers shared by the scenarios.

/// Every page of the notes, and the README: their Rust blocks run as doctests.
#[cfg(doctest)]
mod pages {
    include!(concat!(env!("OUT_DIR"), "/pages.rs"));
}
