//! `olive queue …` as a shell uses it: real processes, real pipes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn queue(dir: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olive"));
    command.arg("queue").args(arguments).current_dir(dir);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn ok(dir: &Path, arguments: &[&str], input: &[u8]) -> String {
    let output = queue(dir, arguments, input);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn scratch(name: &str) -> std::path::PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn lines_go_in_and_come_out_in_order() {
    let dir = scratch("queue-lines");
    ok(&dir, &["init", "q", "--subscriber", "a", "-s", "b"], b"");
    let lines: String = (0..5000).map(|n| format!("line {n}\n")).collect();
    ok(&dir, &["send", "q"], lines.as_bytes());
    assert_eq!(
        ok(&dir, &["receive", "q", "a", "-n", "2"], b""),
        "line 0\nline 1\n"
    );
    let rest = ok(&dir, &["receive", "q", "a", "--all"], b"");
    assert_eq!(format!("line 0\nline 1\n{rest}"), lines);
    assert_eq!(ok(&dir, &["top", "q", "b"], b""), "line 4999\n");
    let empty = queue(&dir, &["receive", "q", "b", "--timeout", "0.01"], b"");
    assert_eq!(empty.status.code(), Some(3));
}

#[test]
fn sending_to_nobody_is_said() {
    let dir = scratch("queue-nobody");
    ok(&dir, &["init", "q"], b"");
    let sent = queue(&dir, &["send", "q", "lost"], b"");
    assert!(sent.status.success());
    assert!(String::from_utf8_lossy(&sent.stderr).contains("nobody is registered"));
}

#[test]
fn bodies_with_anything_in_them_pass_by_length_or_nul() {
    let dir = scratch("queue-framing");
    ok(&dir, &["init", "q", "-s", "a"], b"");
    let counted = b"\0\0\0\x03a\nb\0\0\0\0\0\0\0\x02\0\xff";
    ok(&dir, &["send", "q", "--length"], counted);
    let output = queue(&dir, &["receive", "q", "a", "--all", "--length"], b"");
    assert_eq!(output.stdout, counted);
    ok(&dir, &["send", "q", "-0"], b"a\nb\0c");
    assert_eq!(
        ok(&dir, &["receive", "q", "a", "--all", "--nul"], b""),
        "a\nb\0c\0"
    );
}

#[test]
fn a_deployment_file_says_it_all() {
    let dir = scratch("queue-deploy");
    let text = r#"{"path": "q", "subscribers": ["a"], "strategy": "reject", "high_water_mark": {"max_messages": 2}}"#;
    std::fs::write(dir.join("deploy.json"), text).unwrap();
    ok(&dir, &["init", "--config", "deploy.json"], b"");
    ok(&dir, &["send", "q", "1", "2"], b"");
    let full = queue(&dir, &["send", "q", "3"], b"");
    assert_eq!(full.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&full.stderr).contains("max_messages"));
    std::fs::write(dir.join("bad.json"), r#"{"path": "q", "max_msgs_num": 2}"#).unwrap();
    let bad = queue(&dir, &["init", "--config", "bad.json"], b"");
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("max_msgs_num"));
}

#[test]
fn stat_prune_clear_and_compact_say_what_they_did() {
    let dir = scratch("queue-maintenance");
    ok(
        &dir,
        &[
            "init",
            "q",
            "-s",
            "a",
            "-s",
            "b",
            "--message-timeout",
            "1000",
        ],
        b"",
    );
    ok(&dir, &["send", "q"], &b"x\n".repeat(2000));
    let stat: serde_json::Value =
        serde_json::from_str(&ok(&dir, &["stat", "q", "--json"], b"")).unwrap();
    assert_eq!(
        (&stat["messages"], &stat["subscribers"][1]["depth"]),
        (&2000.into(), &2000.into())
    );
    assert_eq!(stat["message_timeout_seconds"], 1000.0);
    assert!(ok(&dir, &["stat", "q"], b"").contains("2000 of 65536"));
    assert_eq!(ok(&dir, &["prune", "q"], b""), "0 messages removed\n");
    assert_eq!(
        ok(&dir, &["prune", "q", "-s", "a"], b""),
        "2000 messages removed\n"
    );
    assert_eq!(ok(&dir, &["clear", "q"], b""), "2000 messages removed\n");
    ok(&dir, &["clear", "q", "--subscriber", "a"], b"");
    let size = || std::fs::metadata(dir.join("q/data.mdb")).unwrap().len();
    let before = size();
    ok(&dir, &["compact", "q", "--to", "copy.mdb"], b"");
    ok(&dir, &["compact", "q"], b"");
    assert!(size() < before);
    assert_eq!(
        ok(&dir, &["clear", "q", "--subscribers"], b""),
        "1 subscribers removed\n"
    );
}

