//! The wire form of a job: one JSON object, as existing producers write it.
//!
//! ```json
//! {"func": "shop.charge", "args": [], "kwargs": {}, "tid": "…", "timeout": -1,
//!  "resp_exchange": null, "resp_routing_key": null}
//! ```
//!
//! `func` is required; the rest has the defaults shown (`tid`: a new UUID), and `null` means the
//! default. Keys we do not know are ignored, so that a newer producer can talk to an older worker.
//!
//! [`Job`] owns the message's text and remembers *where* in it the parts stand: `args` and
//! `kwargs` are never built as values here, only handed on to whoever runs them, and a job of the
//! common kind costs no allocation at all.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The largest body that is taken for a job, 8 MiB: big data belongs in a store, with its address
/// in the job. (RabbitMQ 4 stops at 16 MiB by default, from the documentation.)
pub const MAX_BODY_BYTES: usize = 8 << 20;

/// The longest `timeout`, about 31 years.
const MAX_TIMEOUT_S: f64 = 1e9;

/// Why a body is no job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

/// A place in the body; small, for jobs are moved about. [`MAX_BODY_BYTES`] fits.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn of(self, body: &str) -> &str {
        &body[self.start as usize..self.end as usize]
    }
}

/// Text that stands in the body as it is, or had escapes and was copied.
#[derive(Clone, Debug)]
enum Text {
    There(Span),
    Copied(Box<str>),
}

/// Where the producer wants the result.
#[derive(Clone, Debug)]
struct Address {
    exchange: Option<Text>,
    routing_key: Option<Text>,
}

/// One submission of a task, taken from a message body.
#[derive(Clone, Debug)]
pub struct Job {
    body: String,
    func: Text,
    args: Option<Span>,
    kwargs: Option<Span>,
    tid: Option<Text>,
    timeout: Option<Duration>,
    address: Option<Box<Address>>,
}

/// The body's keys with what stands behind them unread; `null` is `None`.
#[derive(Deserialize)]
struct Keys<'a> {
    #[serde(borrow, default)]
    func: Option<&'a RawValue>,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
    #[serde(borrow, default)]
    kwargs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tid: Option<&'a RawValue>,
    #[serde(borrow, default)]
    timeout: Option<&'a RawValue>,
    #[serde(borrow, default)]
    resp_exchange: Option<&'a RawValue>,
    #[serde(borrow, default)]
    resp_routing_key: Option<&'a RawValue>,
}

impl Job {
    /// Reads a message body.
    ///
    /// # Errors
    /// The body, unharmed, and the reason: too large, not UTF-8, not JSON, not an object, no
    /// `func`, or a part of the wrong kind.
    pub fn parse(body: Vec<u8>) -> Result<Job, (Vec<u8>, Malformed)> {
        if body.len() > MAX_BODY_BYTES {
            let reason = format!(
                "the body has {} bytes, a job at most {MAX_BODY_BYTES}",
                body.len()
            );
            return Err((body, Malformed(reason)));
        }
        let body = String::from_utf8(body).map_err(|e| {
            let reason = format!(
                "the body is not UTF-8 text (byte {} of {})",
                e.utf8_error().valid_up_to(),
                e.as_bytes().len()
            );
            (e.into_bytes(), Malformed(reason))
        })?;
        match read(&body) {
            Ok(parts) => Ok(Job { body, ..parts }),
            Err(reason) => Err((body.into_bytes(), Malformed(reason))),
        }
    }

    fn text_of<'a>(&'a self, text: &'a Text) -> &'a str {
        match text {
            Text::There(span) => span.of(&self.body),
            Text::Copied(text) => text,
        }
    }

    /// The task's name.
    pub fn func(&self) -> &str {
        self.text_of(&self.func)
    }

    /// The positional arguments: JSON text of a list.
    pub fn args(&self) -> &str {
        self.args.map_or("[]", |span| span.of(&self.body))
    }

    /// The named arguments: JSON text of an object.
    pub fn kwargs(&self) -> &str {
        self.kwargs.map_or("{}", |span| span.of(&self.body))
    }

    /// The job's id; a new one is made, and kept, if the producer gave none.
    pub fn tid(&mut self) -> &str {
        let tid = self
            .tid
            .get_or_insert_with(|| Text::Copied(uuid::Uuid::new_v4().to_string().into()));
        match tid {
            Text::There(span) => span.of(&self.body),
            Text::Copied(text) => text,
        }
    }

    /// How long it may run; `None`: as long as it takes.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Exchange and routing key the producer wants the result published to, if it named one.
    /// Without an exchange the default one is meant, whose key is a queue's name.
    pub fn result_address(&self) -> Option<(&str, &str)> {
        let address = self.address.as_deref()?;
        let exchange = address.exchange.as_ref().map_or("", |t| self.text_of(t));
        let key = address.routing_key.as_ref();
        let key = key.map_or("", |t| self.text_of(t));
        (!(exchange.is_empty() && key.is_empty())).then_some((exchange, key))
    }

