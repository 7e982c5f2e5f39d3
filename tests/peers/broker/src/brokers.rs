//! The brokers, each on a port of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A broker to be measured.
pub struct Broker {
    pub name: &'static str,
    pub port: u16,
    pub pid: u32,
    /// Ours to end, if we started it; its directory goes with it.
    child: Option<(Child, TempDir)>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `olive broker` with nothing but an address.
pub fn olive(program: &str) -> Broker {
    let directory = TempDir::new().expect("a directory");
    let port = free_port();
    let mut command = Command::new(program);
    command
        .args([
            "broker",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--log-level",
            "error",
        ])
        .current_dir(directory.path());
    start("olive", command, directory, port)
}

/// garagemq as its package configures it, with ports and files of its own.
pub fn garagemq() -> Broker {
    let directory = TempDir::new().expect("a directory");
    let (port, admin) = (free_port(), free_port());
    let as_packaged = fs::read_to_string("/etc/garagemq/config.yaml").expect("the package's file");
    let data = directory.path().join("db");
    let config = as_packaged
        .replace("port: 5672", &format!("port: {port}"))
        .replace("port: 15672", &format!("port: {admin}"))
        .replace("nodelay: false", "nodelay: true")
        .replace("/var/lib/garagemq/db", &data.display().to_string());
    let file = directory.path().join("config.yaml");
    fs::write(&file, config).expect("written");
    let mut command = Command::new("garagemq");
    command
        .arg("--config")
        .arg(&file)
        .args(["--log-level", "error"])
        .current_dir(directory.path());
    start("garagemq", command, directory, port)
}

/// RabbitMQ, which `run` has started.
pub fn rabbitmq(port: u16, pid: u32) -> Broker {
    Broker {
        name: "rabbitmq",
        port,
        pid,
        child: None,
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("bound").port()
}

fn start(name: &'static str, mut command: Command, directory: TempDir, port: u16) -> Broker {
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
    let broker = Broker {
        name,
        port,
        pid: child.id(),
        child: Some((child, directory)),
    };
    let give_up = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < give_up, "{name} does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    broker
}
