//! LMDB itself, through heed, doing the same shape with nothing around it: a record for the message,
//! an entry for each subscriber, one commit. No counters, limits, clock, leases or wake-up.

use std::path::Path;

use heed::types::Bytes;
use heed::{Database, Env, EnvOpenOptions, PutFlags, WithoutTls};

pub struct Bare {
    env: Env<WithoutTls>,
    messages: Database<Bytes, Bytes>,
    queued: Database<Bytes, Bytes>,
    next: u64,
    subscribers: u32,
}

fn entry(queue: u32, seq: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&queue.to_be_bytes());
    key[4..].copy_from_slice(&seq.to_be_bytes());
    key
}

impl Bare {
    pub fn open(path: &Path, subscribers: u32) -> Self {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(8 << 30).max_dbs(2);
        // SAFETY: a directory of our own, opened once.
        let env = unsafe { options.open(path).unwrap() };
        let mut txn = env.write_txn().unwrap();
        let messages = env.create_database(&mut txn, Some("messages")).unwrap();
        let queued = env.create_database(&mut txn, Some("queued")).unwrap();
        txn.commit().unwrap();
        Bare {
            env,
            messages,
            queued,
            next: 1,
            subscribers,
        }
    }

    pub fn send(&mut self, bodies: &[Vec<u8>]) {
        let mut txn = self.env.write_txn().unwrap();
        let first = self.next;
        for body in bodies {
            let record = [&self.subscribers.to_le_bytes(), &body[..]].concat();
            let key = self.next.to_be_bytes();
            self.messages
                .put_with_flags(&mut txn, PutFlags::APPEND, &key, &record)
                .unwrap();
            self.next += 1;
        }
        for queue in 0..self.subscribers {
            for seq in first..self.next {
                self.queued
                    .put(&mut txn, &entry(queue, seq), &[0; 4])
                    .unwrap();
            }
        }
        txn.commit().unwrap();
    }

    /// Takes up to `max` messages of subscriber 0, the only one: read, then one commit that deletes.
    pub fn receive(&mut self, max: usize) -> Vec<Vec<u8>> {
        let read = self.env.read_txn().unwrap();
        let mut taken = Vec::new();
        for item in self.queued.iter(&read).unwrap().take(max) {
            let key: [u8; 12] = item.unwrap().0.try_into().unwrap();
            let body = self.messages.get(&read, &key[4..]).unwrap().unwrap()[4..].to_vec();
            taken.push((key, body));
        }
        drop(read);
        let mut txn = self.env.write_txn().unwrap();
        for (key, _) in &taken {
            self.queued.delete(&mut txn, key).unwrap();
            self.messages.delete(&mut txn, &key[4..]).unwrap();
        }
        txn.commit().unwrap();
        taken.into_iter().map(|(_, body)| body).collect()
    }
}
