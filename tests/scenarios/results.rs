//! Where results go: to every address that the job names; and what becomes of one that nobody can take.

use amqp::protocol::BasicProperties;
use serde_json::{Value, json};
use support::{Broker, Message, Site, on_both_brokers};

on_both_brokers! {
    a_result_goes_to_every_address,
    a_result_that_nobody_takes_is_kept,
    who_asked_for_a_result_too_large_is_told,
}

/// Publishes a job that names these addresses: an exchange and key in its body, a queue in `reply_to`.
fn send(site: &Site, func: &str, tid: &str, resp: [Value; 2], reply_to: Option<&str>) {
    let [resp_exchange, resp_routing_key] = resp;
    let body = json!({
        "func": func, "args": [], "tid": tid,
        "resp_exchange": resp_exchange, "resp_routing_key": resp_routing_key,
    });
    let mut properties = BasicProperties::default();
    if let Some(queue) = reply_to {
        properties = properties.with_reply_to(queue.into());
    }
    site.publish(&Message {
        body: body.to_string().into_bytes(),
        properties,
    });
}

fn a_result_goes_to_every_address(broker: &Broker) {
    let site = Site::new(broker);
    // One job at a time: when the last one is answered, all before it have run.
    let worker = site.worker().workers(1).start();
    let (func, queue) = ("olive.tasks.do_nothing", json!(site.reply_queue()));
    // The default exchange, named or not.
    send(&site, func, "named", [json!(""), queue.clone()], None);
    assert_eq!(site.next_reply().json["tid"], "named");
    send(
        &site,
        func,
        "only the key",
        [json!(null), queue.clone()],
        None,
    );
    assert_eq!(site.next_reply().json["tid"], "only the key");
    send(
        &site,
        func,
        "both",
        [json!(""), queue],
        Some(site.reply_queue()),
    );
    for _ in 0..2 {
        let reply = site.next_reply();
        assert_eq!(reply.json["tid"], "both");
        assert_eq!(
            reply.correlation_id, "both",
            "without one in the request it is the id"
        );
        assert_eq!(
            (reply.status(), &reply.json["value"]),
            ("done", &json!(null))
        );
        assert_eq!(reply.json["attempt"], 1);
        assert!(reply.json["seconds"].is_number());
    }
    // Nobody asks: nothing is told, and the job is done all the same.
    send(&site, func, "silent", [json!(null), json!(null)], None);
    assert_eq!(site.call(func, json!([])).status(), "done");
    worker.drain();
    site.assert_settled();
}

fn a_result_that_nobody_takes_is_kept(broker: &Broker) {
    let site = Site::new(broker);
    let worker = site.worker().python("myapp.tasks").start();
    let done = "olive.tasks.do_nothing";
    let nowhere = [json!(null), json!(null)];

    let lost = |tid: &str, resp: [Value; 2], reply_to: Option<&str>, words: &str| {
        send(&site, done, tid, resp, reply_to);
        let letter = site.next_dead_letter();
        assert_eq!(letter.reason, "result-undeliverable", "{letter:?}");
        assert!(letter.error.contains(words), "{words:?}: {}", letter.error);
        let body: Value = serde_json::from_slice(&letter.body).expect("the body as it was sent");
        assert_eq!(body["tid"], tid);
    };
    lost(
        "no queue",
        nowhere.clone(),
        Some("no-such-queue"),
        "no-such-queue",
    );
    lost(
        "no exchange",
        [json!("no-such.x"), json!("key")],
        None,
        "no-such.x",
    );
    lost(
        "no binding",
        [json!(site.exchange()), json!("no-such-key")],
        None,
        "no-such-key",
    );
    // An exchange with a wrong name closes the channel used for it; it must not close the next one's.
    lost("again", [json!("no-such.x"), json!("key")], None, "404");

    // A job that failed is dead-lettered for that, wherever its result could not go.
    send(
        &site,
        "myapp.tasks.a_set",
        "failed",
        nowhere,
        Some("no-such-queue"),
    );
    assert_eq!(site.next_dead_letter().reason, "failed");

    assert_eq!(site.call(done, json!([])).status(), "done");
    worker.drain();
    site.assert_settled();
}

fn who_asked_for_a_result_too_large_is_told(broker: &Broker) {
    let site = Site::new(broker);
    let worker = site.worker().python("myapp.tasks").start();
    let reply = site.call("myapp.tasks.large", json!([17 << 20]));
    assert_eq!(reply.status(), "failed");
    assert!(reply.error().contains("ResultTooLarge"), "{reply:?}");
    let letter = site.next_dead_letter();
    assert_eq!(letter.reason, "result-undeliverable");
    assert_eq!(
        site.call("olive.tasks.do_nothing", json!([])).status(),
        "done"
    );
    worker.drain();
    site.assert_settled();
}
