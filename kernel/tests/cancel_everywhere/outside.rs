//! What comes from other threads, and from the system's signals.

use kernel::{Bell, Error, handle, inbox, remote, run_in_thread, spawn, sync::Event, yield_now};

use crate::support::{everywhere, nothing};

#[test]
fn functions_on_threads() {
    let scenario = || async {
        run_in_thread(|| ()).await?;
        run_in_thread(|| ()).await
    };
    everywhere(2, scenario, nothing);
}

/// More than there are threads, so that some are taken back before they have begun.
#[test]
fn functions_in_line_for_a_thread() {
    let scenario = || async {
        let all = (0..100).map(|n| run_in_thread(move || n));
        let sum: u32 = futures::future::try_join_all(all).await?.iter().sum();
        assert_eq!(sum, 4950);
        Ok::<_, Error>(())
    };
    everywhere(1, scenario, nothing);
}

#[test]
fn bells_and_inboxes() {
    let scenario = || async {
        let bell = Bell::new();
        let ringer = bell.ringer();
        let thread = spawn(run_in_thread(move || ringer.ring()));
        bell.wait().await?;
        thread.wait().await?;
        let (to, from) = inbox();
        let thread = spawn(run_in_thread(move || to.send_all([1, 2])));
        assert!(from.ready().await?);
        assert_eq!(from.recv().await?, Some(1));
        assert_eq!(from.recv().await?, Some(2));
        assert_eq!(from.recv().await?, None);
        thread.wait().await
    };
    everywhere(3, scenario, nothing);
}

/// A thread gives the kernel tasks, and sets an event of it.
#[test]
fn tasks_from_threads() {
    let scenario = || async {
        let (event, handle) = (Event::new(), handle());
        let far = remote(event.clone());
        let thread = spawn(run_in_thread(move || {
            let sum = handle.submit(|| async {
                yield_now().await?;
                Ok::<_, Error>(2 + 2)
            });
            let given_up = handle.submit(std::future::pending::<()>);
            given_up.cancel();
            given_up.cancel();
            let waited = far.submit(async |event| event.wait().await);
            far.with(|event| event.set());
            let set = far.call(|event| event.is_set());
            handle.spawn(yield_now);
            (sum.join(), given_up.join().is_err(), waited.join(), set)
        }));
        event.wait().await?;
        let told = thread.join().await??;
        assert!(told.1);
        Ok::<_, kernel::JoinError>(())
    };
    everywhere(2, scenario, nothing);
}

#[cfg(feature = "signal")]
#[test]
fn signals() {
    use kernel::signal::{SIGUSR1, Signals};
    let scenario = || async {
        let mut signals = Signals::new(&[SIGUSR1])?;
        let sender = spawn(async {
            yield_now().await?;
            // SAFETY: it has no conditions; the signal is caught, and stays harmless afterwards.
            let failed = unsafe { libc::raise(SIGUSR1) };
            assert_eq!(failed, 0);
            Ok::<_, Error>(())
        });
        assert_eq!(signals.next().await?, SIGUSR1);
        sender.wait().await?;
        std::io::Result::Ok(())
    };
    everywhere(1, scenario, nothing);
}
