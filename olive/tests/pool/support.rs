//! Tasks, requests, and a log that can be read.

use kernel::Error;
use olive::outcome::{Outcome, TaskError};
use olive::pool::{PoolConfig, ProcessPool, Request, Runner};
use olive::registry::Registry;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::value::RawValue;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// Longer than anything here takes, also on a busy machine.
pub const GENEROUS: Duration = Duration::from_secs(60);

pub fn registry() -> Registry {
    let mut tasks = Registry::with_builtins();
    tasks.add("pid", || Ok::<_, TaskError>(std::process::id()));
    tasks.add("nap", |millis: u64| {
        std::thread::sleep(Duration::from_millis(millis));
        Ok::<_, TaskError>(std::process::id())
    });
    tasks.add("add", |a: i64, b: i64| Ok::<_, TaskError>(a + b));
    tasks.add("fail", || Err::<(), _>("no".to_string()));
    tasks.add("panic", || -> Result<(), String> { panic!("on purpose") });
    tasks.add("abort", || -> Result<(), String> { std::process::abort() });
    tasks.add("exit", |code: i32| -> Result<(), String> {
        std::process::exit(code)
    });
    tasks.add("whole", |n: usize| Ok::<_, String>("x".repeat(n)));
    tasks.add("say", |text: String| {
        println!("{text}");
        eprintln!("err {text}");
        log::info!("logged {text}");
        Ok::<_, String>(())
    });
    tasks
}

pub fn config(max_processes: usize) -> PoolConfig {
    PoolConfig {
        max_processes,
        python_modules: ["pool_tasks", "pool_slow_import", "pool_missing"]
            .map(String::from)
            .into(),
        python_path: vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/python")],
        frame_max: 1024 * 1024,
        ..PoolConfig::default()
    }
}

pub fn request(func: &str, args: &str) -> Request {
    Request {
        tid: format!("tid-of-{func}"),
        func: func.to_string(),
        args: RawValue::from_string(args.to_string()).unwrap(),
        kwargs: RawValue::from_string("{}".to_string()).unwrap(),
        timeout: None,
        attempt: 1,
    }
}

/// Runs a scene with a pool in a kernel of its own, and then sees that nothing is left.
pub fn with_pool<F>(config: PoolConfig, scene: impl FnOnce(ProcessPool) -> F + 'static)
where
    F: Future<Output = ()> + 'static,
{
    kernel::run(async move {
        let pool = ProcessPool::new(config);
        let played = kernel::timeout_after(GENEROUS, async {
            scene(pool.clone()).await;
            Ok::<_, Error>(())
        });
        played.await.expect("the scene took too long");
        pool.shutdown().await.unwrap();
        assert!(pool.is_empty(), "{} are left", pool.len());
    })
    .unwrap();
}

pub async fn rust(pool: &ProcessPool, func: &str, args: &str) -> Outcome {
    pool.run(Runner::Rust, request(func, args)).await.unwrap()
}

pub async fn python(pool: &ProcessPool, name: &str, args: &str) -> Outcome {
    let func = format!("pool_tasks.{name}");
    pool.run(Runner::Python, request(&func, args))
        .await
        .unwrap()
}

pub async fn shell(pool: &ProcessPool, script: &str, args: &str) -> Outcome {
    pool.run(sh(script), request("script", args)).await.unwrap()
}

pub fn sh(script: &str) -> Runner {
    Runner::Executable(["sh", "-c", script].map(String::from).into())
}

pub fn value(outcome: Outcome) -> String {
    match outcome {
        Outcome::Done { value } => value.get().to_string(),
        other => panic!("not done: {other:?}"),
    }
}

pub fn error(outcome: Outcome) -> TaskError {
    match outcome {
        Outcome::Failed { error } => error,
        other => panic!("not failed: {other:?}"),
    }
}

pub fn died(outcome: Outcome) -> (Option<i32>, Option<i32>) {
    match outcome {
        Outcome::Died { signal, code } => (signal, code),
        other => panic!("not died: {other:?}"),
    }
}

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("olive-pool-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        Folder(folder)
    }

    /// A path in it, as a JSON string and as a path.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits for a file that a task writes when it has come so far, and reads the numbers in it.
pub async fn announced(path: &Path) -> Vec<Pid> {
    loop {
        if let Ok(text) = std::fs::read_to_string(path) {
            let numbers = text.split_whitespace();
            return numbers
                .map(|number| Pid::from_raw(number.parse().unwrap()).unwrap())
                .collect();
        }
        // There is no event for a file in a folder short of inotify.
        kernel::sleep(Duration::from_millis(5)).await.unwrap();
    }
}

/// Something that can be told to have ended, also when its number is used again.
pub fn watch(pids: &[Pid]) -> Vec<OwnedFd> {
    let open = |pid: &Pid| pidfd_open(*pid, PidfdFlags::empty()).expect("it should be alive");
    pids.iter().map(open).collect()
}

/// Blocks until all have ended; panics if one goes on.
pub fn await_ends(watched: &[OwnedFd]) {
    let limit = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    for (index, process) in watched.iter().enumerate() {
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&limit)).unwrap();
        assert_eq!(
            ready,
            1,
            "process {index} of {} outlives its end",
            watched.len()
        );
    }
}

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        LOG.lock().unwrap().push(record.args().to_string());
    }
    fn flush(&self) {}
}

/// Keeps all log lines, for [`logged`].
pub fn capture_log() {
    log::set_logger(&Capture).unwrap();
    log::set_max_level(log::LevelFilter::Info);
}

/// The log lines so far that contain this.
pub fn logged(part: &str) -> Vec<String> {
    let log = LOG.lock().unwrap();
    log.iter()
        .filter(|line| line.contains(part))
        .cloned()
        .collect()
}
