//! The Python shim alone: a real interpreter, its frames on a socket, no pool around it.

use super::frame;
use super::message::Reply;
use crate::outcome::TaskError;
use serde_json::json;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const MODULE: &str = r#"
import asyncio, functools, math, os
from os import system
from math import sqrt

def add(a, b=0): return a + b
def echo(*args, **kwargs): return [list(args), kwargs]
async def later(x):
    await asyncio.sleep(0)
    return x
def _private(): return 1
class Thing:
    def __call__(self): return "called"
thing = Thing()
number = 5
half = functools.partial(os.system, "true")
def loud(f):
    @functools.wraps(f)
    def wrapper(*args, **kwargs):
        print("loud")
        return f(*args, **kwargs)
    return wrapper
@loud
def wrapped(x): return x * 2
shouted = loud(system)
def boom():
    try:
        inner()
    except KeyError as error:
        raise ValueError("caf\u00e9 \ud800") from error
def inner(): raise KeyError("k")
class Bad(Exception):
    def __str__(self): raise RuntimeError("no")
def bad(): raise Bad()
def leave(code): raise SystemExit(code)
def interrupt(): raise KeyboardInterrupt
def give(kind):
    loop = []; loop.append(loop)
    return {"set": {1}, "nan": math.nan, "inf": math.inf, "loop": loop, "keys": {(1, 2): 3},
            "bytes": b"x", "big": 10 ** 30, "text": "\u20ac \ud800", "object": object()}[kind]
def long(n): return "x" * n
def long_error(n): raise ValueError("x" * n + "end")
def fork():
    return os.fork() and 7
def hide():
    import sys
    sys.stdout.close()
    return input() if False else "hidden"
def environment(): return sorted(k for k in os.environ if k.startswith("OLIVE") and not k.startswith("OLIVE_TEST_"))
def __getattr__(name): return add
"#;

