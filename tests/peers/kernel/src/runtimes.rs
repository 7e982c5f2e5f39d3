//! One module for each runtime, and the table of rows.

pub fn cpu_now() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0, "Linux has CLOCK_PROCESS_CPUTIME_ID");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

macro_rules! plain_row {
    ($module:ident, $row:expr) => {
        match $row {
            "yield-2" => $module::yields(2, 2_000_000),
            "yield-10k" => $module::yields(10_000, 400),
            "spawn-join" => $module::spawn_join(1_000_000),
            "spawn-1m" => $module::spawn_many(1_000_000),
            "parked-bytes" => $module::parked(1_000_000),
            "channel-unbounded" => $module::channel(5_000_000),
            "channel-bounded" => $module::channel_bounded(3_000_000),
            "waker" => $module::waker(1_000_000),
            other => panic!("no row {other} for {}", stringify!($module)),
        }
    };
}

macro_rules! any_row {
    ($module:ident, $row:expr) => {
        match $row {
            "sleep-1m" => $module::sleeps(1_000_000),
            "timeout-churn" => $module::timeouts(2_000_000),
            "echo-1" => $module::echo(1, 30_000),
            "echo-1000" => $module::echo(1000, 60),
            "offload-seq" => $module::offload_sequential(20_000),
            "offload-80" => $module::offload_many(400_000, 80),
            row => plain_row!($module, row),
        }
    };
}

/// Measures one row on one runtime; the unit is the row's.
pub fn measure(row: &str, runtime: &str) -> f64 {
    match (runtime, row) {
        ("kernel", row) => any_row!(ours, row),
        ("tokio", row) => any_row!(tokio_rt, row),
        ("smol", row) => any_row!(smol_rt, row),
        ("glommio", row) => any_row!(glommio_rt, row),
        ("monoio", row) => any_row!(monoio_rt, row),
        ("futures", row) => plain_row!(futures_rt, row),
        ("mio", "echo-1") => crate::echo_mio::echo(30_000),
        _ => panic!("no runtime {runtime}"),
    }
}

mod ours {
    use kernel::{
        JoinHandle,
        net::{TcpListener, TcpStream},
        sync,
    };
    use std::{future::Future, net::SocketAddr, time::Duration};

    fn run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
        kernel::run(main).expect("a kernel")
    }
    fn spawn<T: 'static>(f: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        kernel::spawn(f)
    }
    async fn join<T: 'static>(handle: JoinHandle<T>) -> T {
        handle.join().await.expect("no task fails")
    }
    fn detach<T: 'static>(handle: JoinHandle<T>) {
        handle.detach();
    }
    use kernel::yield_now;
    async fn park() {
        std::future::pending::<()>().await
    }
    fn unbounded<T>() -> (sync::Sender<T>, sync::Receiver<T>) {
        sync::mailbox()
    }
    fn send<T: 'static>(to: &sync::Sender<T>, item: T) {
        to.send(item).expect("open");
    }
    async fn recv<T>(from: &mut sync::Receiver<T>) -> Option<T> {
        from.recv().await.expect("nobody cancels")
    }
    fn bounded<T>(n: usize) -> (sync::BoundedSender<T>, sync::Receiver<T>) {
        sync::mailbox_bounded(n)
    }
    async fn send_bounded<T: 'static>(to: &mut sync::BoundedSender<T>, item: T) {
        to.send(item).await.expect("open");
    }
    use self::recv as recv_bounded;
    async fn sleep(d: Duration) {
        kernel::sleep(d).await.expect("nobody cancels");
    }
    async fn timeout<T>(d: Duration, f: impl Future<Output = T>) -> T {
        kernel::timeout_after(d, async { Ok::<_, kernel::Error>(f.await) })
            .await
            .expect("in time")
    }
    fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }
    async fn accept(listener: &TcpListener) -> TcpStream {
        let stream = listener.accept().await.expect("a connection").0;
        stream.set_nodelay(true).expect("a socket");
        stream
    }
    async fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("a socket");
        stream
    }
    async fn offload<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
        kernel::run_in_thread(f).await.expect("nobody cancels")
    }
    plain_rows!();
    timed_rows!();
    echo_by_reference!(TcpStream);
}

