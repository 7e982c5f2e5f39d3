//! What replies and dead letters say (pure): addresses, properties, headers, body.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use amqp::codec::RawProperties;
use amqp::protocol::{AMQPValue, BasicProperties, FieldTable};

use super::verdict::Reason;
use crate::job::Job;
use crate::outcome::{Outcome, Reply, Status, TaskError};

/// Text in headers is cut here, so that the header frame fits the smallest frames brokers allow.
const MAX_ERROR_BYTES: usize = 3000;

/// Delivery mode 2 of AMQP 0-9-1: kept on disk.
const PERSISTENT: u8 = 2;

/// Where a message came from, and what it came with.
pub(super) struct Origin {
    pub exchange: Arc<str>,
    pub routing_key: Arc<str>,
    pub properties: RawProperties,
    pub attempt: u32,
}

impl Origin {
    fn text(field: Option<&[u8]>) -> Option<&str> {
        field
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .filter(|text| !text.is_empty())
    }

    /// The queue named in `reply_to`, reached through the default exchange.
    pub fn reply_to(&self) -> Option<&str> {
        if self.properties.is_empty() {
            return None;
        }
        Self::text(self.properties.fields().reply_to)
    }

    /// The `correlation_id` it came with.
    pub fn correlation_id(&self) -> Option<&str> {
        Self::text(self.properties.fields().correlation_id)
    }
}

/// All addresses (exchange, key) at which the result is wanted.
pub(super) fn addresses<'a>(
    job: Option<&'a Job>,
    origin: &'a Origin,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let named = job.and_then(Job::result_address);
    named
        .into_iter()
        .chain(origin.reply_to().map(|queue| ("", queue)))
}

/// The reply's body.
pub(super) fn reply_body(
    tid: &str,
    attempt: u32,
    took: Duration,
    outcome: Result<&Outcome, (Status, &TaskError)>,
) -> Vec<u8> {
    let (status, value, error) = match outcome {
        Ok(Outcome::Done { value }) => (Status::Done, Some(Cow::Borrowed(&**value)), None),
        Ok(_) => unreachable!("only a done job is judged done"),
        Err((status, error)) => (status, None, Some(Cow::Borrowed(error))),
    };
    let seconds = took.as_secs_f64();
    Reply {
        tid: tid.into(),
        status,
        value,
        error,
        attempt,
        seconds,
    }
    .to_json()
}

/// The reply's properties; `correlation_id` is the request's, or the job's id.
pub(super) fn reply_properties(tid: &str, origin: &Origin) -> RawProperties {
    let id = origin.correlation_id().unwrap_or(tid);
    RawProperties::from(
        BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_correlation_id(id.into()),
    )
}

/// A dead letter's properties: those it came with and ours, without what would make it vanish or
/// go elsewhere (expiry, extra addresses) or be refused (another connection's user).
pub(super) fn dead_properties(origin: &Origin, reason: Reason, error: &TaskError) -> RawProperties {
    let came_with = origin.properties.decode().unwrap_or_default();
    let mut headers = FieldTable::default();
    for (name, value) in came_with.headers().iter().flat_map(|h| h.inner()) {
        if !matches!(name.as_str(), "CC" | "BCC") {
            headers.insert(name.clone(), value.clone());
        }
    }
    with_headers(origin, &came_with, headers, reason, error)
}

/// As [`dead_properties`], without the headers it came with: where both do not fit into one frame.
pub(super) fn dead_properties_alone(
    origin: &Origin,
    reason: Reason,
    error: &TaskError,
) -> RawProperties {
    let came_with = origin.properties.decode().unwrap_or_default();
    let text = format!(
        "{} (the message's own headers were too large to keep)",
        error.message
    );
    let error = TaskError {
        message: text,
        ..error.clone()
    };
    with_headers(origin, &came_with, FieldTable::default(), reason, &error)
}

