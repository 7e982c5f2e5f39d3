//! Processes under the worker: killed ones lose no job, and none outlives the main one.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::time::Duration;
use support::{Broker, Folder, Site, eventually, on_both_brokers};

on_both_brokers! {
    a_killed_process_loses_no_job,
    a_job_that_costs_each_process_its_life_is_given_up,
    a_timeout_kills_only_its_own_job,
    no_process_outlives_a_killed_worker,
    sigterm_gives_back_what_waits_at_once,
}

fn kill_9(pid: &str) {
    let pid = Pid::from_raw(pid.parse().expect("a process id")).expect("not 0");
    kill_process(pid, Signal::KILL).expect("it was there");
}

/// Sends a job that notes its process in `pids` and stays until the gate is opened.
fn send_stay(site: &Site, folder: &Folder) -> String {
    let arguments = json!([folder.text("pids"), folder.text("gate")]);
    site.send("myapp.tasks.stay_until", arguments)
}

fn open_the_gate(folder: &Folder) {
    folder.write("gate", "");
}

/// Its job is run again by a new process, and is not acknowledged by the death of the first.
fn a_killed_process_loses_no_job(broker: &Broker) {
    let (site, folder) = (Site::new(broker), Folder::new());
    let worker = site.worker().python("myapp.tasks").workers(1).start();
    send_stay(&site, &folder);
    let first = folder.wait_for_lines("pids", 1).remove(0);
    kill_9(&first);
    let second = folder.wait_for_lines("pids", 2).remove(1);
    assert_ne!(second, first, "a new process takes its place");
    open_the_gate(&folder);
    let reply = site.next_reply();
    assert_eq!(reply.json["value"].to_string(), second, "{reply:?}");
    worker.drain();
    site.assert_settled();
}

/// The third death of one job is its last: it must not eat processes for ever.
fn a_job_that_costs_each_process_its_life_is_given_up(broker: &Broker) {
    let (site, folder) = (Site::new(broker), Folder::new());
    let worker = site.worker().python("myapp.tasks").workers(1).start();
    site.send("myapp.tasks.stay", json!([folder.text("pids")]));
    for death in 1..=3 {
        kill_9(&folder.wait_for_lines("pids", death)[death - 1]);
    }
    let letter = site.next_dead_letter();
    assert_eq!(letter.reason, "worker-died", "{letter:?}");
    assert_eq!(site.next_reply().status(), "failed");
    assert_eq!(site.call("myapp.tasks.add", json!([1, 1])).json["value"], 2);
    worker.drain();
    site.assert_settled();
    assert_eq!(folder.lines("pids").len(), 3, "not run a fourth time");
}

/// A Rust task with a timeout runs where it can be killed, whatever the worker type.
fn a_timeout_kills_only_its_own_job(broker: &Broker) {
    let (site, folder) = (Site::new(broker), Folder::new());
    let worker = site
        .worker()
        .python("myapp.tasks")
        .arg("--worker-type")
        .arg("thread")
        .start();
    let sleep = |seconds: f64, timeout: f64| json!({"func": "olive.tasks.sleep_n", "args": [seconds], "timeout": timeout});
    let stays = send_stay(&site, &folder);
    let rust = site.send_job(sleep(600.0, 0.5));
    let path = folder.text("other-pids");
    let python = json!({"func": "myapp.tasks.stay", "args": [path], "timeout": 0.5});
    let python = site.send_job(python);
    for _ in 0..2 {
        let reply = site.next_reply();
        assert!(
            [&rust, &python].contains(&&reply.correlation_id),
            "{reply:?}"
        );
        assert_eq!(reply.status(), "timeout");
        assert_eq!(site.next_dead_letter().reason, "timeout");
    }
    // In time is in time, also in a process.
    let in_time = site.send_job(sleep(0.05, 60.0));
    let reply = site.next_reply();
    assert_eq!((&reply.correlation_id, reply.status()), (&in_time, "done"));
    // And the job that ran beside the killed ones was not touched.
    open_the_gate(&folder);
    let reply = site.next_reply();
    assert_eq!((&reply.correlation_id, reply.status()), (&stays, "done"));
    assert_eq!(folder.lines("pids").len(), 1);
    worker.drain();
    site.assert_settled();
}

