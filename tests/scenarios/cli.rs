//! The command line as a person uses it: `olive send`, `olive config`, and `olive run` from its first lines to its end.

use rustix::process::Signal;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use support::net::free_address;
use support::{Broker, Finished, Folder, Site, Worker, WorkerSetup, olive, on_both_brokers, run};

on_both_brokers! {
    send_waits_for_the_outcome,
    send_without_wait_leaves_the_job,
    send_many,
    ctrl_c_drains,
    a_second_ctrl_c_is_prompt,
    the_drain_has_an_end,
}

fn send(site: &Site, arguments: &[&str]) -> Finished {
    let mut all = vec!["send"];
    all.extend_from_slice(arguments);
    run(site.olive(&all))
}

/// `olive send` with arguments that must be refused before any broker is asked.
fn refused(arguments: &[&str]) -> String {
    let mut command = olive();
    command
        .arg("send")
        .args(arguments)
        .env("olive_amqp_url", format!("amqp://{}", free_address()));
    let finished = run(command);
    assert_eq!(
        finished.code(),
        Some(2),
        "{arguments:?}: {}",
        finished.output
    );
    assert_eq!(finished.stdout, "", "{arguments:?}");
    finished.output
}

fn send_waits_for_the_outcome(broker: &Broker) {
    let site = Site::new(broker);
    let worker = site.worker().arg("--python").arg("myapp.tasks").start();
    let done = |arguments: &[&str], printed: &str| {
        let finished = send(&site, arguments);
        assert_eq!(finished.code(), Some(0), "{}", finished.output);
        assert_eq!(finished.stdout.trim_end(), printed);
    };
    done(&["olive.tasks.do_nothing", "--wait"], "null");
    done(&["myapp.tasks.add", "2", "3", "--wait"], "5");
    done(&["--wait", "myapp.tasks.add", "-2", "1.5"], "-0.5");
    done(
        &["myapp.tasks.add", "2", "--kwargs", r#"{"b": 40}"#, "--wait"],
        "42",
    );
    done(
        &["myapp.tasks.add", "1", "1", "--timeout", "50", "--wait"],
        "2",
    );
    let echoed = r#"{"args":["größe",null,[1]],"kwargs":{"deep":{"er":true}}}"#;
    let finished = send(
        &site,
        &[
            "myapp.tasks.echo",
            "\"größe\"",
            "null",
            "[1]",
            "--kwargs",
            r#"{"deep":{"er":true}}"#,
            "--wait",
        ],
    );
    let value: serde_json::Value = serde_json::from_str(&finished.stdout).expect("a value is JSON");
    assert_eq!(
        value,
        serde_json::from_str::<serde_json::Value>(echoed).expect("it is JSON")
    );

    let ends = |arguments: &[&str], code: i32, words: &[&str]| {
        let finished = send(&site, arguments);
        assert_eq!(finished.code(), Some(code), "{}", finished.output);
        assert_eq!(finished.stdout, "", "only values go to standard output");
        let output = finished.output;
        assert!(
            words.iter().all(|word| output.contains(word)),
            "{words:?}: {output}"
        );
    };
    let failure = ["failed", "ValueError: no cheese", "Traceback", "tasks.py"];
    ends(
        &["myapp.tasks.fail", "\"no cheese\"", "--wait"],
        3,
        &failure,
    );
    ends(
        &["olive.tasks.sleep_n", "100", "--timeout", "0.3", "--wait"],
        4,
        &["timeout", "0.3 s"],
    );
    ends(
        &["shop.nothing", "--wait"],
        5,
        &["rejected", "shop.nothing"],
    );
    worker.drain();
}

fn send_without_wait_leaves_the_job(broker: &Broker) {
    let site = Site::new(broker);
    let folder = Folder::new();
    let file = folder.file("made");
    let argument = json!(file).to_string();
    let finished = send(&site, &["myapp.tasks.touch", &argument]);
    assert_eq!(finished.code(), Some(0), "{}", finished.output);
    assert_eq!(
        finished.stdout.trim_end().len(),
        36,
        "the job's id: {}",
        finished.stdout
    );
    // One job at a time: when the next one is answered, this one has run.
    let worker = site.worker().python("myapp.tasks").workers(1).start();
    assert_eq!(
        site.call("olive.tasks.do_nothing", json!([])).status(),
        "done"
    );
    assert!(file.exists());
    worker.drain();
    site.assert_settled();
}

fn send_many(broker: &Broker) {
    let site = Site::new(broker);
    let worker = site.worker().python("myapp.tasks").workers(2).start();
    let folder = Folder::new();
    let file = folder.file("lines");
    let argument = json!(file).to_string();
    let arguments = [
        "myapp.tasks.append",
        &argument,
        "\"one line\"",
        "--count",
        "200",
        "--wait",
    ];
    let finished = send(&site, &arguments);
    assert_eq!(finished.code(), Some(0), "{}", finished.output);
    assert_eq!(finished.stdout, "null\n".repeat(200));
    let lines = std::fs::read_to_string(&file).expect("the jobs made it");
    assert_eq!(lines, "one line\n".repeat(200));
    worker.drain();
    site.assert_settled();
}

/// A worker that runs one job, which ends when `file` is made, and has another waiting.
fn busy_worker(site: &Site, file: &str, drain_timeout: &str) -> Worker {
    let worker = site
        .worker()
        .python("myapp.tasks")
        .env("olive_worker_num_workers", "1")
        .env("olive_worker_drain_timeout", drain_timeout)
        .start();
    site.send("myapp.tasks.wait_for", json!([file]));
    site.send("myapp.tasks.add", json!([1, 2]));
    worker.wait_for(&["waiting for"]);
    worker
}

fn ctrl_c_drains(broker: &Broker) {
    let site = Site::new(broker);
    let folder = Folder::new();
    let file = folder.file("go-on");
    let worker = busy_worker(
        &site,
        file.to_str().expect("a temporary path is text"),
        "60",
    );
    worker.signal(Signal::INT);
    worker.wait_for(&["signal"]);
    // It has stopped consuming and given back what had not started; what runs may end.
    std::fs::write(&file, "").expect("our own folder can be written");
    let reply = site.next_reply();
    assert_eq!(reply.json["value"], "found", "{reply:?}");
    let finished = worker.finish();
    assert_eq!(finished.code(), Some(0), "{}", finished.output);

    let next = site.worker().python("myapp.tasks").start();
    let reply = site.next_reply();
    assert_eq!(reply.json["value"], 3, "the job given back: {reply:?}");
    next.drain();
    site.assert_settled();
}

fn a_second_ctrl_c_is_prompt(broker: &Broker) {
    let site = Site::new(broker);
    let worker = busy_worker(&site, "/nobody/makes/this", "1000");
    worker.signal(Signal::INT);
    worker.wait_for(&["signal"]);
    worker.signal(Signal::INT);
    assert_cut_off(&site, &worker);
}

fn the_drain_has_an_end(broker: &Broker) {
    let site = Site::new(broker);
    let worker = busy_worker(&site, "/nobody/makes/this", "0.5");
    worker.signal(Signal::TERM);
    assert_cut_off(&site, &worker);
}

/// The worker ends and says that a job was cut off; both jobs come again.
fn assert_cut_off(site: &Site, worker: &Worker) {
    let finished = worker.finish();
    assert_eq!(finished.code(), Some(3), "{}", finished.output);
    assert!(finished.output.contains("cut off"), "{}", finished.output);
    let next = site.worker().python("myapp.tasks").start();
    next.wait_for(&["waiting for"]);
    assert_eq!(site.next_reply().json["value"], 3);
    next.signal(Signal::KILL);
}

#[test]
fn arguments_that_make_no_sense() {
    let says = |arguments: &[&str], words: &[&str]| {
        let output = refused(arguments);
        assert!(
            words.iter().all(|word| output.contains(word)),
            "{words:?}: {output}"
        );
    };
    says(
        &["shop.greet", "1", "hello"],
        &["argument 2", "JSON", "hello", "'\"hello\"'"],
    );
    says(&["shop.greet", "[1,"], &["argument 1", "JSON"]);
    says(
        &["shop.greet", "--kwargs", "[1]"],
        &["--kwargs", "object", "[1]"],
    );
    says(&["shop.greet", "--kwargs", "{"], &["--kwargs", "object"]);
    says(&["shop.greet", "--timeout", "0"], &["--timeout", "above 0"]);
    says(&["shop.greet", "--timeout", "soon"], &["--timeout", "soon"]);
    says(&["shop.greet", "--count", "-1"], &["--count"]);
    says(&["shop.greet", "--wiat"], &["--wiat"]);
    says(&[], &["FUNC"]);
}

#[test]
fn send_without_a_broker_says_where_it_looked() {
    let address = free_address();
    let mut command = olive();
    command.args(["send", "olive.tasks.do_nothing"]).env(
        "olive_amqp_url",
        format!("amqp://me:sesame-street@{address}"),
    );
    let finished = run(command);
    assert_eq!(finished.code(), Some(1), "{}", finished.output);
    let output = finished.output;
    assert!(
        output.contains(&address.to_string()) && output.contains("refused"),
        "{output}"
    );
    assert!(!output.contains("sesame-street"), "{output}");
}

#[test]
fn config_tells_where_each_value_is_from() {
    let folder = Folder::new();
    folder.write(
        "olive.toml",
        "olive_amqp_qos = 7\nolive_amqp_queue_name = 'file.q'\n\
         [executables]\n'shop.resize' = ['convert', '-']\n",
    );
    let mut command = olive();
    command
        .args(["config", "--workers", "3"])
        .current_dir(folder.path())
        .env("olive_amqp_url", "amqp://me:sesame-street@host/%2F")
        .env("OLIVE_AMQP_QUEUE_NAME", "environment.q")
        .env("olive_worker_num_workers", "4")
        .env("olive_amqp_routing_key", "");
    let finished = run(command);
    assert_eq!(finished.code(), Some(0), "{}", finished.output);
    let line = |words: &[&str]| {
        let mut lines = finished.stdout.lines();
        let found = lines.any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?} in:\n{}", finished.stdout);
    };
    line(&["olive_worker_num_workers", "3", "command line"]);
    line(&[
        "olive_amqp_queue_name",
        "environment.q",
        "OLIVE_AMQP_QUEUE_NAME",
    ]);
    line(&["olive_amqp_qos", "7", "olive.toml"]);
    line(&["olive_amqp_routing_key", "Olive.k", "default"]);
    line(&["olive_amqp_exchange_name", "Olive.x", "default"]);
    line(&["olive_amqp_url", "amqp://me:***@host/%2F", "environment"]);
    line(&["shop.resize", "convert"]);
    assert!(!finished.output.contains("sesame-street"));
}

