//! Task name → Rust handler.
//!
//! A handler is an ordinary typed function. How a job's `args` and `kwargs` become its parameters
//! is decided by the number of parameters, which the compiler knows:
//!
//! | parameters | `args` | `kwargs` |
//! |---|---|---|
//! | none | `[]` | `{}` |
//! | one, `T` | `[x]`: `T` from `x` | alone: `T` from the whole object |
//! | two to six | one element each, in order | not taken: Rust's parameters have no names at run time |
//!
//! Python functions and executables are not in here: they are `worker::execute`'s, which asks the
//! registry first.

use std::any::Any;
use std::collections::HashMap;
use std::fmt::{self, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

use crate::outcome::TaskError;

type Handler = Box<dyn Fn(&str, &str) -> Result<Box<RawValue>, TaskError> + Send + Sync + 'static>;

/// A place in a [`Registry`]; looked up once a job, then called without hashing its name again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerId(usize);

/// The Rust tasks a program can run, by name.
#[derive(Default)]
pub struct Registry {
    handlers: Vec<Handler>,
    by_name: HashMap<String, HandlerId>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl Registry {
    /// A registry without any task.
    pub fn new() -> Self {
        Registry::default()
    }

    /// A registry with the built-in tasks: `olive.tasks.do_nothing` and `olive.tasks.sleep_n`.
    pub fn with_builtins() -> Self {
        let mut registry = Registry::new();
        registry.add("olive.tasks.do_nothing", || Ok::<_, TaskError>(()));
        registry.add("olive.tasks.sleep_n", sleep_n);
        registry
    }

    /// Registers `task` under `name`; the module's table says how it is called.
    ///
    /// # Panics
    /// If `name` is empty or taken: two functions under one name is a mistake in the program.
    pub fn add<Args>(&mut self, name: &str, task: impl Task<Args>) {
        assert!(!name.is_empty(), "a task needs a name");
        let id = HandlerId(self.handlers.len());
        let before = self.by_name.insert(name.to_owned(), id);
        assert!(before.is_none(), "two tasks are named {name:?}");
        self.handlers
            .push(Box::new(move |args, kwargs| task.call(args, kwargs)));
    }

    /// The handler registered under `name`.
    pub fn find(&self, name: &str) -> Option<HandlerId> {
        self.by_name.get(name).copied()
    }

    /// The registered names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Calls the task `name` with raw JSON, on this thread; blocks as long as it runs.
    ///
    /// # Errors
    /// An unknown name (kind `UnknownTask`), arguments that do not fit (`TypeError`), the task's
    /// own error, or its panic (`panic`).
    pub fn call(
        &self,
        name: &str,
        args: &RawValue,
        kwargs: &RawValue,
    ) -> Result<Box<RawValue>, TaskError> {
        let id = self.find(name).ok_or_else(|| {
            TaskError::new("UnknownTask", format!("no Rust task is named {name:?}"))
        })?;
        self.call_id(id, args.get(), kwargs.get())
    }

    /// As [`call`](Self::call), for a handler already looked up; `args` and `kwargs` are JSON text.
    pub fn call_id(
        &self,
        id: HandlerId,
        args: &str,
        kwargs: &str,
    ) -> Result<Box<RawValue>, TaskError> {
        let handler = &self.handlers[id.0];
        // A handler takes its arguments by value and we drop all else it touched, so what a panic
        // leaves half done is the task's own shared state: its to poison, as with any thread.
        match catch_unwind(AssertUnwindSafe(|| handler(args, kwargs))) {
            Ok(result) => result,
            Err(payload) => Err(TaskError::new("panic", panic_message(payload.as_ref()))),
        }
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "the task panicked".to_owned()
    }
}

fn sleep_n(seconds: f64) -> Result<(), TaskError> {
    let length = Duration::try_from_secs_f64(seconds)
        .map_err(|_| TaskError::new("ValueError", format!("cannot sleep {seconds} seconds")))?;
    std::thread::sleep(length);
    Ok(())
}

/// A function that can be registered: `Fn(A, B, …) -> Result<R, E>` with up to six parameters
/// that [`DeserializeOwned`], a result that is [`Serialize`] and an error that is [`Display`].
///
/// `Args` only tells the compiler the implementations apart; it is inferred.
pub trait Task<Args>: Send + Sync + 'static {
    /// Calls the function with JSON text: `args` a list, `kwargs` an object.
    fn call(&self, args: &str, kwargs: &str) -> Result<Box<RawValue>, TaskError>;
}

impl<F, R, E> Task<()> for F
where
    F: Fn() -> Result<R, E> + Send + Sync + 'static,
    R: Serialize,
    E: Display + 'static,
{
    fn call(&self, args: &str, kwargs: &str) -> Result<Box<RawValue>, TaskError> {
        if !is_empty(args) {
            return Err(wrong_count(0, args));
        }
        no_kwargs(kwargs)?;
        finish(self())
    }
}

impl<F, A, R, E> Task<(A,)> for F
where
    F: Fn(A) -> Result<R, E> + Send + Sync + 'static,
    A: DeserializeOwned,
    R: Serialize,
    E: Display + 'static,
{
    fn call(&self, args: &str, kwargs: &str) -> Result<Box<RawValue>, TaskError> {
        let parameter = match (is_empty(args), is_empty(kwargs)) {
            (true, no_kwargs) => serde_json::from_str(kwargs).map_err(|e| {
                let text = e.to_string();
                // The parameter is no struct, and nothing was given.
                if no_kwargs && text.starts_with("invalid type: map") {
                    return wrong_count(1, args);
                }
                TaskError::new("TypeError", format!("kwargs do not fit: {text}"))
            })?,
            (false, true) => {
                let (parameter,) = positional::<(A,)>(1, args)?;
                parameter
            }
            (false, false) => {
                return Err(TaskError::new(
                    "TypeError",
                    "this task takes one parameter: give it in args or as kwargs, not in both",
                ));
            }
        };
        finish(self(parameter))
    }
}

macro_rules! task_of_many {
    ($count:literal: $($name:ident)+) => {
        impl<F, $($name,)+ R, E> Task<($($name,)+)> for F
        where
            F: Fn($($name),+) -> Result<R, E> + Send + Sync + 'static,
            $($name: DeserializeOwned,)+
            R: Serialize,
            E: Display + 'static,
        {
            #[allow(non_snake_case)]
            fn call(&self, args: &str, kwargs: &str) -> Result<Box<RawValue>, TaskError> {
                no_kwargs(kwargs)?;
                let ($($name,)+) = positional::<($($name,)+)>($count, args)?;
                finish(self($($name),+))
            }
        }
    };
}

task_of_many!(2: A B);
task_of_many!(3: A B C);
task_of_many!(4: A B C D);
task_of_many!(5: A B C D G);
task_of_many!(6: A B C D G H);

/// Whether JSON text is `[]` or `{}`; whoever parsed the job has already seen that it is a list
/// or an object.
fn is_empty(text: &str) -> bool {
    text.len() >= 2
        && text[1..text.len() - 1]
            .bytes()
            .all(|b| b.is_ascii_whitespace())
}

fn positional<T: DeserializeOwned>(count: usize, args: &str) -> Result<T, TaskError> {
    serde_json::from_str(args).map_err(|e| {
        if count_of(args).is_some_and(|given| given != count) {
            wrong_count(count, args)
        } else {
            TaskError::new("TypeError", format!("args do not fit: {e}"))
        }
    })
}

fn no_kwargs(kwargs: &str) -> Result<(), TaskError> {
    if is_empty(kwargs) {
        return Ok(());
    }
    Err(TaskError::new(
        "TypeError",
        "this task takes positional args only; kwargs go to a Rust task with one struct parameter",
    ))
}

fn wrong_count(expected: usize, args: &str) -> TaskError {
    let given = count_of(args).unwrap_or(0);
    let s = if expected == 1 { "" } else { "s" };
    TaskError::new(
        "TypeError",
        format!("this task takes {expected} argument{s}, {given} given"),
    )
}

fn count_of(args: &str) -> Option<usize> {
    serde_json::from_str::<Vec<&RawValue>>(args)
        .ok()
        .map(|list| list.len())
}

fn finish<R: Serialize, E: Display + 'static>(
    result: Result<R, E>,
) -> Result<Box<RawValue>, TaskError> {
    match result {
        Ok(value) => to_raw_value(&value).map_err(|e| {
            TaskError::new(
                "TypeError",
                format!("JSON cannot hold the return value: {e}"),
            )
        }),
        Err(error) => Err(describe(&error)),
    }
}

