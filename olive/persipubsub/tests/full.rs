//! A full map and a full disk: a typed error, then drained, then used again. The original's full map
//! stayed full for ever, because pruning needs free pages too.

mod support;

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use persipubsub::{Environment, Error, Resource};
use support::{drain, open, store};

/// Sends until it is refused; answers how many were stored, and what ran out.
fn fill(env: &Environment, body: usize) -> (u64, Resource) {
    let publisher = env.new_publisher().unwrap();
    let mut sent = 0;
    // Many at a time first, then one by one to the very end.
    for many in [64, 1] {
        loop {
            match publisher.send_many(vec![vec![b'x'; body]; many as usize]) {
                Ok(_) => sent += many,
                Err(Error::Full(what)) if many == 1 => return (sent, what),
                Err(Error::Full(_)) => break,
                Err(other) => panic!("after {sent}: {other}"),
            }
            assert!(sent < 1_000_000, "it must be full at some point");
        }
    }
    unreachable!("the second loop only ends by returning")
}

/// Fills, drains and fills again, in several ways, and loses nothing.
fn exercise(env: &Environment, expected: Resource) {
    for body in [100, 5_000, 100_000] {
        let (stored, what) = fill(env, body);
        assert_eq!(what, expected);
        assert!(stored >= 10, "bodies of {body}: {stored} stored");
        // Small ones may still fit; what counts is that all that was stored comes out.
        let (more, what) = fill(env, 1);
        assert_eq!(what, expected);
        assert_eq!(env.new_control().stat().unwrap().messages, stored + more);
        let sub = env.new_subscriber("sub").unwrap();
        // One by one first: each is a transaction that must find free pages.
        for _ in 0..20.min(stored / 2) {
            sub.receive(Duration::ZERO).unwrap().unwrap().ack().unwrap();
        }
        let rest = drain(env, "sub").len() as u64;
        assert_eq!(rest + 20.min(stored / 2), stored + more);
        assert_eq!(env.new_control().stat().unwrap().messages, 0);
    }
    // Also all at once.
    fill(env, 300);
    assert!(env.new_control().clear_messages().unwrap() > 100);
    env.new_publisher().unwrap().send("used again").unwrap();
    assert_eq!(drain(env, "sub"), ["used again"]);
}

#[test]
fn a_full_map_is_refused_drained_and_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let env = open(dir.path(), 3 << 20);
    let high_water_mark = persipubsub::HighWaterMark {
        max_messages: u64::MAX,
        ..Default::default()
    };
    let setup = persipubsub::Setup {
        high_water_mark,
        ..persipubsub::Setup::new(["sub"])
    };
    env.new_control().initialize(&setup).unwrap();
    exercise(&env, Resource::Map);
}

/// One that does not fit is refused alone: the others of its group commit stand.
#[test]
fn one_too_many_does_not_fail_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let env = open(dir.path(), 2 << 20);
    let high_water_mark = persipubsub::HighWaterMark {
        max_bytes: 8 << 20,
        ..Default::default()
    };
    let setup = persipubsub::Setup {
        high_water_mark,
        ..persipubsub::Setup::new(["sub"])
    };
    env.new_control().initialize(&setup).unwrap();
    let publish = |len: usize| {
        let bodies = vec![vec![b'x'; len]];
        persipubsub::Op::Publish(persipubsub::Publish {
            bodies,
            ..Default::default()
        })
    };
    let answers = env.execute(vec![
        publish(10),
        publish(4 << 20),
        publish(20),
        publish(9 << 20),
    ]);
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert!(
        matches!(answers[1], Err(Error::Full(Resource::Map))),
        "{:?}",
        answers[1]
    );
    assert!(matches!(answers[3], Err(Error::TooLarge { .. })));
    assert_eq!(drain(&env, "sub").len(), 2);
}

