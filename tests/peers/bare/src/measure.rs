//! What a client process measures of itself, and how it says so.

use std::time::Instant;

/// A scenario, as it stands on the command line of a client process.
#[derive(Clone, Debug)]
pub struct Job {
    pub scenario: String,
    /// Bytes of a body.
    pub size: usize,
    /// Messages.
    pub count: usize,
    pub host: String,
    pub port: u16,
    pub queue: String,
}

impl Job {
    pub fn from_arguments(arguments: &[String]) -> Job {
        let [scenario, size, count, host, port, queue] = arguments else {
            panic!("six arguments: {arguments:?}")
        };
        Job {
            scenario: scenario.clone(),
            size: size.parse().expect("a size"),
            count: count.parse().expect("a count"),
            host: host.clone(),
            port: port.parse().expect("a port"),
            queue: queue.clone(),
        }
    }

    pub fn arguments(&self) -> Vec<String> {
        vec![
            self.scenario.clone(),
            self.size.to_string(),
            self.count.to_string(),
            self.host.clone(),
            self.port.to_string(),
            self.queue.clone(),
        ]
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}:{}/%2f", self.host, self.port)
    }

    pub fn body(&self) -> Vec<u8> {
        vec![b'x'; self.size]
    }

    /// Prefetch of the consume scenarios.
    pub fn prefetch(&self) -> u16 {
        if self.scenario == "consume-1000" {
            1000
        } else {
            80
        }
    }
}

/// How many messages one `multiple` ack covers in `consume-batch`.
pub const BATCH: usize = 40;
/// Publishes that may await their confirm.
pub const WINDOW: usize = 1000;

/// CPU and wall clock since its making.
pub struct Stopwatch {
    wall: Instant,
    cpu: f64,
}

fn usage() -> libc::rusage {
    // SAFETY: all-zero bytes are a valid rusage, and the call only writes to it.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    }
}

fn cpu() -> f64 {
    let usage = usage();
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

impl Stopwatch {
    pub fn start() -> Self {
        Stopwatch {
            cpu: cpu(),
            wall: Instant::now(),
        }
    }

    /// Prints the process's figures: CPU us a message, messages a second, peak RSS in MiB.
    pub fn report(self, count: usize) {
        let (cpu, wall) = (cpu() - self.cpu, self.wall.elapsed().as_secs_f64());
        let rss = usage().ru_maxrss as f64 / 1024.0;
        println!("{} {} {rss}", cpu / count as f64 * 1e6, count as f64 / wall);
    }
}

/// Prints the median of round trips, in the place of the CPU time.
pub fn report_round_trips(mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let rss = usage().ru_maxrss as f64 / 1024.0;
    println!(
        "{} {} {rss}",
        times[times.len() / 2] * 1e6,
        times.len() as f64 / times.iter().sum::<f64>()
    );
}
