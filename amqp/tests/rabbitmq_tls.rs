//! `amqps://` against a real broker: logins, and everything that a certificate can be wrong in.

mod support;

use amqp::client::{Connection, Publish, QueueDeclare, Session, SessionEvent, Topology};
use amqp::{ConnectOptions, Error, TlsError, Uri, blocking};
use std::sync::{Arc, Mutex, Weak};
use support::certificates::Authority;
use support::node::Node;
use support::on_kernel_for;

/// Only a hang reaches it.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(240);

/// A node with TLS, and those who sign. All tests that run at the same time share one.
struct Site {
    authority: Authority,
    node: Node,
    url: String,
}

fn site() -> Arc<Site> {
    static SHARED: Mutex<Weak<Site>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(|broken| broken.into_inner());
    if let Some(site) = shared.upgrade() {
        return site;
    }
    let authority = Authority::new("ca");
    authority.sign("server", "server", &["localhost"], |_| {});
    let node = Node::start_with_tls(&authority.folder);
    let url = node.amqps_url();
    let site = Arc::new(Site {
        authority,
        node,
        url,
    });
    *shared = Arc::downgrade(&site);
    site
}

impl Site {
    fn options(&self, parameters: &str) -> ConnectOptions {
        // A handshake is some work for a busy machine.
        let url = format!("{}?connection_timeout=60000&{parameters}", self.url);
        Uri::parse(&url).unwrap()
    }

    /// As one who knows the authority.
    fn trusting(&self, parameters: &str) -> ConnectOptions {
        self.options(&format!(
            "cacertfile={}&{parameters}",
            self.authority.ca_file()
        ))
    }
}

async fn opens(options: ConnectOptions) {
    let connection = Connection::open(options).await.unwrap();
    connection.close().await;
}

async fn fails(options: ConnectOptions) -> Error {
    let error = Connection::open(options.clone()).await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    let blocking = kernel::run_in_thread(move || blocking::Connection::open(options).unwrap_err());
    assert_eq!(blocking.await.unwrap(), error);
    error
}

