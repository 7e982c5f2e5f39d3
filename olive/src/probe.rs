//! Who has the port? Asked when the embedded broker finds its address taken, so that the error can name the cure.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use amqp::codec::{Frame, Method, parse_frame};
use amqp::protocol::{AMQPClass, AMQPValue, connection::AMQPMethod};

/// How long the stranger has for its first bytes. Local servers answer in a millisecond; longer would make a typo in
/// the configuration feel like a hang.
const PATIENCE: Duration = Duration::from_secs(1);

/// Far more than a `connection.start` needs, and a bound on what a stranger can make us read.
const MOST_BYTES: usize = 16 * 1024;

/// What answers on an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// An AMQP 0-9-1 server, with the product and version that it gives.
    Amqp(String),
    /// Something that speaks HTTP.
    Http,
    /// It answered, with none of the protocols that we know.
    Other,
    /// It accepted (or not even that) and said nothing.
    Silent,
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Occupant::Amqp(product) => write!(f, "an AMQP broker ({product})"),
            Occupant::Http => f.write_str("an HTTP server"),
            Occupant::Other => f.write_str("a server that does not speak AMQP"),
            Occupant::Silent => f.write_str("a program that does not answer an AMQP greeting"),
        }
    }
}

/// Greets whoever listens on `address` and says what it seems to be. Blocks for at most about four seconds.
pub fn occupant_of(address: SocketAddr) -> Occupant {
    let occupant = classify(&first_words(address, b"AMQP\x00\x00\x09\x01").unwrap_or_default());
    if occupant != Occupant::Silent {
        return occupant;
    }
    // Some HTTP servers wait for the end of a request before they complain.
    match classify(&first_words(address, b"GET / HTTP/1.0\r\n\r\n").unwrap_or_default()) {
        Occupant::Http => Occupant::Http,
        _ => Occupant::Silent,
    }
}

/// The whole advice for a taken address: by whom, and both cures.
pub fn advice(address: SocketAddr) -> String {
    let occupant = occupant_of(address);
    let use_it = match occupant {
        Occupant::Amqp(_) => {
            format!("use that broker: olive_amqp_url=amqp://guest:guest@{address}/%2F")
        }
        _ => "use a broker elsewhere: olive_amqp_url=amqp://user:password@host:5672/%2F".to_owned(),
    };
    format!(
        "cannot start the embedded broker: {address} is taken by {occupant}. Either {use_it}, or let the embedded \
         broker listen elsewhere: --listen 127.0.0.1:5673"
    )
}

fn first_words(address: SocketAddr, greeting: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    let deadline = Instant::now() + PATIENCE;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(greeting)?;
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    while heard.len() < MOST_BYTES && classify(&heard) == Occupant::Silent {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => heard.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(heard)
}

/// What the first bytes of an answer tell (pure). An AMQP frame that is not whole yet counts as silence.
fn classify(heard: &[u8]) -> Occupant {
    match parse_frame(heard, MOST_BYTES as u32) {
        Ok(Some((Frame::Method(0, Method::Other(method)), _))) => match *method {
            AMQPClass::Connection(AMQPMethod::Start(start)) => {
                Occupant::Amqp(product(&start.server_properties))
            }
            _ => Occupant::Other,
        },
        Ok(Some(_)) => Occupant::Other,
        Ok(None) => Occupant::Silent,
        // A server of another AMQP version answers with the header that it would have liked.
        Err(_) if heard.starts_with(b"AMQP") => {
            Occupant::Amqp("of another protocol version than 0-9-1".to_owned())
        }
        Err(_) if heard.starts_with(b"HTTP") => Occupant::Http,
        Err(_) => Occupant::Other,
    }
}

fn product(properties: &amqp::protocol::FieldTable) -> String {
    let text = |name: &str| match properties.inner().get(name) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        _ => String::new(),
    };
    let name = format!("{} {}", text("product"), text("version"));
    match name.trim() {
        "" => "of unknown make".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn server_that_says(bytes: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut greeting = [0; 8];
            stream.read_exact(&mut greeting).unwrap();
            stream.write_all(bytes).unwrap();
        });
        address
    }

    #[test]
    fn http_and_strangers_are_told_apart() {
        let http = server_that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        assert_eq!(occupant_of(http), Occupant::Http);
        let ssh = server_that_says(b"SSH-2.0-OpenSSH_9.2\r\n");
        assert_eq!(occupant_of(ssh), Occupant::Other);
        let closes = server_that_says(b"");
        assert_eq!(occupant_of(closes), Occupant::Silent);
        let older = server_that_says(b"AMQP\x00\x00\x09\x01");
        assert!(matches!(occupant_of(older), Occupant::Amqp(_)));
    }

    #[test]
    fn an_http_server_that_waits_for_a_whole_request_is_known_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 18];
                if stream.read_exact(&mut request).is_ok() && request.ends_with(b"\r\n\r\n") {
                    stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
                }
            }
        });
        assert_eq!(occupant_of(address), Occupant::Http);
    }

    #[test]
    fn the_advice_names_both_cures() {
        let address = server_that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let advice = advice(address);
        assert!(advice.contains("HTTP server"), "{advice}");
        assert!(advice.contains("olive_amqp_url="), "{advice}");
        assert!(advice.contains("--listen"), "{advice}");
    }
}