/// Not even a child of a child, when the main one is killed as by a machine.
fn no_process_outlives_a_killed_worker(broker: &Broker) {
    let (site, folder) = (Site::new(broker), Folder::new());
    let pids = folder.text("pids");
    let script = format!("sleep 600 & echo $! >> {pids}; echo $$ >> {pids}; wait");
    let worker = site
        .worker()
        .python("myapp.tasks")
        .file(&format!(
            "[executables]\n'shop.tree' = ['/bin/sh', '-c', '{script}']\n"
        ))
        .start();
    site.send("shop.tree", json!([]));
    site.send("myapp.tasks.stay", json!([pids]));
    site.send_job(json!({"func": "olive.tasks.sleep_n", "args": [600], "timeout": 500}));
    folder.wait_for_lines("pids", 3);
    // The three above, a supervisor over each, and the process of the Rust task.
    let processes = eventually("the worker's processes", || {
        Some(descendants(worker.pid())).filter(|all| all.len() > 4)
    });
    for pid in folder.lines("pids") {
        assert!(processes.contains(&pid), "{pid} is one of {processes:?}");
    }
    worker.signal(Signal::KILL);
    for pid in processes {
        eventually(&format!("the end of {pid}"), || is_gone(&pid).then_some(()));
    }
}

/// Every process below `root`.
fn descendants(root: i32) -> Vec<String> {
    let mut found = vec![root.to_string()];
    let mut next = 0;
    while next < found.len() {
        for entry in fs::read_dir("/proc").expect("Linux has it").flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            let is_child = status_of(&pid).is_some_and(|(_, parent)| parent == found[next]);
            if is_child && !found.contains(&pid) {
                found.push(pid);
            }
        }
        next += 1;
    }
    found.split_off(1)
}

/// State and parent of a process.
fn status_of(pid: &str) -> Option<(String, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace();
    Some((after_name.next()?.to_owned(), after_name.next()?.to_owned()))
}

/// An orphan that nobody reaps (a container without an init) is dead all the same.
fn is_gone(pid: &str) -> bool {
    status_of(pid).is_none_or(|(state, _)| state == "Z" || state == "X")
}

/// Given back when the signal comes, not when the last running job ends: another worker may take it meanwhile.
fn sigterm_gives_back_what_waits_at_once(broker: &Broker) {
    let (site, folder) = (Site::new(broker), Folder::new());
    let worker = site.worker().python("myapp.tasks").workers(2).start();
    for _ in 0..2 {
        send_stay(&site, &folder);
    }
    folder.wait_for_lines("pids", 2);
    for _ in 0..10 {
        site.send("myapp.tasks.append", json!([folder.text("later"), "ran"]));
    }
    worker.signal(Signal::TERM);
    eventually("what waits is back", || (site.ready() == 10).then_some(()));
    assert!(worker.is_running());
    open_the_gate(&folder);
    for _ in 0..2 {
        assert_eq!(site.next_reply().status(), "done");
    }
    let finished = worker.finish();
    assert_eq!(finished.code(), Some(0), "{}", finished.output);
    assert!(
        folder.lines("later").is_empty(),
        "what waited was not started"
    );

    let second = site.worker().python("myapp.tasks").start();
    folder.wait_for_lines("later", 10);
    second.drain();
    site.assert_settled();
}

/// Jobs that wait behind a long one for five minutes go to another worker, and the prefetch is lowered, so that no more
/// are held back after them.
fn jobs_that_wait_for_too_long_are_given_back(broker: &Broker) {
    let (site, folder) = (Site::new(broker), Folder::new());
    let alone = || site.worker().python("myapp.tasks").workers(1);
    let busy = alone().start();
    let long = send_stay(&site, &folder);
    folder.wait_for_lines("pids", 1);
    let waiting = [(); 5].map(|()| site.send("olive.tasks.do_nothing", json!([])));
    eventually("the busy worker to hold all", || {
        (site.ready() == 0).then_some(())
    });
    let idle = alone().start();
    busy.wait_for_within(Duration::from_secs(400), &["given back"]);
    busy.wait_for(&["prefetch is 2"]);
    let mut answered = waiting.clone().map(|_| site.next_reply().correlation_id);
    answered.sort();
    assert_eq!(answered, waiting);
    open_the_gate(&folder);
    assert_eq!(site.next_reply().correlation_id, long);
    busy.drain();
    idle.drain();
    site.assert_settled();
}

#[test]
#[ignore = "takes minutes: run tests/run --long"]
fn long_jobs_that_wait_on_rabbitmq() {
    jobs_that_wait_for_too_long_are_given_back(&Broker::rabbitmq());
}

#[test]
#[ignore = "takes minutes: run tests/run --long"]
fn long_jobs_that_wait_on_the_embedded_broker() {
    jobs_that_wait_for_too_long_are_given_back(&Broker::embedded());
}
