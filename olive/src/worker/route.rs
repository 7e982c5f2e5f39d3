//! Who runs a task of this name (pure): the operator's allow-list.
//!
//! A producer can run Rust tasks that the program registered, executables that the configuration
//! lists under a task name, and functions of the Python modules it lists; in this order. Nothing
//! else: a queue is not a shell.

use crate::config::{Config, WorkerType};
use crate::pool::{self, Runner};
use crate::registry::{HandlerId, Registry};

/// Where a job runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Route {
    /// On a thread of ours.
    Thread(HandlerId),
    /// In a process, which can be killed.
    Process(Runner),
}

/// Finds the route of a task; `timed` when the job has a timeout.
///
/// # Errors
/// Why nobody runs it.
pub(super) fn route(
    func: &str,
    timed: bool,
    registry: &Registry,
    config: &Config,
) -> Result<Route, String> {
    if let Some(id) = registry.find(func) {
        // A thread cannot be killed, so a job with a timeout goes where it can.
        return Ok(match config.worker_type {
            WorkerType::Thread if !timed => Route::Thread(id),
            _ => Route::Process(Runner::Rust),
        });
    }
    if let Some(argv) = config.executables.get(func) {
        return Ok(Route::Process(Runner::Executable(argv.clone())));
    }
    match pool::python_name(func, &config.python_modules) {
        Ok(_) => Ok(Route::Process(Runner::Python)),
        Err(reason) => Err(format!(
            "no Rust task and no executable is named {func:?}, and {reason}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(func: &str, timed: bool, worker_type: WorkerType) -> Result<Route, String> {
        let mut config = Config {
            worker_type,
            python_modules: vec!["myapp.tasks".into()],
            ..Config::default()
        };
        config
            .executables
            .insert("shop.resize".into(), vec!["true".into()]);
        route(func, timed, &Registry::with_builtins(), &config)
    }

    #[test]
    fn a_timeout_needs_a_process() {
        let name = "olive.tasks.sleep_n";
        assert!(matches!(
            of(name, false, WorkerType::Thread),
            Ok(Route::Thread(_))
        ));
        let process = Ok(Route::Process(Runner::Rust));
        assert_eq!(of(name, true, WorkerType::Thread), process);
        assert_eq!(of(name, false, WorkerType::Process), process);
    }

    #[test]
    fn only_what_the_operator_allowed_has_a_route() {
        let t = WorkerType::Thread;
        assert_eq!(
            of("myapp.tasks.add", false, t),
            Ok(Route::Process(Runner::Python))
        );
        let argv = vec!["true".to_owned()];
        assert_eq!(
            of("shop.resize", true, t),
            Ok(Route::Process(Runner::Executable(argv)))
        );
        for func in [
            "os.system",
            "builtins.exec",
            "myapp.tasks.os.system",
            "myapp.tasks._private",
            "myapp.tasks",
            "myapp",
            "/bin/sh",
            "true",
            "shop",
        ] {
            assert!(of(func, false, t).is_err(), "{func}");
        }
    }
}