fn with_headers(
    origin: &Origin,
    came_with: &BasicProperties,
    mut headers: FieldTable,
    reason: Reason,
    error: &TaskError,
) -> RawProperties {
    let mut put = |name: &str, value: AMQPValue| {
        headers.insert(name.into(), value);
    };
    put("x-olive-reason", text(reason.as_str()));
    put("x-olive-error", text(&error_text(error)));
    put("x-olive-attempt", AMQPValue::LongUInt(origin.attempt));
    put("x-olive-exchange", text(&origin.exchange));
    put("x-olive-routing-key", text(&origin.routing_key));
    let mut properties = BasicProperties::default()
        .with_headers(headers)
        .with_delivery_mode(PERSISTENT);
    macro_rules! keep {
        ($($field:ident $with:ident),*) => {
            $(if let Some(value) = came_with.$field() {
                properties = properties.$with(value.clone());
            })*
        };
    }
    keep!(
        content_type with_content_type,
        content_encoding with_content_encoding,
        priority with_priority,
        correlation_id with_correlation_id,
        reply_to with_reply_to,
        message_id with_message_id,
        timestamp with_timestamp,
        kind with_type,
        app_id with_app_id
    );
    RawProperties::from(properties)
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// What it says, then where it was raised, of which the end tells most.
fn error_text(error: &TaskError) -> String {
    let said = error.to_string();
    let mut all = cut_end(&said, MAX_ERROR_BYTES).to_owned();
    if let Some(traceback) = &error.traceback
        && all.len() < MAX_ERROR_BYTES
    {
        let traceback = cut_start(traceback.trim_end(), MAX_ERROR_BYTES - all.len());
        all.push('\n');
        all.push_str(traceback);
    }
    all
}

fn cut_end(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn cut_start(text: &str, max: usize) -> &str {
    let mut start = text.len().saturating_sub(max);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(properties: BasicProperties) -> Origin {
        Origin {
            exchange: "Olive.x".into(),
            routing_key: "Olive.k".into(),
            properties: properties.into(),
            attempt: 2,
        }
    }

    #[test]
    fn a_dead_letter_keeps_what_it_came_with() {
        let mut headers = FieldTable::default();
        headers.insert("mine".into(), AMQPValue::Boolean(true));
        headers.insert("CC".into(), AMQPValue::FieldArray(Default::default()));
        let came = BasicProperties::default()
            .with_headers(headers)
            .with_expiration("1000".into())
            .with_user_id("guest".into())
            .with_delivery_mode(1)
            .with_correlation_id("c".into());
        let error = TaskError::new("ValueError", "no");
        let dead = dead_properties(&origin(came), Reason::Failed, &error)
            .decode()
            .unwrap();
        assert_eq!(dead.delivery_mode(), &Some(2));
        assert_eq!(dead.correlation_id().as_ref().unwrap().as_str(), "c");
        assert!(dead.expiration().is_none() && dead.user_id().is_none());
        let headers = dead.headers().as_ref().unwrap();
        let get = |name: &str| headers.inner().get(name).cloned();
        assert_eq!(get("mine"), Some(AMQPValue::Boolean(true)));
        assert_eq!(get("CC"), None);
        assert_eq!(get("x-olive-reason"), Some(text("failed")));
        assert_eq!(get("x-olive-error"), Some(text("ValueError: no")));
        assert_eq!(get("x-olive-attempt"), Some(AMQPValue::LongUInt(2)));
        assert_eq!(get("x-olive-exchange"), Some(text("Olive.x")));
        assert_eq!(get("x-olive-routing-key"), Some(text("Olive.k")));
    }

    #[test]
    fn long_errors_are_cut_between_characters() {
        let mut error = TaskError::new("E", "é".repeat(5000));
        error.traceback = Some("line\n".repeat(5000));
        let text = error_text(&error);
        assert!(text.len() <= MAX_ERROR_BYTES + 1);
        error.message = "short".into();
        let text = error_text(&error);
        assert!(text.starts_with("E: short\n") && text.ends_with("line"));
        assert!(text.len() <= MAX_ERROR_BYTES + 1);
    }

    #[test]
    fn a_result_goes_to_every_address_asked_for() {
        let body = br#"{"func":"f","resp_exchange":"e","resp_routing_key":"k"}"#;
        let job = Job::parse(body.to_vec()).map_err(|(_, e)| e).unwrap();
        let with = origin(BasicProperties::default().with_reply_to("q".into()));
        let all: Vec<_> = addresses(Some(&job), &with).collect();
        assert_eq!(all, [("e", "k"), ("", "q")]);
        assert_eq!(addresses(None, &origin(Default::default())).count(), 0);
        let properties = reply_properties("t", &with).decode().unwrap();
        assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "t");
    }
}
