//! A queue is not a shell: a producer can run only what the operator allowed. Each forbidden job would leave a file behind
//! if it ran; none may.

use serde_json::json;
use std::path::Path;
use support::{Broker, Folder, Site, on_both_brokers};

on_both_brokers! {
    only_listed_functions_run,
    only_listed_programs_run,
    without_a_list_no_python_runs,
}

/// Sends a job that must be refused as an unknown task, without leaving `file`.
fn assert_refused(site: &Site, func: &str, args: serde_json::Value) {
    let reply = site.call(func, args);
    assert_eq!(reply.status(), "rejected", "{func}: {reply:?}");
    let letter = site.next_dead_letter();
    assert_eq!(letter.reason, "unknown-task", "{func}: {letter:?}");
    assert!(letter.error.contains(func), "{func}: {}", letter.error);
}

fn only_listed_functions_run(broker: &Broker) {
    let site = Site::new(broker);
    let folder = Folder::new();
    let file = folder.file("made-by-a-forbidden-job");
    let path = file.to_str().expect("a temporary path is text");
    let shell = format!("touch '{path}'");
    let code = format!("open({path:?}, 'w')");
    let trace = folder.file("imported");
    let worker = site
        .worker()
        .python("myapp.tasks")
        .env("MYAPP_TRACE", &trace)
        .start();

    assert_refused(&site, "os.system", json!([shell]));
    assert_refused(&site, "builtins.exec", json!([code]));
    assert_refused(&site, "builtins.eval", json!([code]));
    assert_refused(&site, "subprocess.getoutput", json!([shell]));
    // Through a listed module into another one.
    assert_refused(&site, "myapp.tasks.os.system", json!([shell]));
    assert_refused(&site, "myapp.tasks.__builtins__.exec", json!([code]));
    // A name that the listed module merely imported.
    assert_refused(&site, "myapp.tasks.system", json!([shell]));
    assert_refused(&site, "myapp.tasks.os", json!([shell]));
    // Private, or not a function.
    assert_refused(&site, "myapp.tasks._private", json!([path]));
    assert_refused(&site, "myapp.tasks.__loader__", json!([path]));
    assert_refused(&site, "myapp.tasks.Toucher", json!([path]));
    assert_refused(&site, "myapp.tasks.touch.__call__", json!([path]));
    // A module that is not listed, though its package's other module is.
    assert_refused(&site, "myapp.other.touch", json!([path]));
    assert_refused(&site, "myapp.touch", json!([path]));
    // A program.
    assert_refused(&site, "/usr/bin/touch", json!([path]));
    assert_refused(&site, "touch", json!([path]));
    assert_refused(&site, &shell, json!([]));
    assert!(!file.exists(), "a forbidden job ran");
    assert!(!trace.exists(), "a module that is not listed was imported");

    // And what is allowed does leave its file, by the same way: the checks above can see.
    let done = site.call("myapp.tasks.touch", json!([path]));
    assert_eq!(done.status(), "done", "{done:?}");
    assert!(file.exists(), "the allowed function ran");
    worker.drain();
    site.assert_settled();
}

fn only_listed_programs_run(broker: &Broker) {
    let site = Site::new(broker);
    let folder = Folder::new();
    let file = folder.file("made-by-the-program");
    let script = folder.write(
        "make-file",
        &format!("cat >/dev/null; : >'{}'; echo '\"made\"'", file.display()),
    );
    let worker = site
        .worker()
        .file(&format!(
            "[executables]\n\"shop.make_file\" = [\"sh\", {script:?}]\n"
        ))
        .start();

    let path = script.to_str().expect("a temporary path is text");
    for func in [
        "sh",
        path,
        "shop.make_file ",
        "shop.make_file.x",
        "shop.make_file;",
        "Shop.make_file",
    ] {
        assert_refused(&site, func, json!([path]));
    }
    assert!(
        !Path::new(&file).exists(),
        "a program ran under a name that is not its task's"
    );

    let done = site.call("shop.make_file", json!([]));
    assert_eq!(
        (done.status(), &done.json["value"]),
        ("done", &json!("made")),
        "{done:?}"
    );
    assert!(file.exists(), "the allowed program ran");
    worker.drain();
    site.assert_settled();
}

fn without_a_list_no_python_runs(broker: &Broker) {
    let site = Site::new(broker);
    let folder = Folder::new();
    let file = folder.file("made-by-a-forbidden-job");
    let worker = site.worker().start();
    assert_refused(&site, "myapp.tasks.touch", json!([file.to_str()]));
    assert!(!file.exists(), "a forbidden job ran");
    worker.drain();
    site.assert_settled();
}
