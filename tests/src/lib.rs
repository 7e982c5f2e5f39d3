//! Helpers shared by the scenarios.