/// A [`TaskError`] passes as it is; anything else gives its type's name and, in the alternate form
/// that `anyhow` and others fill with their causes, its text.
fn describe<E: Display + 'static>(error: &E) -> TaskError {
    match (error as &dyn Any).downcast_ref::<TaskError>() {
        Some(error) => error.clone(),
        None => TaskError::new(short_type_name::<E>(), format!("{error:#}")),
    }
}

/// `std::io::error::Error` → `io::error::Error` says too much, `Error` too little: the last two
/// parts, generics left out. Plain text errors are kind `Error`.
fn short_type_name<E: 'static>() -> String {
    let full = std::any::type_name::<E>();
    if full.ends_with("str") || full.ends_with("String") {
        return "Error".to_owned();
    }
    let path = full.split('<').next().unwrap_or(full);
    let mut parts: Vec<&str> = path.rsplit("::").take(2).collect();
    parts.reverse();
    parts.join("::")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Order {
        id: u32,
        #[serde(default)]
        note: String,
    }

    fn registry() -> Registry {
        let mut r = Registry::with_builtins();
        r.add("add", |a: i64, b: i64| Ok::<_, TaskError>(a + b));
        r.add("order", |o: Order| {
            if o.id == 0 {
                return Err(format!("no order {}", o.note));
            }
            Ok(format!("order {}", o.id))
        });
        r.add("open", |path: String| std::fs::read_to_string(path));
        r.add("own", || {
            Err::<(), _>(TaskError::new("shop.Closed", "till 9"))
        });
        r.add("panics", || -> Result<(), String> {
            panic!("at the {}", "disco")
        });
        r.add("nan", || {
            Ok::<_, String>(HashMap::from([((1, 2), 3)])) // no JSON object has pairs for keys
        });
        r
    }

    fn call(name: &str, args: &str, kwargs: &str) -> Result<String, TaskError> {
        let args = RawValue::from_string(args.into()).unwrap();
        let kwargs = RawValue::from_string(kwargs.into()).unwrap();
        registry()
            .call(name, &args, &kwargs)
            .map(|v| v.get().to_owned())
    }

    fn message(name: &str, args: &str, kwargs: &str) -> String {
        call(name, args, kwargs).unwrap_err().to_string()
    }

    #[test]
    fn parameters_are_filled_in_order() {
        assert_eq!(call("add", "[1, 2]", "{}").unwrap(), "3");
        assert_eq!(
            call("order", "[{\"id\": 3}]", "{ }").unwrap(),
            "\"order 3\""
        );
        assert_eq!(call("order", "[ ]", "{\"id\": 4}").unwrap(), "\"order 4\"");
        assert_eq!(call("olive.tasks.do_nothing", "[]", "{}").unwrap(), "null");
        assert_eq!(call("olive.tasks.sleep_n", "[0]", "{}").unwrap(), "null");
    }

    #[test]
    fn what_does_not_fit_is_said() {
        assert_eq!(
            message("add", "[1]", "{}"),
            "TypeError: this task takes 2 arguments, 1 given"
        );
        assert_eq!(
            message("add", "[1,2,3]", "{}"),
            "TypeError: this task takes 2 arguments, 3 given"
        );
        assert!(message("add", "[1,\"x\"]", "{}").contains("args do not fit: invalid type"));
        assert!(message("add", "[]", "{\"a\":1}").contains("positional args only"));
        assert!(message("order", "[1]", "{\"id\":1}").contains("not in both"));
        assert!(message("order", "[]", "{}").contains("missing field `id`"));
        assert!(message("olive.tasks.do_nothing", "[1]", "{}").contains("takes 0 arguments, 1"));
        assert!(message("olive.tasks.sleep_n", "[-1]", "{}").contains("cannot sleep -1"));
        assert!(message("nobody", "[]", "{}").contains("no Rust task is named \"nobody\""));
    }

    #[test]
    fn errors_keep_their_type() {
        assert_eq!(
            message("order", "[]", "{\"id\":0,\"note\":\"x\"}"),
            "Error: no order x"
        );
        assert_eq!(
            call("open", "[\"/no/such\"]", "{}").unwrap_err().kind,
            "error::Error"
        );
        assert_eq!(message("own", "[]", "{}"), "shop.Closed: till 9");
        assert!(message("nan", "[]", "{}").contains("JSON cannot hold"));
    }

    #[test]
    fn a_panic_fails_the_job_only() {
        assert_eq!(message("panics", "[]", "{}"), "panic: at the disco");
        assert_eq!(call("add", "[1,1]", "{}").unwrap(), "2");
    }

    #[test]
    #[should_panic(expected = "two tasks are named")]
    fn a_name_is_given_once() {
        registry().add("add", || Ok::<_, String>(()));
    }
}
