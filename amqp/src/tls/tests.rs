//! A session and a rustls server in memory, fed byte by byte.

use super::{ServerName, TlsError, TlsOptions, TlsSession};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use rustls::{ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// A file with an authority's certificate; goes with this value.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(test: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, test);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let name = format!("amqp-tls-{}-{test}.pem", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, issuer.pem()).unwrap();
        Authority { issuer, file }
    }

    fn server(&self, change: impl FnOnce(&mut CertificateParams)) -> ServerConnection {
        let mut params = CertificateParams::new(vec!["broker".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        ServerConnection::new(Arc::new(config)).unwrap()
    }

    fn client(&self) -> TlsSession {
        let options = TlsOptions {
            ca_file: Some(self.file.clone()),
            ..TlsOptions::default()
        };
        TlsSession::new(&options, "broker").unwrap()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Carries everything both ways, to the client one byte at a time, until nobody says any more.
fn carry(client: &TlsSession, server: &mut ServerConnection) -> io::Result<()> {
    loop {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        client.take_output(&mut up);
        let mut rest = &up[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest)?;
            // What the server thinks of it, the client is told by an alert.
            let _ = server.process_new_packets();
        }
        while server.wants_write() {
            server.write_tls(&mut down)?;
        }
        for byte in &down {
            assert_eq!(client.receive(std::slice::from_ref(byte))?, 1);
        }
        if up.is_empty() && down.is_empty() {
            return Ok(());
        }
    }
}

fn refusal(change: impl FnOnce(&mut CertificateParams), test: &str) -> TlsError {
    let authority = Authority::new(test);
    let error = carry(&authority.client(), &mut authority.server(change)).unwrap_err();
    TlsError::in_io(&error).expect("an error of TLS").clone()
}

#[test]
fn bytes_pass_one_by_one() {
    let authority = Authority::new("bytes");
    let (client, mut server) = (authority.client(), authority.server(|_| {}));
    assert!(client.is_handshaking());
    carry(&client, &mut server).unwrap();
    assert!(!client.is_handshaking());

    let plain: Vec<u8> = (0..200_000u32).map(|at| at as u8).collect();
    let (mut sent, mut seen) = (0, Vec::new());
    while sent < plain.len() {
        let mut wire = Vec::new();
        sent += client.write(&plain[sent..], &mut wire).unwrap();
        let mut wire = &wire[..];
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            server.process_new_packets().unwrap();
            // The error says that there is no more now.
            let _ = server.reader().read_to_end(&mut seen);
        }
    }
    assert!(seen == plain);

    server.writer().write_all(b"answer").unwrap();
    carry(&client, &mut server).unwrap();
    let mut answer = [0; 100];
    assert_eq!(client.read(&mut answer).unwrap(), Some(6));
    assert_eq!(&answer[..6], b"answer");
    assert_eq!(client.read(&mut answer).unwrap(), None);
    server.send_close_notify();
    carry(&client, &mut server).unwrap();
    assert_eq!(client.read(&mut answer).unwrap(), Some(0));
}

#[test]
fn an_end_without_a_goodbye_is_an_error() {
    let authority = Authority::new("end");
    let (client, mut server) = (authority.client(), authority.server(|_| {}));
    carry(&client, &mut server).unwrap();
    client.received_end();
    let error = client.read(&mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn each_fault_of_a_certificate_has_its_error() {
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    assert!(matches!(refusal(expired, "expired"), TlsError::Expired(_)));
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(2900, 1, 1);
    assert!(matches!(refusal(early, "early"), TlsError::NotYetValid(_)));
    let other = |params: &mut CertificateParams| {
        *params = CertificateParams::new(vec!["other".to_owned()]).unwrap();
    };
    let error = refusal(other, "name");
    let text = error.to_string();
    assert!(matches!(error, TlsError::WrongName { .. }), "{error:?}");
    assert!(
        text.contains("\"broker\"") && text.contains("other"),
        "{text}"
    );

    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let error = carry(&ours.client(), &mut theirs.server(|_| {})).unwrap_err();
    assert_eq!(TlsError::in_io(&error), Some(&TlsError::UnknownIssuer));
}

#[test]
fn no_name_needs_no_name() {
    let authority = Authority::new("nameless");
    let options = TlsOptions {
        ca_file: Some(authority.file.clone()),
        server_name: ServerName::Disabled,
        ..TlsOptions::default()
    };
    let client = TlsSession::new(&options, "not a name at all").unwrap();
    carry(&client, &mut authority.server(|_| {})).unwrap();
    assert!(!client.is_handshaking());
    let text = TlsSession::new(&TlsOptions::default(), "not a name at all");
    assert!(text.err().unwrap().to_string().contains("not a name"));
}