mod tokio_rt {
    use std::{future::Future, net::SocketAddr, time::Duration};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::mpsc,
        task::{JoinHandle, LocalSet, spawn_local},
    };

    fn run<T>(main: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        LocalSet::new().block_on(&runtime, main)
    }
    fn spawn<T: 'static>(f: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        spawn_local(f)
    }
    async fn join<T>(handle: JoinHandle<T>) -> T {
        handle.await.expect("no task fails")
    }
    fn detach<T>(_: JoinHandle<T>) {}
    use tokio::task::yield_now;
    async fn park() {
        std::future::pending::<()>().await
    }
    fn unbounded<T>() -> (mpsc::UnboundedSender<T>, mpsc::UnboundedReceiver<T>) {
        mpsc::unbounded_channel()
    }
    fn send<T>(to: &mpsc::UnboundedSender<T>, item: T) {
        to.send(item).ok().expect("open");
    }
    async fn recv<T>(from: &mut mpsc::UnboundedReceiver<T>) -> Option<T> {
        from.recv().await
    }
    fn bounded<T>(n: usize) -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
        mpsc::channel(n)
    }
    async fn send_bounded<T>(to: &mut mpsc::Sender<T>, item: T) {
        to.send(item).await.ok().expect("open");
    }
    async fn recv_bounded<T>(from: &mut mpsc::Receiver<T>) -> Option<T> {
        from.recv().await
    }
    async fn sleep(d: Duration) {
        tokio::time::sleep(d).await;
    }
    async fn timeout<T>(d: Duration, f: impl Future<Output = T>) -> T {
        tokio::time::timeout(d, f).await.expect("in time")
    }
    fn listen() -> (TcpListener, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        (
            TcpListener::from_std(listener).expect("a listener"),
            address,
        )
    }
    async fn accept(listener: &TcpListener) -> TcpStream {
        let stream = listener.accept().await.expect("a connection").0;
        stream.set_nodelay(true).expect("a socket");
        stream
    }
    async fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("a socket");
        stream
    }
    async fn offload<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(f).await.expect("no job fails")
    }
    plain_rows!();
    timed_rows!();
    echo_by_reference!(TcpStream);
}

mod smol_rt {
    use smol::{
        LocalExecutor, Task,
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };
    use std::{future::Future, net::SocketAddr, time::Duration};

    thread_local! {
        static EXECUTOR: &'static LocalExecutor<'static> = Box::leak(Box::new(LocalExecutor::new()));
    }

    fn run<T>(main: impl Future<Output = T>) -> T {
        smol::block_on(EXECUTOR.with(|e| *e).run(main))
    }
    fn spawn<T: 'static>(f: impl Future<Output = T> + 'static) -> Task<T> {
        EXECUTOR.with(|e| e.spawn(f))
    }
    async fn join<T>(handle: Task<T>) -> T {
        handle.await
    }
    fn detach<T>(handle: Task<T>) {
        handle.detach();
    }
    use smol::future::yield_now;
    async fn park() {
        std::future::pending::<()>().await
    }
    fn unbounded<T>() -> (async_channel::Sender<T>, async_channel::Receiver<T>) {
        async_channel::unbounded()
    }
    fn send<T>(to: &async_channel::Sender<T>, item: T) {
        to.try_send(item).ok().expect("open");
    }
    async fn recv<T>(from: &mut async_channel::Receiver<T>) -> Option<T> {
        from.recv().await.ok()
    }
    fn bounded<T>(n: usize) -> (async_channel::Sender<T>, async_channel::Receiver<T>) {
        async_channel::bounded(n)
    }
    async fn send_bounded<T>(to: &mut async_channel::Sender<T>, item: T) {
        to.send(item).await.ok().expect("open");
    }
    use self::recv as recv_bounded;
    async fn sleep(d: Duration) {
        smol::Timer::after(d).await;
    }
    async fn timeout<T>(d: Duration, f: impl Future<Output = T>) -> T {
        let late = async {
            smol::Timer::after(d).await;
            panic!("in time")
        };
        smol::future::or(f, late).await
    }
    fn listen() -> (TcpListener, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        (
            TcpListener::try_from(listener).expect("a listener"),
            address,
        )
    }
    async fn accept(listener: &TcpListener) -> TcpStream {
        let stream = listener.accept().await.expect("a connection").0;
        stream.set_nodelay(true).expect("a socket");
        stream
    }
    async fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("a socket");
        stream
    }
    async fn offload<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
        blocking::unblock(f).await
    }
    plain_rows!();
    timed_rows!();
    echo_by_reference!(TcpStream);
}

