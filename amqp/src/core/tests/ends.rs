//! How waits end, and what is said last.

use super::*;

#[test]
fn acks_called_before_a_close_leave_before_it_and_nothing_after_it() {
    let mut script = Script::opened();
    let channel = script.open_channel();
    script.consume(&channel);
    script.deliver(1, b"x");
    script.feed();
    channel.settle(1, Settle::Ack).unwrap();
    script.core.close(200, "bye");
    assert!(channel.publish(&Publish::new("", "q", b"late")).is_err());
    script.core.write_heartbeat();
    assert_eq!(script.said(), ["ack 1", "close 200"]);
    // Whatever comes before the answer is dropped.
    script.deliver(2, b"x");
    script.feed();
    assert!(!script.core.is_closed());
    let ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
    method(&mut script.bytes, 0, connection_method(ok));
    script.feed();
    assert_eq!(script.core.closed(), Some(Error::ClosedByUs));
}

/// Everything there is to wait for, started and pending.
struct Waits {
    channel: Rc<Channel>,
    consumer: Rc<ConsumerState>,
    confirm: u64,
    call: Rc<Call>,
}

fn everything_pending(script: &mut Script) -> Waits {
    let channel = script.open_channel();
    let consumer = script.consume(&channel);
    script.confirms(&channel);
    let confirm = channel
        .publish(&Publish::new("", "q", b"x"))
        .unwrap()
        .unwrap();
    let op = ops::queue_purge("q").unwrap();
    let call = channel.call(&op.method, op.what, op.expects).unwrap();
    assert!(call.poll(Waker::noop()).is_pending());
    assert!(channel.poll_confirm(confirm, Waker::noop()).is_pending());
    script.output();
    Waits {
        channel,
        consumer,
        confirm,
        call,
    }
}

impl Waits {
    fn all_ended_with(self, cause: &Error) {
        let Poll::Ready(Err(error)) = self.call.poll(Waker::noop()) else {
            panic!("the call must end")
        };
        assert_eq!(&error, cause);
        let Poll::Ready(Err(PublishError::Closed(error))) =
            self.channel.poll_confirm(self.confirm, Waker::noop())
        else {
            panic!("the confirm must end")
        };
        assert_eq!(&error, cause);
        assert!(
            matches!(&*self.consumer.ended.borrow(), Some(Ended::Closed(error)) if error == cause)
        );
        assert_eq!(self.channel.closed().as_ref(), Some(cause));
        assert!(matches!(
            Room::new(&self.channel, &Publish::new("", "q", b"x")).poll(Waker::noop()),
            Poll::Ready(Err(_))
        ));
        assert!(matches!(
            self.channel.poll_returned(Waker::noop()),
            Poll::Ready(Err(_))
        ));
        assert!(matches!(
            self.channel.poll_closed(Waker::noop()),
            Poll::Ready(_)
        ));
    }
}

#[test]
fn every_wait_ends_with_the_first_cause() {
    // The server closes the channel.
    let mut script = Script::opened();
    let waits = everything_pending(&mut script);
    let close = channel::Close {
        reply_code: 404,
        reply_text: "NOT_FOUND - no".into(),
        class_id: 50,
        method_id: 30,
    };
    method(
        &mut script.bytes,
        1,
        AMQPClass::Channel(channel::AMQPMethod::Close(close)),
    );
    script.feed();
    let cause = waits.channel.closed().unwrap();
    assert!(matches!(&cause, Error::ChannelClosed(reason) if reason.code == 404));
    waits.all_ended_with(&cause);
    assert_eq!(script.said(), ["20.41"]);
    assert_eq!(script.core.closed(), None);

    // The server closes the connection; what happens to the transport afterwards is not the cause.
    let mut script = Script::opened();
    let waits = everything_pending(&mut script);
    let close = connection::Close {
        reply_code: 320,
        reply_text: "shutdown".into(),
        class_id: 0,
        method_id: 0,
    };
    method(
        &mut script.bytes,
        0,
        connection_method(connection::AMQPMethod::Close(close)),
    );
    script.feed();
    assert_eq!(script.said(), ["10.51"]);
    script
        .core
        .transport_ended(Error::lost(&std::io::Error::other("reset")));
    let cause = script.core.closed().unwrap();
    assert!(matches!(&cause, Error::ConnectionClosed(reason) if reason.code == 320));
    waits.all_ended_with(&cause);

    // The transport breaks.
    let mut script = Script::opened();
    let waits = everything_pending(&mut script);
    let cause = Error::lost(&std::io::Error::other("reset"));
    script.core.transport_ended(cause.clone());
    waits.all_ended_with(&cause);
    assert!(script.core.open_channel().is_err());

    // We close it.
    let mut script = Script::opened();
    let waits = everything_pending(&mut script);
    script.core.close(200, "bye");
    waits.all_ended_with(&Error::ClosedByUs);
}

/// Found by the mutator with seed 24182: a wrong answer took the call out of the line, and its caller then waited for
/// its own timeout instead of being told why the connection had ended.
#[test]
fn a_wrong_answer_does_not_lose_the_call_it_came_for() {
    let mut script = Script::opened();
    let channel = script.open_channel();
    let op = ops::queue_purge("q").unwrap();
    let call = channel.call(&op.method, op.what, op.expects).unwrap();
    let ok = basic::AMQPMethod::QosOk(basic::QosOk {});
    method(&mut script.bytes, 1, AMQPClass::Basic(ok));
    script.feed();
    let Poll::Ready(Err(error)) = call.poll(Waker::noop()) else {
        panic!("the call must end")
    };
    assert_eq!(Some(error), script.core.closed());
}

/// Those that RabbitMQ was not brought to are here; the others are in `tests/rabbitmq_errors.rs`.
#[test]
fn every_code_has_its_kind_and_its_words() {
    use crate::error::ErrorKind::{Bug, Config, Retry};
    for (code, name, kind) in [
        (311, "CONTENT_TOO_LARGE", Bug),
        (320, "CONNECTION_FORCED", Retry),
        (402, "INVALID_PATH", Config),
        (502, "SYNTAX_ERROR", Bug),
        (506, "RESOURCE_ERROR", Retry),
        (541, "INTERNAL_ERROR", Retry),
    ] {
        let mut script = Script::opened();
        let close = connection::Close {
            reply_code: code,
            reply_text: "these words".into(),
            class_id: 50,
            method_id: 10,
        };
        let close = connection::AMQPMethod::Close(close);
        method(&mut script.bytes, 0, connection_method(close));
        script.feed();
        let error = script.core.closed().unwrap();
        let text = error.to_string();
        assert!(
            text.contains(&format!("{code} {name}: these words")),
            "{text}"
        );
        assert!(text.contains("queue.declare"), "{text}");
        assert_eq!(error.kind(), kind, "{text}");
        assert_eq!(script.said(), ["10.51"]);
    }
}
