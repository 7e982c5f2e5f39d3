//! The same program on a broker behind TLS, by its URL alone.

#[path = "../../amqp/tests/support/certificates.rs"]
mod certificates;

use certificates::Authority;
use serde_json::json;
use std::time::Duration;
use support::{RabbitNode, Site, WorkerSetup};

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn a_worker_and_its_producer_speak_tls_and_log_in_by_certificate() {
    let authority = Authority::new("scenario");
    authority.sign("server", "server", &["localhost"], |_| {});
    let (certificate, key) = authority.sign("guest", "guest", &[], |_| {});
    let node = RabbitNode::start_with_tls(
        &authority.folder,
        &format!(
            "cacertfile={}&certfile={certificate}&keyfile={key}&auth_mechanism=external",
            authority.ca_file()
        ),
    );
    let site = Site::new(node.broker());
    let worker = site.worker().start();
    let reply = site.call("olive.tasks.do_nothing", json!([]));
    assert_eq!(reply.status(), "done", "{reply:?}");
    worker.drain();
    site.assert_settled();

    // One who does not know the authority is told so at once, and what to do about it.
    let (url, _) = node.broker().url().split_once('?').expect("we gave some");
    let worker = WorkerSetup::new().env("olive_amqp_url", url).start();
    let finished = worker.finish_within(Duration::from_secs(20));
    assert_eq!(finished.code(), Some(1), "{}", finished.output);
    assert!(
        finished.output.contains("cacertfile"),
        "{}",
        finished.output
    );
}