mod glommio_rt {
    use futures::{AsyncReadExt, AsyncWriteExt};
    use glommio::{
        LocalExecutorBuilder, Placement, PoolPlacement, Task,
        channels::local_channel::{self, LocalReceiver, LocalSender},
        net::{TcpListener, TcpStream},
        timer::Timer,
    };
    use std::{future::Future, net::SocketAddr, time::Duration};

    fn run<T>(main: impl Future<Output = T>) -> T {
        LocalExecutorBuilder::new(Placement::Unbound)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(8))
            .make()
            .expect("an executor")
            .run(main)
    }
    fn spawn<T: 'static>(f: impl Future<Output = T> + 'static) -> Task<T> {
        glommio::spawn_local(f)
    }
    async fn join<T>(handle: Task<T>) -> T {
        handle.await
    }
    fn detach<T>(handle: Task<T>) {
        drop(handle.detach());
    }
    async fn yield_now() {
        glommio::executor().yield_now().await;
    }
    async fn park() {
        std::future::pending::<()>().await
    }
    fn unbounded<T>() -> (LocalSender<T>, LocalReceiver<T>) {
        local_channel::new_unbounded()
    }
    fn send<T>(to: &LocalSender<T>, item: T) {
        to.try_send(item).ok().expect("open");
    }
    async fn recv<T>(from: &mut LocalReceiver<T>) -> Option<T> {
        from.recv().await
    }
    fn bounded<T>(n: usize) -> (LocalSender<T>, LocalReceiver<T>) {
        local_channel::new_bounded(n)
    }
    async fn send_bounded<T>(to: &mut LocalSender<T>, item: T) {
        to.send(item).await.ok().expect("open");
    }
    use self::recv as recv_bounded;
    async fn sleep(d: Duration) {
        Timer::new(d).await;
    }
    async fn timeout<T>(d: Duration, f: impl Future<Output = T>) -> T {
        glommio::timer::timeout(d, async { Ok(f.await) })
            .await
            .ok()
            .expect("in time")
    }
    fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }
    async fn accept(listener: &TcpListener) -> TcpStream {
        let stream = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        stream
    }
    async fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("a socket");
        stream
    }
    async fn offload<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
        glommio::executor().spawn_blocking(f).await
    }
    plain_rows!();
    timed_rows!();
    echo_by_reference!(TcpStream);
}

mod monoio_rt {
    use local_sync::mpsc::{bounded as b, unbounded as u};
    use monoio::{
        io::{AsyncReadRent, AsyncReadRentExt, AsyncWriteRentExt},
        net::{TcpListener, TcpStream},
        task::JoinHandle,
    };
    use std::{future::Future, net::SocketAddr, time::Duration};

