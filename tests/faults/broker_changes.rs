//! What an operator may do to the broker under a worker that runs: queues deleted, limits lowered.

use serde_json::json;
use support::{Broker, RabbitNode, Site, on_both_brokers};

on_both_brokers! { the_dead_letter_queue_is_deleted, the_job_queue_is_deleted }

fn the_dead_letter_queue_is_deleted(broker: &Broker) {
    let site = Site::new(broker);
    let worker = site.worker().start();
    site.call("olive.tasks.do_nothing", json!([]));
    site.delete_dead_queue();
    site.send("no.such.task", json!([]));
    assert_eq!(site.next_reply().status(), "rejected");
    site.await_dead_queue();
    assert_eq!(site.next_dead_letter().reason, "unknown-task");
    worker.drain();
    site.assert_settled();
}

fn the_job_queue_is_deleted(broker: &Broker) {
    let site = Site::new(broker);
    let worker = site.worker().start();
    site.call("olive.tasks.do_nothing", json!([]));
    site.delete_job_queue();
    worker.wait_for_nth(2, &["taking jobs from"]);
    site.call("olive.tasks.do_nothing", json!([]));
    worker.drain();
    site.assert_settled();
}

/// A result that the broker would not take is answered all the same, and the worker goes on.
#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn a_result_is_over_the_brokers_limit() {
    let node = RabbitNode::start();
    node.evaluate("application:set_env(rabbit, max_message_size, 100000).");
    let site = Site::new(node.broker());
    let worker = site.worker().python("myapp.tasks").start();
    let reply = site.call("myapp.tasks.large", json!([200_000]));
    assert_eq!(reply.status(), "failed", "{:.200?}", reply.json);
    let error = reply.error();
    assert!(error.starts_with("ResultTooLarge"), "{error}");
    assert_eq!(site.call("myapp.tasks.add", json!([2, 3])).json["value"], 5);
    worker.drain();
}

/// RabbitMQ closes the channel of a consumer that keeps a delivery for too long (it looks once a minute). The job's first
/// run is answered, but its ack is stale: it comes back, and its second run settles it.
#[test]
#[ignore = "takes minutes: run tests/run --long"]
fn long_a_job_outlives_the_brokers_consumer_timeout() {
    let node = RabbitNode::start();
    node.evaluate("application:set_env(rabbit, consumer_timeout, 5000).");
    let site = Site::new(node.broker());
    let worker = site.worker().start();
    worker.wait_for(&["taking jobs from"]);
    // A channel keeps the limit that it began with, so only the first one has ours.
    node.evaluate("application:set_env(rabbit, consumer_timeout, 1800000).");
    let tid = site.send("olive.tasks.sleep_n", json!([70]));
    worker.wait_for(&["consumer_timeout"]);
    for _ in 0..2 {
        let reply = site.next_reply();
        assert_eq!((reply.status(), &reply.correlation_id), ("done", &tid));
    }
    worker.drain();
    site.assert_settled();
}