    /// The id that the producer gave, if it gave one.
    pub fn given_tid(&self) -> Option<&str> {
        self.tid.as_ref().map(|tid| self.text_of(tid))
    }

    /// The body as it came.
    pub fn text(&self) -> &str {
        &self.body
    }
}

/// All of a [`Job`] but its body.
fn read(body: &str) -> Result<Job, String> {
    let start = body.trim_start();
    if !start.is_empty() && !start.starts_with('{') {
        return Err(match serde_json::from_str::<&RawValue>(body) {
            Ok(_) => format!("the body is {}, not an object", kind(start)),
            Err(e) => format!("the body is not JSON: {e}"),
        });
    }
    let keys: Keys = serde_json::from_str(body).map_err(|e| {
        if e.is_data() {
            e.to_string()
        } else {
            format!("the body is not JSON: {e}")
        }
    })?;
    let place = |part: &str| {
        let start = part.as_ptr() as usize - body.as_ptr() as usize;
        Span {
            start: start as u32,
            end: (start + part.len()) as u32,
        }
    };
    let nested = |name, raw: Option<&RawValue>, open, expected| match raw {
        Some(raw) if !raw.get().starts_with(open) => Err(format!(
            "`{name}` must be {expected}, found {}",
            kind(raw.get())
        )),
        other => Ok::<_, String>(other.map(|raw| place(raw.get()))),
    };
    let text = |name, raw: Option<&RawValue>, max_bytes: usize| match raw {
        None => Ok::<_, String>(None),
        Some(raw) => {
            let text = string(name, raw, max_bytes)?;
            Ok(Some(match text {
                Cow::Borrowed(part) => Text::There(place(part)),
                Cow::Owned(text) => Text::Copied(text.into()),
            }))
        }
    };
    let func = text("func", keys.func, 4096)?.ok_or("`func` is missing")?;
    if matches!(func, Text::There(span) if span.start == span.end) {
        return Err("`func` is empty".to_owned());
    }
    let exchange = text("resp_exchange", keys.resp_exchange, 255)?;
    let routing_key = text("resp_routing_key", keys.resp_routing_key, 255)?;
    Ok(Job {
        body: String::new(),
        func,
        args: nested("args", keys.args, '[', "a list")?,
        kwargs: nested("kwargs", keys.kwargs, '{', "an object")?,
        // An AMQP correlation id, which the tid becomes, is a short string.
        tid: text("tid", keys.tid, 255)?,
        timeout: keys.timeout.map(timeout).transpose()?.flatten(),
        address: (exchange.is_some() || routing_key.is_some()).then(|| {
            Box::new(Address {
                exchange,
                routing_key,
            })
        }),
    })
}

fn string<'a>(name: &str, raw: &'a RawValue, max_bytes: usize) -> Result<Cow<'a, str>, String> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Borrowing<'a>(#[serde(borrow)] Cow<'a, str>);

    if !raw.get().starts_with('"') {
        return Err(format!("`{name}` must be text, found {}", kind(raw.get())));
    }
    let Borrowing(text) =
        serde_json::from_str(raw.get()).map_err(|e| format!("`{name}` is not valid text: {e}"))?;
    if text.len() > max_bytes {
        return Err(format!(
            "`{name}` has {} bytes, at most {max_bytes} fit",
            text.len()
        ));
    }
    Ok(text)
}

/// Seconds; negative is none. Zero is refused: it reads as "no limit" to some and as "at once" to
/// others.
fn timeout(raw: &RawValue) -> Result<Option<Duration>, String> {
    let wrong = |found: &str| {
        format!("`timeout` must be a number of seconds above 0, or -1 for none; found {found}")
    };
    let text = raw.get();
    let Ok(seconds) = serde_json::from_str::<f64>(text) else {
        return Err(wrong(kind(text)));
    };
    if seconds < 0.0 {
        Ok(None)
    } else if seconds == 0.0 || seconds > MAX_TIMEOUT_S {
        Err(wrong(text))
    } else {
        Ok(Some(Duration::from_secs_f64(seconds)))
    }
}

/// What a JSON value is, by its first character.
fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// The wire form to send, with only what differs from the defaults.
#[derive(Clone, Debug, Serialize)]
pub struct NewJob<'a> {
    /// The task's name.
    pub func: &'a str,
    /// The positional arguments, as a JSON list.
    pub args: &'a RawValue,
    /// The named arguments, as a JSON object.
    pub kwargs: &'a RawValue,
    /// The job's id.
    pub tid: &'a str,
    /// Seconds it may run; -1 for no limit.
    pub timeout: f64,
    /// Where the result goes, beside the AMQP `reply_to`.
    pub resp_exchange: Option<&'a str>,
    /// Its routing key.
    pub resp_routing_key: Option<&'a str>,
}