struct Python {
    channel: UnixStream,
    child: Child,
    _folder: Folder,
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Python {
    fn start() -> Python {
        let name = format!("olive-shim-{}", uuid::Uuid::new_v4());
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir(&folder.0).unwrap();
        std::fs::write(folder.0.join("tasks.py"), MODULE).unwrap();
        std::fs::write(folder.0.join("broken.py"), "import nowhere_to_be_found\n").unwrap();
        std::fs::write(folder.0.join("leaves.py"), "raise SystemExit(4)\n").unwrap();
        let (channel, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new("python3");
        for (key, value) in
            super::python::environment(&["tasks".into(), "broken".into(), "leaves".into()], 100_000)
        {
            command.env(key, value);
        }
        let child = command
            .args(super::python::ARGUMENTS)
            .env("PYTHONPATH", &folder.0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .expect("these tests need python3");
        let mut python = Python {
            channel,
            child,
            _folder: folder,
        };
        assert!(matches!(python.receive(), Reply::Ready));
        python
    }

    fn receive(&mut self) -> Reply {
        let payload = frame::read(&mut self.channel, 100_000).unwrap();
        serde_json::from_slice(&payload.expect("Python ended")).unwrap()
    }

    fn load(&mut self, module: &str) -> Reply {
        frame::write(&mut self.channel, &json!({ "load": module }), 1_000_000).unwrap();
        self.receive()
    }

    fn call(&mut self, func: &str, args: serde_json::Value, kwargs: serde_json::Value) -> Reply {
        let call = json!({"call": {"func": func, "args": args, "kwargs": kwargs}});
        frame::write(&mut self.channel, &call, 1_000_000).unwrap();
        self.receive()
    }

    fn done(&mut self, name: &str, args: serde_json::Value, kwargs: serde_json::Value) -> String {
        match self.call(&format!("tasks.{name}"), args, kwargs) {
            Reply::Done(value) => value.get().to_string(),
            other => panic!("{name}: {other:?}"),
        }
    }

    fn failed(&mut self, name: &str, args: serde_json::Value) -> TaskError {
        match self.call(&format!("tasks.{name}"), args, json!({})) {
            Reply::Failed(error) => error,
            other => panic!("{name}: {other:?}"),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.channel.shutdown(std::net::Shutdown::Both).unwrap();
        let status = self.child.wait().unwrap();
        if !std::thread::panicking() {
            assert!(status.success(), "Python ended with {status}");
        }
    }
}

#[test]
fn functions_run_and_return_json() {
    let mut python = Python::start();
    assert!(matches!(python.load("tasks"), Reply::Loaded));
    assert_eq!(python.done("add", json!([1, 2]), json!({})), "3");
    assert_eq!(python.done("add", json!([1]), json!({"b": 4})), "5");
    let echoed = python.done("echo", json!(["é\u{0}", null]), json!({"k": [1.5]}));
    assert_eq!(echoed, r#"[["\u00e9\u0000",null],{"k":[1.5]}]"#);
    assert_eq!(python.done("later", json!([[1]]), json!({})), "[1]");
    assert_eq!(python.done("wrapped", json!([4]), json!({})), "8");
    assert_eq!(python.done("thing", json!([]), json!({})), "\"called\"");
    assert_eq!(python.done("environment", json!([]), json!({})), "[]");
    assert_eq!(
        python.done("give", json!(["big"]), json!({})),
        format!("1{}", "0".repeat(30))
    );
    assert_eq!(
        python.done("give", json!(["text"]), json!({})),
        r#""\u20ac \ud800""#
    );
}

#[test]
fn what_the_module_did_not_define_is_no_task() {
    let mut python = Python::start();
    assert!(matches!(python.load("tasks"), Reply::Loaded));
    for name in [
        "system",
        "sqrt",
        "os",
        "math",
        "_private",
        "Thing",
        "number",
        "half",
        "shouted",
        "nothing",
        "__getattr__",
        "__builtins__",
        "functools",
        "add.__call__",
    ] {
        match python.call(&format!("tasks.{name}"), json!(["true"]), json!({})) {
            Reply::Unknown(_) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(matches!(python.load("os"), Reply::Unknown(_)));
    assert!(matches!(
        python.call("os.system", json!(["true"]), json!({})),
        Reply::Unknown(_)
    ));
    assert!(matches!(
        python.call("broken.f", json!([]), json!({})),
        Reply::Unknown(_)
    ));
}

#[test]
fn exceptions_are_outcomes_with_their_traceback() {
    let mut python = Python::start();
    assert!(matches!(python.load("tasks"), Reply::Loaded));
    let error = python.failed("boom", json!([]));
    assert_eq!(
        (&error.kind[..], &error.message[..]),
        ("ValueError", "café ?")
    );
    let trace = error.traceback.unwrap();
    assert!(
        trace.contains("KeyError: 'k'") && trace.contains("in inner"),
        "{trace}"
    );
    assert!(
        trace.contains("in boom") && !trace.contains("olive shim"),
        "{trace}"
    );

    let error = python.failed("add", json!([]));
    assert_eq!(error.kind, "TypeError");
    assert!(
        error
            .message
            .contains("missing 1 required positional argument")
    );
    let error = python.failed("bad", json!([]));
    assert_eq!(error.kind, "tasks.Bad");
    assert_eq!(error.message, "<its __str__ raised RuntimeError>");
    assert_eq!(python.failed("leave", json!([3])).kind, "SystemExit");
    assert_eq!(
        python.failed("interrupt", json!([])).kind,
        "KeyboardInterrupt"
    );
    let error = python.failed("long_error", json!([200_000]));
    assert!(error.message.len() < 20_000 && error.message.ends_with("end"));
    assert_eq!(python.done("add", json!([1]), json!({})), "1");
}

#[test]
fn what_json_cannot_hold_fails_and_says_so() {
    let mut python = Python::start();
    assert!(matches!(python.load("tasks"), Reply::Loaded));
    for kind in ["set", "nan", "inf", "loop", "keys", "bytes", "object"] {
        let error = python.failed("give", json!([kind]));
        assert_eq!(error.kind, "ResultNotJson", "{kind}: {error:?}");
    }
    let error = python.failed("long", json!([100_000]));
    assert_eq!(error.kind, "ResultTooLarge");
    assert!(error.message.contains("100011 bytes"), "{}", error.message);
    let deep = format!(
        r#"{{"call":{{"func":"tasks.add","kwargs":{{}},"args":{}1{}}}}}"#,
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    let mut bytes = (deep.len() as u32).to_be_bytes().to_vec();
    bytes.extend(deep.as_bytes());
    python.channel.write_all(&bytes).unwrap();
    match python.receive() {
        Reply::Failed(error) => assert_eq!(error.kind, "ArgumentsNotUsable"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_job_may_fork_or_close_standard_output() {
    let mut python = Python::start();
    assert!(matches!(python.load("tasks"), Reply::Loaded));
    assert_eq!(python.done("fork", json!([]), json!({})), "7");
    assert_eq!(python.done("hide", json!([]), json!({})), "\"hidden\"");
    assert_eq!(python.done("add", json!([1, 1]), json!({})), "2");
}

#[test]
fn a_module_that_cannot_be_imported_says_which_and_where() {
    let mut python = Python::start();
    match python.load("broken") {
        Reply::Failed(error) => {
            assert_eq!(error.kind, "ModuleNotFoundError");
            assert!(
                error
                    .message
                    .contains("importing broken failed: No module named")
            );
            assert!(error.message.contains("interpreter") && error.message.contains("sys.path"));
            let trace = error.traceback.unwrap();
            assert!(
                trace.contains("broken.py\", line 1") && !trace.contains("importlib"),
                "{trace}"
            );
        }
        other => panic!("{other:?}"),
    }
    match python.load("leaves") {
        Reply::Failed(error) => assert_eq!(error.kind, "SystemExit"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(python.load("tasks"), Reply::Loaded));
}
