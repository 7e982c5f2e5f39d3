//! A producer that exists today, written with pika, gets its jobs run unchanged.

use serde_json::json;
use std::process::Command;
use support::{Broker, Site, fixtures, run};

/// The old defaults: transient, `text/plain`, the names `Olive.x`, `Olive.q` and `Olive.k`; the answer goes where
/// `resp_exchange` and `resp_routing_key` say.
fn an_unmodified_producer_gets_its_job_run(broker: &Broker) {
    let site = Site::named(broker, "Olive");
    let worker = site.worker().start();
    let python = std::env::var_os("OLIVE_TEST_PYTHON");
    let mut producer = Command::new(python.expect("tests/run names a Python that has pika"));
    producer
        .arg(fixtures().join("pika_producer.py"))
        .args([broker.url(), "olive.tasks.sleep_n", "0.05"])
        .args(["--resp-exchange=", "--resp-routing-key", site.reply_queue()]);
    let produced = run(producer);
    assert_eq!(produced.code(), Some(0), "{}", produced.output);

    let reply = site.next_reply();
    assert_eq!(
        reply.json["tid"],
        json!(produced.stdout.trim()),
        "{reply:?}"
    );
    assert_eq!(reply.status(), "done");
    let seconds = reply.json["seconds"].as_f64().expect("a number");
    assert!(seconds >= 0.05, "it really slept: {seconds}");
    worker.drain();
    site.assert_settled();
}

#[test]
#[ignore = "needs pika: run tests/run"]
fn on_the_embedded_broker() {
    an_unmodified_producer_gets_its_job_run(&Broker::embedded());
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn on_rabbitmq() {
    an_unmodified_producer_gets_its_job_run(&Broker::rabbitmq());
}
