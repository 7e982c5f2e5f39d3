//! Wrong configuration and missing brokers: `olive run` says what is wrong, why, and what to do. What the network can mend
//! is tried again; what only a person can mend ends the program, at once and with an exit code.

use amqp::protocol::AMQPValue;
use std::time::Duration;
use support::net::{free_address, http_server};
use support::{Broker, Finished, Folder, Site, WorkerSetup, olive, on_both_brokers, run};

on_both_brokers! {
    a_wrong_password,
    an_unknown_virtual_host,
    a_queue_with_other_arguments,
    a_port_taken_by_a_broker,
}

/// "At once" on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(20);

/// Starts a worker that must give up; checks its exit code and that it says all of `words`.
fn assert_gives_up(worker: WorkerSetup, code: i32, words: &[&str]) -> Finished {
    let finished = worker.start().finish_within(AT_ONCE);
    assert_eq!(finished.code(), Some(code), "{}", finished.output);
    assert_says(&finished, words);
    finished
}

fn assert_says(finished: &Finished, words: &[&str]) {
    for word in words {
        assert!(
            finished.output.contains(word),
            "no {word:?} in: {}",
            finished.output
        );
    }
    assert!(!finished.output.contains("panicked"), "{}", finished.output);
}

/// A worker with only the environment given.
fn worker(settings: &[(&str, &str)]) -> WorkerSetup {
    let plain = WorkerSetup::new();
    settings
        .iter()
        .fold(plain, |worker, (name, value)| worker.env(name, value))
}

fn a_wrong_password(broker: &Broker) {
    let address = broker.address();
    let url = format!("amqp://guest:sesame-street@{address}/%2F");
    let words = [&*address, "guest", "password", "olive_amqp_url"];
    let finished = assert_gives_up(worker(&[("olive_amqp_url", &url)]), 1, &words);
    assert!(
        !finished.output.contains("sesame-street"),
        "{}",
        finished.output
    );
}

fn an_unknown_virtual_host(broker: &Broker) {
    let url = format!("amqp://guest:guest@{}/no-such-vhost", broker.address());
    let words = ["no-such-vhost", "virtual host", "olive_amqp_url"];
    assert_gives_up(worker(&[("olive_amqp_url", &url)]), 1, &words);
}

fn a_queue_with_other_arguments(broker: &Broker) {
    let minute = AMQPValue::LongInt(60_000);
    let site = Site::with_queue(broker, |queue| queue.argument("x-message-ttl", minute));
    let queue = site.queue();
    let words = [&*queue, "406", "x-message-ttl", "olive_amqp_queue_name"];
    assert_gives_up(site.worker(), 1, &words);
}

fn a_port_taken_by_a_broker(broker: &Broker) {
    let address = broker.address();
    let cure = format!("olive_amqp_url=amqp://guest:guest@{address}/%2F");
    let words = ["is taken by", "AMQP broker", &*address, &cure, "--listen"];
    assert_gives_up(WorkerSetup::new().arg("--listen").arg(&address), 1, &words);
}

#[test]
fn a_port_taken_by_a_web_server() {
    let address = http_server().to_string();
    let words = [
        "is taken by",
        "HTTP server",
        &*address,
        "olive_amqp_url=",
        "--listen",
    ];
    assert_gives_up(worker(&[("olive_broker_listen", &address)]), 1, &words);
    let mut broker = olive();
    broker.args(["broker", "--listen", &address]);
    let finished = run(broker);
    assert_eq!(finished.code(), Some(1));
    assert_says(&finished, &["is taken by", "HTTP server", "--listen"]);
}

#[test]
fn an_address_that_others_reach_needs_a_password() {
    let words = [
        "0.0.0.0:0",
        "guest",
        "olive_broker_user",
        "olive_broker_password",
    ];
    assert_gives_up(worker(&[("olive_broker_listen", "0.0.0.0:0")]), 1, &words);
}

#[test]
fn an_unknown_host_is_tried_again() {
    let worker = worker(&[("olive_amqp_url", "amqp://no-such-host.invalid/%2F")]).start();
    worker.wait_for(&["no-such-host.invalid", "again"]);
    assert!(worker.is_running());
    worker.drain();
}

#[test]
fn a_closed_port_is_tried_again_until_a_broker_listens() {
    let address = free_address();
    let url = format!("amqp://guest:guest@{address}/%2F");
    let exchange = "late.x";
    let settings = [
        ("olive_amqp_url", &*url),
        ("olive_amqp_exchange_name", exchange),
        ("olive_amqp_queue_name", "late.q"),
        ("olive_amqp_routing_key", "late.k"),
    ];
    let worker = worker(&settings).start();
    worker.wait_for(&[&address.to_string(), "refused", "again"]);
    assert!(worker.is_running());

    let broker = Broker::embedded_on(address);
    let mut send = olive();
    send.args(["send", "olive.tasks.do_nothing", "--wait"])
        .envs(settings);
    assert_eq!(run(send).code(), Some(0));
    worker.drain();
    drop(broker);
}

#[test]
fn values_that_make_no_sense() {
    for (name, value, expected) in [
        ("olive_amqp_qos", "many", "whole number"),
        ("olive_amqp_qos", "70000", "65535"),
        ("OLIVE_WORKER_NUM_WORKERS", "0", "from 1"),
        ("olive_worker_num_workers", "2.5", "whole number"),
        ("olive_worker_worker_type", "fiber", "thread or process"),
        ("olive_worker_drain_timeout", "a while", "seconds"),
        ("olive_amqp_queue_type", "fast", "classic or quorum"),
        ("olive_broker_listen", "localhost", "address and port"),
        ("olive_python_modules", "os; rm", "module names"),
        ("log_level", "loud", "debug"),
    ] {
        assert_gives_up(
            worker(&[(name, value)]),
            2,
            &[name, value, expected, "environment"],
        );
    }
    let url = "amqp://me:sesame-street@host:port/%2F";
    let words = [
        "olive_amqp_url",
        "port number",
        "amqp://user:password@host:port/vhost",
    ];
    let finished = assert_gives_up(worker(&[("olive_amqp_url", url)]), 2, &words);
    assert!(
        !finished.output.contains("sesame-street"),
        "{}",
        finished.output
    );
}

#[test]
fn files_that_make_no_sense() {
    for (text, words) in [
        ("olive_amqp_qso = 80", ["olive_amqp_qso", "olive config"]),
        ("olive_amqp_qos = \"many\"", ["olive_amqp_qos", "many"]),
        ("olive_amqp_qos = {}", ["olive_amqp_qos", "number"]),
        (
            "[executables]\n\"shop.resize\" = \"convert -resize\"",
            ["executables.shop.resize", "list"],
        ),
        ("olive_amqp_qos 80", ["TOML", "olive_amqp_qos 80"]),
    ] {
        let finished = assert_gives_up(WorkerSetup::new().file(text), 2, &words);
        assert_says(&finished, &["olive.toml"]);
    }
    let missing = Folder::new().file("no-such-file.toml");
    let missing = missing.to_str().expect("a temporary path is text");
    assert_gives_up(
        WorkerSetup::new().arg("--config").arg(missing),
        2,
        &[missing],
    );
}

#[test]
fn programs_that_are_not_there() {
    let python = worker(&[
        ("olive_python", "/no/such/python"),
        ("olive_python_modules", "shop"),
    ]);
    assert_gives_up(python, 2, &["/no/such/python", "olive_python"]);
    let program =
        WorkerSetup::new().file("[executables]\n\"shop.resize\" = [\"/no/such/program\"]");
    assert_gives_up(program, 2, &["executables.shop.resize", "/no/such/program"]);
}
