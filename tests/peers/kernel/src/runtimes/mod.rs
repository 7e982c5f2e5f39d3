//! One module for each runtime, and the table of rows.
//!
//! A runtime's module holds what only it does: how it runs, spawns, sleeps and offloads. [`alike`] writes
//! the rest around it.

#[macro_use]
mod alike;

mod futures_rt;
mod glommio_rt;
mod monoio_rt;
mod ours;
mod smol_rt;
mod tokio_rt;

macro_rules! plain_row {
    ($module:ident, $row:expr) => {
        match $row {
            "yield-2" => $module::yields(2, 2_000_000),
            "yield-10k" => $module::yields(10_000, 400),
            "spawn-join" => $module::spawn_join(1_000_000),
            "spawn-1m" => $module::spawn_many(1_000_000),
            "parked-bytes" => $module::parked(1_000_000),
            "channel-unbounded" => $module::channel(5_000_000),
            "channel-bounded" => $module::channel_bounded(3_000_000),
            "waker" => $module::waker(1_000_000),
            other => panic!("no row {other} for {}", stringify!($module)),
        }
    };
}

macro_rules! any_row {
    ($module:ident, $row:expr) => {
        match $row {
            "sleep-1m" => $module::sleeps(1_000_000),
            "timeout-churn" => $module::timeouts(2_000_000),
            "echo-1" => $module::echo(1, 30_000),
            "echo-1000" => $module::echo(1000, 60),
            "offload-seq" => $module::offload_sequential(20_000),
            "offload-80" => $module::offload_many(400_000, 80),
            row => plain_row!($module, row),
        }
    };
}

/// Measures one row on one runtime; the unit is the row's.
pub fn measure(row: &str, runtime: &str) -> f64 {
    match (runtime, row) {
        ("kernel", row) => any_row!(ours, row),
        ("tokio", row) => any_row!(tokio_rt, row),
        ("smol", row) => any_row!(smol_rt, row),
        ("glommio", row) => any_row!(glommio_rt, row),
        ("monoio", row) => any_row!(monoio_rt, row),
        ("futures", row) => plain_row!(futures_rt, row),
        ("mio", "echo-1") => crate::echo_mio::echo(30_000),
        _ => panic!("no runtime {runtime}"),
    }
}