/// A tmpfs of our own, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    /// `None` where mounting is not allowed.
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let text = |text: &str| CString::new(text).unwrap();
        let (kind, target) = (text("tmpfs"), text(at.to_str().unwrap()));
        let options = text(&format!("size={size}"));
        // SAFETY: all strings end with a zero and outlive the call.
        let answer = unsafe {
            libc::mount(
                kind.as_ptr(),
                target.as_ptr(),
                kind.as_ptr(),
                0,
                options.as_ptr().cast(),
            )
        };
        (answer == 0).then(|| Small(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let target = CString::new(self.0.to_str().unwrap()).unwrap();
        // SAFETY: the string ends with a zero and outlives the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_full_disk_is_refused_drained_and_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = Small::mount(dir.path(), "10m") else {
        return println!("skipped: mounting a small disk needs to be root");
    };
    let path = dir.path().join("queue");
    std::fs::create_dir(&path).unwrap();
    let env = store(&path, &["sub"]);
    exercise(&env, Resource::Disk);
    // Somebody else takes the rest of the disk: what is stored still comes out.
    env.new_publisher()
        .unwrap()
        .send_many(vec!["kept"; 100])
        .unwrap();
    let mut filler = std::fs::File::create(dir.path().join("filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
    assert_eq!(drain(&env, "sub").len(), 100);
    fill(&env, 5_000);
    drain(&env, "sub");
    drop(filler);
    std::fs::remove_file(dir.path().join("filler")).unwrap();
    env.new_publisher().unwrap().send("used again").unwrap();
}

/// A compact copy has no free page, and once had none to come: on a disk that was full by then,
/// nothing could be received or cleared any more.
#[test]
fn a_compacted_store_on_a_full_disk_is_drained() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = Small::mount(dir.path(), "32m") else {
        return println!("skipped: mounting a small disk needs to be root");
    };
    let path = dir.path().join("queue");
    std::fs::create_dir(&path).unwrap();
    let env = store(&path, &["sub"]);
    let publisher = env.new_publisher().unwrap();
    publisher.send_many(vec!["kept"; 20_000]).unwrap();
    drop((publisher, env));
    persipubsub::Control::compact(&path, persipubsub::Options::default()).unwrap();
    let mut filler = std::fs::File::create(dir.path().join("filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
    let env = Environment::open(&path).unwrap();
    let sub = env.new_subscriber("sub").unwrap();
    for _ in 0..50 {
        sub.receive(Duration::ZERO).unwrap().unwrap().ack().unwrap();
    }
    assert_eq!(drain(&env, "sub").len(), 19_950);
}

/// LMDB writes its table of readers through a map, and so do we the bell: on a disk without room that
/// is a SIGBUS, which ends the process. And half of a new file, once written, was refused for ever.
#[test]
fn a_disk_without_room_for_a_new_store_is_an_error_and_not_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = Small::mount(dir.path(), "6m") else {
        return println!("skipped: mounting a small disk needs to be root");
    };
    let (filler, path) = (dir.path().join("filler"), dir.path().join("queue"));
    let mut made = [0; 2];
    // Every amount of room at which something else may be the first that fails.
    for free in (0..48).chain((1000..1200).step_by(4)) {
        let mut file = std::fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        let len = file.metadata().unwrap().len();
        file.set_len(len.saturating_sub(free * 4096)).unwrap();
        let make = || {
            let options = persipubsub::Options {
                map_size: Some(1 << 20),
                ..Default::default()
            };
            let env = Environment::create(&path, options)?;
            let setup = persipubsub::Setup::new(["sub"]);
            env.new_control().initialize(&setup)?;
            Ok(env)
        };
        let attempt = make().map(drop);
        match attempt {
            Ok(_) => made[1] += 1,
            Err(Error::Full(Resource::Disk)) => made[0] += 1,
            Err(other) => panic!("with {free} pages: {other}"),
        }
        drop(file);
        std::fs::remove_file(&filler).unwrap();
        let env = make().unwrap();
        env.new_publisher().unwrap().send("works").unwrap();
        assert_eq!(drain(&env, "sub"), ["works"]);
        drop(env);
        std::fs::remove_dir_all(&path).unwrap();
    }
    assert!(made.iter().all(|count| *count > 3), "{made:?}");
}

/// Neither fills the disk with LMDB's table of readers, nor overflows.
#[test]
fn sizes_that_cannot_be_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (usual, max_readers) = (persipubsub::Options::default(), u32::MAX);
    let map_size = Some(usize::MAX);
    for options in [
        persipubsub::Options {
            max_readers,
            ..usual
        },
        persipubsub::Options { map_size, ..usual },
    ] {
        let refused = Environment::open_with(dir.path(), options);
        assert!(matches!(refused, Err(Error::Config(_))));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Reading past the end of a file that is mapped ends the process (`SIGBUS`).
#[test]
fn a_data_file_that_was_cut_short_does_not_end_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    let publisher = env.new_publisher().unwrap();
    publisher.send_many(vec![vec![b'x'; 5_000]; 500]).unwrap();
    drop((publisher, env));
    let data = std::fs::File::options()
        .write(true)
        .open(dir.path().join("data.mdb"))
        .unwrap();
    data.set_len(1 << 20).unwrap();
    // What is left of it is anybody's guess; an answer is all that counts.
    let look = || {
        let env = Environment::open(dir.path())?;
        env.new_subscriber("sub")?
            .receive_batch(500, Duration::ZERO)?
            .ack()
    };
    _ = look();
}