impl NewJob<'_> {
    /// The message body.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a job holds text, finite numbers and valid JSON only")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(body: &str) -> Job {
        Job::parse(body.into()).map_err(|(_, e)| e).unwrap()
    }

    fn reason(body: impl Into<Vec<u8>>) -> String {
        let body = body.into();
        let (back, reason) = Job::parse(body.clone()).unwrap_err();
        assert_eq!(back, body, "the body comes back as it was");
        reason.to_string()
    }

    #[test]
    fn only_func_is_required() {
        let mut j = job(r#" {"func": "a.b"} "#);
        assert_eq!((j.func(), j.args(), j.kwargs()), ("a.b", "[]", "{}"));
        assert_eq!((j.timeout(), j.result_address()), (None, None));
        let tid = j.tid().to_owned();
        assert!(uuid::Uuid::parse_str(&tid).is_ok());
        assert_eq!(j.tid(), tid, "made once");
    }

    #[test]
    fn every_part_is_found() {
        let mut j = job(
            r#"{"tid":"t-1","func":"a","args":[1,{"x":"]"}],"kwargs":{"k":[]},"timeout":1.5,
                "resp_exchange":"e","resp_routing_key":"k","later":{"new":1}}"#,
        );
        assert_eq!((j.args(), j.kwargs()), (r#"[1,{"x":"]"}]"#, r#"{"k":[]}"#));
        assert_eq!(j.tid(), "t-1");
        assert_eq!(j.timeout(), Some(Duration::from_millis(1500)));
        assert_eq!(j.result_address(), Some(("e", "k")));
    }

    #[test]
    fn null_is_the_default() {
        let j = job(
            r#"{"func":"a","args":null,"kwargs":null,"tid":null,"timeout":null,
                "resp_exchange":null,"resp_routing_key":null}"#,
        );
        assert_eq!((j.args(), j.kwargs(), j.timeout()), ("[]", "{}", None));
        assert_eq!(job(r#"{"func":"a","timeout":-1}"#).timeout(), None);
        let j = job(r#"{"func":"a","resp_routing_key":"q"}"#);
        assert_eq!(j.result_address(), Some(("", "q")));
        let j = job(r#"{"func":"a","resp_exchange":"","resp_routing_key":""}"#);
        assert_eq!(j.result_address(), None);
    }

    #[test]
    fn escapes_are_undone() {
        let mut j = job(r#"{"func":"caf\u00e9.run","tid":"a\"b"}"#);
        assert_eq!(j.func(), "café.run");
        assert_eq!(j.tid(), "a\"b");
    }

    #[test]
    fn each_fault_has_its_reason() {
        assert!(reason("").contains("not JSON: EOF"));
        assert!(reason("{").contains("not JSON: EOF"));
        assert!(reason("func=1").contains("not JSON"));
        assert_eq!(reason("[1]"), "the body is a list, not an object");
        assert_eq!(reason("\"x\""), "the body is text, not an object");
        assert_eq!(reason("17"), "the body is a number, not an object");
        assert_eq!(reason("null"), "the body is null, not an object");
        assert_eq!(
            reason([0xff, 0x00]),
            "the body is not UTF-8 text (byte 0 of 2)"
        );
        assert_eq!(reason("{}"), "`func` is missing");
        assert_eq!(reason(r#"{"func":null}"#), "`func` is missing");
        assert_eq!(reason(r#"{"func":""}"#), "`func` is empty");
        assert_eq!(
            reason(r#"{"func":1}"#),
            "`func` must be text, found a number"
        );
        assert!(reason(r#"{"func":"a","func":"b"}"#).contains("duplicate field `func`"));
        let with = |part: &str| reason(format!(r#"{{"func":"a",{part}}}"#));
        assert_eq!(
            with(r#""args":{}"#),
            "`args` must be a list, found an object"
        );
        assert_eq!(
            with(r#""kwargs":[]"#),
            "`kwargs` must be an object, found a list"
        );
        assert_eq!(with(r#""tid":5"#), "`tid` must be text, found a number");
        assert!(with(r#""timeout":"5""#).ends_with("found text"));
        assert!(with(r#""timeout":0"#).ends_with("found 0"));
        assert!(with(r#""timeout":1e10"#).ends_with("found 1e10"));
        assert!(with(&format!(r#""tid":"{}""#, "x".repeat(256))).contains("256 bytes"));
        assert!(reason(r#"{"func":"a"} trailing"#).contains("trailing"));
        assert!(reason(vec![b' '; MAX_BODY_BYTES + 1]).contains("at most 8388608"));
        assert!(with(r#""tid":"\ud800""#).contains("not valid text"));
    }

    #[test]
    fn what_a_producer_writes_is_read_back() {
        let args = RawValue::from_string("[1]".into()).unwrap();
        let kwargs = RawValue::from_string("{}".into()).unwrap();
        let body = NewJob {
            func: "f",
            args: &args,
            kwargs: &kwargs,
            tid: "t",
            timeout: -1.0,
            resp_exchange: None,
            resp_routing_key: Some("r"),
        }
        .to_json();
        let mut j = Job::parse(body).map_err(|(_, e)| e).unwrap();
        assert_eq!((j.func(), j.args(), j.timeout()), ("f", "[1]", None));
        assert_eq!(j.result_address(), Some(("", "r")));
        assert_eq!(j.tid(), "t");
    }
}