#[test]
fn a_mistyped_path_makes_no_queue() {
    let dir = scratch("queue-mistyped");
    let output = queue(&dir, &["send", "nowhere", "x"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere: no such directory"));
    assert!(!dir.join("nowhere").exists());
    assert_eq!(queue(&dir, &["send"], b"").status.code(), Some(2));
}

/// What a command says when it fails, and its exit code.
fn complaint(dir: &Path, arguments: &[&str], input: &[u8]) -> (String, Option<i32>) {
    let output = queue(dir, arguments, input);
    assert!(!output.status.success(), "{arguments:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    (error, output.status.code())
}

/// Whoever reads an error must see what it is about and what to do, without knowing errno.
#[test]
fn errors_name_the_thing_and_the_way_out() {
    let dir = scratch("queue-errors");
    std::fs::write(dir.join("file"), "{").unwrap();
    std::fs::create_dir(dir.join("empty")).unwrap();
    ok(&dir, &["init", "q", "-s", "a", "-s", "b"], b"");
    for (arguments, words) in [
        (
            &["init", "file"][..],
            &["file: Not a directory", "a queue is a directory"][..],
        ),
        (&["stat", "file"], &["file is not a directory"]),
        (
            &["stat", "empty"],
            &["empty holds no queue", "olive queue init empty"],
        ),
        (
            &["stat", "none"],
            &["none: no such directory", "olive queue init none"],
        ),
        (
            &["receive", "q", "c"],
            &["q: no subscriber", "\"c\"", "a, b", "init q --subscriber c"],
        ),
        (
            &["clear", "q", "-s", "c"],
            &["q: no subscriber", "\"c\"", "a, b"],
        ),
        (
            &["init", "--config", "none.json"],
            &["none.json: No such file"],
        ),
        (&["init", "--config", "file"], &["file: EOF"]),
        (&["compact", "q", "--to", "file"], &["file: File exists"]),
    ] {
        let (error, code) = complaint(&dir, arguments, b"");
        assert_eq!(code, Some(1), "{arguments:?}");
        for word in words {
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }
    for (arguments, words) in [
        (
            &["receive", "q"][..],
            &["<SUBSCRIBER>", "Usage: olive queue receive"][..],
        ),
        (&["init", "r", "--max-messages", "0"], &["--max-messages"]),
        (&["init", "r", "--message-timeout", "-1"], &["0 or more"]),
        (&["init", "r", "-s", ""], &["--subscriber", "1 to 255"]),
    ] {
        let (error, code) = complaint(&dir, arguments, b"");
        assert_eq!(code, Some(2), "{arguments:?}");
        for word in words {
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }
    assert!(!dir.join("r").exists(), "a refused init makes nothing");
}

#[test]
fn a_full_queue_says_how_far_the_input_got() {
    let dir = scratch("queue-full");
    let init = [
        "init",
        "q",
        "-s",
        "a",
        "--strategy",
        "reject",
        "--max-messages",
        "10",
    ];
    ok(&dir, &init, b"");
    let lines = b"x\n".repeat(25);
    let (error, _) = complaint(&dir, &["send", "q", "--batch", "4"], &lines);
    assert!(
        error.contains("8 messages of the input were sent"),
        "{error}"
    );
    assert!(error.contains("q: full: max_messages"), "{error}");
    assert_eq!(ok(&dir, &["receive", "q", "a", "--all"], b"").len(), 16);
}

#[test]
fn what_is_not_said_stays_as_it_was() {
    let dir = scratch("queue-again");
    let stat = || -> serde_json::Value {
        serde_json::from_str(&ok(&dir, &["stat", "q", "--json"], b"")).unwrap()
    };
    let first = [
        "init",
        "q",
        "-s",
        "a",
        "--message-timeout",
        "none",
        "--max-bytes",
        "9",
    ];
    ok(&dir, &first, b"");
    ok(&dir, &["send", "q", "old"], b"");
    ok(
        &dir,
        &[
            "init",
            "q",
            "-s",
            "b",
            "--from-oldest",
            "--max-attempts",
            "2",
        ],
        b"",
    );
    ok(&dir, &["init", "q", "-s", "c", "--strategy", "reject"], b"");
    let now = stat();
    assert_eq!(now["message_timeout_seconds"], serde_json::Value::Null);
    assert_eq!(
        (&now["max_bytes"], &now["strategy"]),
        (&9.into(), &"reject".into())
    );
    let of = |field: &str| -> Vec<_> {
        let all = now["subscribers"].as_array().unwrap().iter();
        all.map(|one| one[field].as_u64().unwrap()).collect()
    };
    assert_eq!(
        (of("depth"), of("max_attempts")),
        (vec![1, 1, 0], vec![0, 2, 0])
    );
    ok(&dir, &["init", "q", "--max-attempts", "5"], b"");
    assert_eq!(stat()["subscribers"][0]["max_attempts"], 5);
    assert!(ok(&dir, &["stat", "q"], b"").contains("timeout     none, strategy reject"));
}

#[test]
fn settings_before_the_command_are_shown_their_place() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olive"));
    let output = command
        .args(["--log-level", "debug", "queue", "stat", "q"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("say `olive queue"));
}