#[test]
fn old_settings_are_noticed() {
    let worker = WorkerSetup::new()
        .arg("--listen")
        .arg("127.0.0.1:0")
        .env("olive_amqp_global_qos", "true")
        .env("olive_worker_pool_imp", "curio")
        .start();
    worker.wait_for(&["olive_amqp_global_qos", "no effect"]);
    worker.wait_for(&["olive_worker_pool_imp", "no effect"]);
    worker.wait_for(&["olive send"]);
    worker.drain();
}

/// Runs a command as printed, pasted into a shell that finds `olive`.
fn paste(command: &str) -> Finished {
    let binary = olive().get_program().to_owned();
    let folder = Path::new(&binary)
        .parent()
        .expect("a binary stands in a folder");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .env("PATH", format!("{}:{path}", folder.display()));
    run(shell)
}

/// With a user and names of its own the printed command still leads there; only the password is not shown.
#[test]
fn the_printed_command_fits_the_settings() {
    let worker = WorkerSetup::new()
        .env("olive_broker_listen", "127.0.0.1:0")
        .env("olive_broker_user", "shop")
        .env("olive_broker_password", "sesame-street")
        .env("olive_amqp_queue_name", "the shop's")
        .env("olive_amqp_exchange_name", "shop.x")
        .start();
    let line = worker.wait_for(&["olive send "]);
    assert!(
        !line.contains("guest") && !line.contains("sesame-street"),
        "{line}"
    );
    let command = &line[line.find("olive_amqp_url=").expect("it names the broker")..];
    let finished = paste(&command.replace("PASSWORD", "sesame-street"));
    assert_eq!(finished.code(), Some(0), "{command}: {}", finished.output);
    worker.drain();
}