    fn run<T>(main: impl Future<Output = T>) -> T {
        monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
            .enable_timer()
            .attach_thread_pool(Box::new(monoio::blocking::DefaultThreadPool::new(8)))
            .build()
            .expect("a runtime")
            .block_on(main)
    }
    fn spawn<T: 'static>(f: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        monoio::spawn(f)
    }
    async fn join<T>(handle: JoinHandle<T>) -> T {
        handle.await
    }
    fn detach<T>(_: JoinHandle<T>) {}
    /// monoio has none of its own.
    fn yield_now() -> impl Future<Output = ()> {
        let mut yielded = false;
        std::future::poll_fn(move |cx| {
            if std::mem::replace(&mut yielded, true) {
                return std::task::Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        })
    }
    async fn park() {
        std::future::pending::<()>().await
    }
    fn unbounded<T>() -> (u::Tx<T>, u::Rx<T>) {
        u::channel()
    }
    fn send<T>(to: &u::Tx<T>, item: T) {
        to.send(item).ok().expect("open");
    }
    async fn recv<T>(from: &mut u::Rx<T>) -> Option<T> {
        from.recv().await
    }
    fn bounded<T>(n: usize) -> (b::Tx<T>, b::Rx<T>) {
        b::channel(n)
    }
    async fn send_bounded<T>(to: &mut b::Tx<T>, item: T) {
        to.send(item).await.ok().expect("open");
    }
    async fn recv_bounded<T>(from: &mut b::Rx<T>) -> Option<T> {
        from.recv().await
    }
    async fn sleep(d: Duration) {
        monoio::time::sleep(d).await;
    }
    async fn timeout<T>(d: Duration, f: impl Future<Output = T>) -> T {
        monoio::time::timeout(d, f).await.expect("in time")
    }
    fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }
    async fn accept(listener: &TcpListener) -> TcpStream {
        let stream = listener.accept().await.expect("a connection").0;
        stream.set_nodelay(true).expect("a socket");
        stream
    }
    async fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("a socket");
        stream
    }
    async fn serve(mut stream: TcpStream) {
        let mut buf = vec![0u8; 64];
        loop {
            let (read, back) = stream.read(buf).await;
            let Ok(n @ 1..) = read else { return };
            let slice = monoio::buf::IoBuf::slice(back, ..n);
            let (written, back) = stream.write_all(slice).await;
            written.expect("the client reads");
            buf = back.into_inner();
        }
    }
    async fn drive(mut stream: TcpStream, rounds: usize) -> usize {
        let (mut message, mut buf) = (vec![7u8; 64], vec![0u8; 64]);
        for _ in 0..rounds {
            let (written, back) = stream.write_all(message).await;
            written.expect("the server reads");
            message = back;
            let (read, back) = stream.read_exact(buf).await;
            read.expect("the server writes");
            buf = back;
        }
        assert_eq!(message, buf);
        rounds
    }
    async fn offload<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
        monoio::spawn_blocking(f).await.ok().expect("no job fails")
    }
    plain_rows!();
    timed_rows!();
}

mod futures_rt {
    use futures::{
        StreamExt,
        channel::mpsc,
        executor::{LocalPool, LocalSpawner},
        future::RemoteHandle,
        sink::SinkExt,
        task::LocalSpawnExt,
    };
    use std::{cell::RefCell, future::Future};

    thread_local! {
        static SPAWNER: RefCell<Option<LocalSpawner>> = const { RefCell::new(None) };
    }

    fn run<T>(main: impl Future<Output = T>) -> T {
        let mut pool = LocalPool::new();
        SPAWNER.set(Some(pool.spawner()));
        pool.run_until(main)
    }
    fn spawn<T: 'static>(f: impl Future<Output = T> + 'static) -> RemoteHandle<T> {
        SPAWNER
            .with_borrow(|s| s.as_ref().expect("runs").spawn_local_with_handle(f))
            .expect("spawns")
    }
    async fn join<T: 'static>(handle: RemoteHandle<T>) -> T {
        handle.await
    }
    fn detach<T: 'static>(handle: RemoteHandle<T>) {
        handle.forget();
    }
    fn yield_now() -> impl Future<Output = ()> {
        let mut yielded = false;
        std::future::poll_fn(move |cx| {
            if std::mem::replace(&mut yielded, true) {
                return std::task::Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        })
    }
    async fn park() {
        std::future::pending::<()>().await
    }
    fn unbounded<T>() -> (mpsc::UnboundedSender<T>, mpsc::UnboundedReceiver<T>) {
        mpsc::unbounded()
    }
    fn send<T>(to: &mpsc::UnboundedSender<T>, item: T) {
        to.unbounded_send(item).ok().expect("open");
    }
    async fn recv<T>(from: &mut mpsc::UnboundedReceiver<T>) -> Option<T> {
        from.next().await
    }
    fn bounded<T>(n: usize) -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
        mpsc::channel(n)
    }
    async fn send_bounded<T>(to: &mut mpsc::Sender<T>, item: T) {
        to.send(item).await.ok().expect("open");
    }
    async fn recv_bounded<T>(from: &mut mpsc::Receiver<T>) -> Option<T> {
        from.next().await
    }
    plain_rows!();
}
