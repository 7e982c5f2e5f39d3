//! What several runtimes do in the same words, with types of their own: macros that a runtime's module
//! calls, and functions it uses.

use std::{
    future::{Future, pending, poll_fn},
    task::Poll,
};

/// For ever: what a parked task waits in.
pub async fn park() {
    pending::<()>().await
}

/// For runtimes that have none of their own.
pub fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    poll_fn(move |cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Sending and receiving over the module's `Sender`, `Receiver`, `BoundedSender` and `BoundedReceiver`:
/// how its unbounded queue sends at once, and how an item or the end is received.
macro_rules! queues {
    (send: $send:ident, recv: $($recv:tt)+) => {
        fn send<T: 'static>(to: &Sender<T>, item: T) {
            to.$send(item).ok().expect("open");
        }

        async fn recv<T>(from: &mut Receiver<T>) -> Option<T> {
            from.$($recv)+
        }

        async fn send_bounded<T: 'static>(to: &mut BoundedSender<T>, item: T) {
            to.send(item).await.ok().expect("open");
        }

        async fn recv_bounded<T>(from: &mut BoundedReceiver<T>) -> Option<T> {
            from.$($recv)+
        }
    };
}

/// Connections between the module's `TcpListener`, which its `bind` makes, and its `TcpStream`s; the
/// argument takes the stream out of what `accept` gives.
macro_rules! connections {
    ($($stream:tt)*) => {
        fn listen() -> (TcpListener, std::net::SocketAddr) {
            let listener = bind();
            let address = listener.local_addr().expect("bound");
            (listener, address)
        }

        async fn accept(listener: &TcpListener) -> TcpStream {
            let stream = listener.accept().await.expect("a connection")$($stream)*;
            stream.set_nodelay(true).expect("a socket");
            stream
        }

        async fn connect(address: std::net::SocketAddr) -> TcpStream {
            let stream = TcpStream::connect(address).await.expect("connected");
            stream.set_nodelay(true).expect("a socket");
            stream
        }
    };
}

/// `serve` and `drive` for runtimes with tokio-like `read`, `write_all` and `read_exact`.
macro_rules! echo_by_reference {
    () => {
        async fn serve(#[allow(unused_mut)] mut stream: TcpStream) {
            let mut buf = [0u8; 64];
            loop {
                match stream.read(&mut buf).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => stream.write_all(&buf[..n]).await.expect("the client reads"),
                }
            }
        }

        async fn drive(#[allow(unused_mut)] mut stream: TcpStream, rounds: usize) -> usize {
            let (message, mut buf) = ([7u8; 64], [0u8; 64]);
            for _ in 0..rounds {
                stream.write_all(&message).await.expect("the server reads");
                stream
                    .read_exact(&mut buf)
                    .await
                    .expect("the server writes");
            }
            assert_eq!(message, buf);
            rounds
        }
    };
}