#[test]
fn run_without_a_url_brings_its_own_broker() {
    let worker = WorkerSetup::new()
        .arg("--listen")
        .arg("127.0.0.1:0")
        .start();
    worker.wait_for(&["broker", "127.0.0.1:"]);
    worker.wait_for(&["memory only"]);
    let line = worker.wait_for(&["olive send "]);

    let command = &line[line
        .find("olive_amqp_url=")
        .expect("the port is not the default one")..];
    let finished = paste(command);
    assert_eq!(finished.code(), Some(0), "{command}: {}", finished.output);

    // What waits in its memory at the end is named.
    let url = command
        .split_once('=')
        .and_then(|(_, rest)| rest.split_once(' '))
        .expect("a setting, then the command")
        .0;
    let mut more = olive();
    more.args(["send", "olive.tasks.do_nothing", "--count", "3"])
        .env("olive_amqp_url", url)
        .env("olive_amqp_queue_name", "nobody.q")
        .env("olive_amqp_exchange_name", "nobody.x");
    assert_eq!(run(more).code(), Some(0));
    worker.signal(Signal::INT);
    let finished = worker.finish();
    assert_eq!(finished.code(), Some(0), "{}", finished.output);
    let dropped = finished.output.lines().find(|line| line.contains("drops"));
    assert!(
        dropped.is_some_and(|line| line.contains('3')),
        "{}",
        finished.output
    );
}
