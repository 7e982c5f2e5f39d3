//! A Curio-style scheduling kernel.