fn tls_error(error: Error) -> TlsError {
    match error {
        Error::Tls(error) => error,
        other => panic!("an error of TLS was due, not {other:?}"),
    }
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn messages_of_any_size_pass_through_tls() {
    let site = site();
    let options = site.trusting("");
    on_kernel_for(LIMIT, async move {
        let connection = Connection::open(options.clone()).await.unwrap();
        let channel = connection.channel().await.unwrap();
        let declare = QueueDeclare::new("").exclusive();
        let queue = channel.queue_declare(declare).await.unwrap().name;
        channel.confirm_select().await.unwrap();
        for size in [0, 1, 1000, 16_384, 100_000, 3_000_000] {
            let body: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let message = Publish::new("", &queue, &body).mandatory();
            channel.publish(message).await.unwrap();
            let delivery = channel.get(&queue).await.unwrap().expect("it is there");
            assert!(delivery.body == body, "{size}");
            delivery.ack().unwrap();
        }
        connection.close().await;
        assert_eq!(connection.closed().await, Error::ClosedByUs);
    });
    let connection = blocking::Connection::open(site.trusting("")).unwrap();
    let channel = connection.channel().unwrap();
    let declare = QueueDeclare::new("").exclusive();
    let queue = channel.queue_declare(declare).unwrap().name;
    channel.confirm_select().unwrap();
    let body = vec![7; 1_000_000];
    channel.publish(Publish::new("", &queue, &body)).unwrap();
    let delivery = channel.get(&queue).unwrap().expect("it is there");
    assert!(delivery.message.body == body);
    delivery.ack().unwrap();
    connection.close();
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn a_client_certificate_logs_in() {
    let site = site();
    let (guest, guest_key) = site.authority.sign("guest", "guest", &[], |_| {});
    let (nobody, nobody_key) = site.authority.sign("nobody", "nobody", &[], |_| {});
    let stranger = Authority::new("stranger");
    let (other, other_key) = stranger.sign("guest", "guest", &[], |_| {});
    on_kernel_for(LIMIT, async move {
        let external = |certificate: &str, key: &str| {
            site.trusting(&format!(
                "auth_mechanism=external&certfile={certificate}&keyfile={key}"
            ))
        };
        opens(external(&guest, &guest_key)).await;
        let error = fails(external(&nobody, &nobody_key)).await;
        assert!(matches!(error, Error::LoginRefused(_)), "{error}");
        // Signed by somebody the server does not trust. Its alert comes after we took the session for agreed.
        let error = tls_error(fails(external(&other, &other_key)).await);
        assert!(matches!(error, TlsError::Refused(_)), "{error}");
        // Without a certificate the server has nobody to log in.
        let error = fails(site.trusting("auth_mechanism=external")).await;
        assert!(matches!(error, Error::LoginRefused(_)), "{error}");
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn a_server_has_to_be_who_it_says() {
    let site = site();
    on_kernel_for(LIMIT, async move {
        // The system's authorities do not include the test's.
        let error = tls_error(fails(site.options("")).await);
        assert_eq!(error, TlsError::UnknownIssuer);
        assert!(error.to_string().contains("cacertfile"));
        opens(site.options("verify=verify_none")).await;

        // Made out to `localhost`, not to the address.
        let by_address = |parameters: &str| ConnectOptions {
            host: "127.0.0.1".into(),
            ..site.trusting(parameters)
        };
        match tls_error(fails(by_address("")).await) {
            TlsError::WrongName {
                expected,
                presented,
            } => {
                assert_eq!(expected, "127.0.0.1");
                assert!(presented.concat().contains("localhost"), "{presented:?}");
            }
            other => panic!("{other:?}"),
        }
        opens(by_address("server_name_indication=localhost")).await;
        opens(by_address("server_name_indication=disable")).await;
        // Any name, but not anybody's signature.
        let unsigned = ConnectOptions {
            host: "127.0.0.1".into(),
            ..site.options("server_name_indication=disable")
        };
        assert_eq!(tls_error(fails(unsigned).await), TlsError::UnknownIssuer);
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn plain_and_tls_are_told_apart() {
    let site = site();
    on_kernel_for(LIMIT, async move {
        let plain_port = Uri::parse(&site.node.url()).unwrap().port;
        let error = fails(ConnectOptions {
            port: plain_port,
            ..site.trusting("")
        });
        let error = tls_error(error.await);
        assert!(matches!(error, TlsError::NotTls(_)), "{error}");
        assert!(error.to_string().contains("use amqp://"), "{error}");
        let error = fails(ConnectOptions {
            tls: None,
            ..site.trusting("")
        });
        let error = error.await;
        assert!(matches!(error, Error::NotAmqp(_)), "{error}");
        assert!(error.to_string().contains("write amqps://"), "{error}");
        // Files that are not there, or hold something else, are named.
        for (parameters, part) in [
            ("cacertfile=/no/such.pem".to_owned(), "/no/such.pem"),
            (format!("certfile={}", site.authority.ca_file()), "keyfile"),
            ("keyfile=/no/key.pem".to_owned(), "without certfile"),
            (
                format!("cacertfile={}/server.key", site.authority.folder.display()),
                "no certificate",
            ),
        ] {
            let error = fails(site.options(&parameters)).await;
            assert!(matches!(error, Error::Options(_)), "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn a_session_over_tls_comes_back() {
    let site = site();
    on_kernel_for(LIMIT, async move {
        let topology = Topology::new().queue(QueueDeclare::new("").exclusive());
        let mut session = Session::new(site.trusting(""), topology);
        let first = session.connect().await.unwrap();
        // `close_all_connections` would end the other tests' too: the server ends this one for what it says.
        let error = first.channel.flow(false).await.unwrap_err();
        let Ok(SessionEvent::Lost(lost)) = session.next().await else {
            panic!("it must be lost")
        };
        assert_eq!(lost, error);
        assert_eq!(session.connect().await.unwrap().number, 2);
    });
}
