//! Foreign code that polls, over our adapters.

use std::io;

use futures::io::{AsyncReadExt, AsyncWriteExt, copy};
use kernel::{
    adapt::{Executor, Polled, Timer},
    net::UnixStream,
    sim::pipe,
    sleep, spawn,
};

use crate::support::{SECOND, everywhere, nothing};

#[test]
fn futures_io() {
    let scenario = || async {
        let (a, b) = UnixStream::pair()?;
        let echo = spawn(async move {
            let (read, mut write) = Polled::new(b).split();
            copy(read, &mut write).await
        });
        let mut a = Polled::new(a);
        for _ in 0..3 {
            a.write_all(b"hello").await?;
            a.read_exact(&mut [0; 5]).await?;
        }
        a.close().await?;
        echo.wait().await?;
        io::Result::Ok(())
    };
    everywhere(3, scenario, nothing);
}

/// One request to hyper's server, the server itself being what is disturbed.
#[test]
fn hyper() {
    use ::hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
    let scenario = || async {
        let (ours, theirs) = pipe(16);
        let client = spawn(async move {
            ours.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                .await?;
            while ours.read(&mut [0; 64]).await? > 0 {}
            io::Result::Ok(())
        });
        let answer = service_fn(async |_: Request<Incoming>| {
            sleep(SECOND).await?;
            Ok::<_, kernel::Error>(Response::new(String::from("at last\n")))
        });
        let served = http1::Builder::new()
            .timer(Timer)
            .header_read_timeout(SECOND * 30)
            .serve_connection(Polled::new(theirs), answer)
            .await;
        client.wait().await?;
        served.map_err(io::Error::other)
    };
    everywhere(3, scenario, nothing);
}

#[test]
fn hyper_s_tasks_and_sleeps() {
    use ::hyper::rt::{Executor as _, Timer as _};
    let scenario = || async {
        let (tell, told) = kernel::sync::oneshot();
        Executor.execute(async move {
            Timer.sleep(SECOND).await;
            let _ = tell.send(());
        });
        Timer.sleep(SECOND * 2).await;
        told.recv().await.map(drop)
    };
    everywhere(1, scenario, nothing);
}
