//! Child processes. Each time the process must be dead and reaped, and its pidfd and pipes gone.

use std::{io, process::Stdio};

use kernel::process::{Command, Pool};

use crate::support::{SECOND, everywhere, nothing};

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::piped());
    command
}

#[test]
fn statuses_and_outputs() {
    everywhere(
        1,
        || async { shell("read line").status().await.map(drop) },
        nothing,
    );
    let scenario = || async { shell("echo hello; sleep 0.01 & exit 1").output().await };
    everywhere(1, scenario, nothing);
    let scenario = || async {
        let mut command = shell("echo hello; echo there >&2");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        command.output_into(&mut out, &mut err).await?;
        assert_eq!((&out[..], &err[..]), (&b"hello\n"[..], &b"there\n"[..]));
        io::Result::Ok(())
    };
    everywhere(1, scenario, nothing);
}

#[test]
fn ending_a_child() {
    let scenario = || async {
        let mut child = shell("sleep 1000").spawn()?;
        child.terminate(SECOND).await?;
        let mut child = shell("sleep 1000").spawn()?;
        child.kill().await?;
        let mut child = shell("exit 7").spawn()?;
        assert_eq!(child.wait().await?.code(), Some(7));
        io::Result::Ok(())
    };
    everywhere(1, scenario, nothing);
}

/// The pipes of a child are streams as any other.
#[test]
fn talking_to_a_child() {
    let scenario = || async {
        let mut child = shell("cat").stdout(Stdio::piped()).spawn()?;
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        to.write_all(b"hello").await?;
        from.read_exact(&mut [0; 5]).await?;
        drop(to);
        assert_eq!(from.read(&mut [0; 5]).await?, 0);
        child.wait().await
    };
    everywhere(1, scenario, nothing);
}

#[test]
fn pools() {
    let scenario = || async {
        let pool = Pool::new(1, move || shell("while read line; do echo $line; done"));
        for _ in 0..2 {
            let exchange = pool.call(async |worker| {
                worker.requests.write_all(b"hello\n").await?;
                worker.requests.flush().await?;
                worker.replies.read_line().await.map(drop)
            });
            exchange.await?;
        }
        pool.close(SECOND).await
    };
    everywhere(1, scenario, nothing);
}
