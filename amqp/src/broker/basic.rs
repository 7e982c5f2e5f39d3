//! Consuming: qos, consume, cancel, get, and settling what was delivered.

use super::call::{Call, refuse_arguments};
use super::channel::ReplyConsumer;
use super::consumer::Consumer;
use super::fault::Fault;
use super::ledger::Unacked;
use super::{reply_to, wire};
use crate::protocol::{AMQPClass, basic};

/// Consumer arguments that we do not do.
const REFUSED: [&str; 2] = ["x-priority", "x-stream-offset"];

impl Call<'_> {
    /// As RabbitMQ defines it: the limit of each consumer started on this channel from now on.
    pub(crate) fn qos(&mut self, qos: &basic::Qos) -> Result<(), Fault> {
        if qos.global {
            return Err(Fault::not_implemented(
                "a prefetch shared by a channel (global)",
            ));
        }
        self.channel.prefetch = qos.prefetch_count;
        self.say(AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})));
        Ok(())
    }

    pub(crate) fn consume(&mut self, consume: basic::Consume) -> Result<(), Fault> {
        refuse_arguments(&consume.arguments, &REFUSED)?;
        if consume.no_local {
            return Err(Fault::not_implemented("the no-local flag"));
        }
        let tag = match consume.consumer_tag.as_str() {
            "" => format!("amq.ctag-{:016x}", self.world.generate()),
            tag => tag.to_owned(),
        };
        let is_reply_tag = |r: &ReplyConsumer| *r.tag == *tag;
        let is_alive = |key| self.world.consumers.get(key).is_some();
        if self
            .channel
            .consumers
            .get(&*tag)
            .copied()
            .is_some_and(is_alive)
            || self.channel.replies.as_ref().is_some_and(is_reply_tag)
        {
            let text = format!("attempt to reuse consumer tag '{tag}'");
            return Err(Fault::not_allowed(text));
        }
        if consume.queue.as_str() == reply_to::NAME {
            return self.consume_replies(&consume, tag);
        }
        let (key, name) = self.find_queue(consume.queue.as_str())?;
        let queue = self.world.vhost.queue(key).expect("found by its name");
        let wants_to_be_alone = consume.exclusive && !queue.consumers.is_empty();
        if queue.has_exclusive_consumer || wants_to_be_alone {
            let text = format!("queue '{name}' in vhost '/' in exclusive use");
            return Err(Fault::access_refused(text));
        }
        self.say_consume_ok(consume.nowait, &tag);
        let consumer = Consumer {
            peer: self.peer,
            channel: self.number,
            queue: key,
            tag: tag.as_str().into(),
            no_ack: consume.no_ack,
            prefetch: self.channel.prefetch,
            in_flight: 0,
            in_rotation: false,
        };
        let key = self.world.add_consumer(consumer, consume.exclusive);
        self.channel.consumers.insert(tag.into(), key);
        Ok(())
    }

    fn say_consume_ok(&mut self, nowait: bool, tag: &str) {
        let consumer_tag = tag.into();
        let ok = basic::AMQPMethod::ConsumeOk(basic::ConsumeOk { consumer_tag });
        self.say_unless(nowait, AMQPClass::Basic(ok));
    }

    fn consume_replies(&mut self, consume: &basic::Consume, tag: String) -> Result<(), Fault> {
        if !consume.no_ack {
            return Err(Fault::precondition("reply consumer cannot acknowledge"));
        }
        if self.channel.replies.is_some() {
            return Err(Fault::precondition("reply consumer already set"));
        }
        let address = reply_to::address(self.world.generate());
        self.world
            .reply_addresses
            .insert(address.clone(), (self.peer, self.number));
        self.say_consume_ok(consume.nowait, &tag);
        self.channel.replies = Some(ReplyConsumer {
            tag: tag.into(),
            address,
        });
        Ok(())
    }

    /// An unknown tag is no error (AMQP 0-9-1 §1.8.3.5).
    pub(crate) fn cancel(&mut self, cancel: &basic::Cancel) -> Result<(), Fault> {
        let tag = cancel.consumer_tag.as_str();
        if let Some(key) = self.channel.consumers.remove(tag) {
            self.world.remove_consumer(key);
        } else if let Some(replies) = self.channel.replies.take_if(|r| *r.tag == *tag) {
            self.world.reply_addresses.remove(&replies.address);
        }
        let ok = basic::CancelOk {
            consumer_tag: cancel.consumer_tag.clone(),
        };
        let ok = AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok));
        self.say_unless(cancel.nowait, ok);
        Ok(())
    }

    pub(crate) fn get(&mut self, get: &basic::Get) -> Result<(), Fault> {
        let (key, _) = self.find_queue(get.queue.as_str())?;
        self.world.expire(key);
        let now = self.world.now;
        let queue = self.world.vhost.queue_mut(key).expect("found by its name");
        queue.last_used = now;
        if let Some(oldest) = queue.oldest() {
            wire::check_fit(oldest.message.properties(), self.terms.frame_max)?;
        }
        let Some(entry) = queue.pop() else {
            let empty = basic::AMQPMethod::GetEmpty(basic::GetEmpty {});
            self.say(AMQPClass::Basic(empty));
            return Ok(());
        };
        let left = u32::try_from(queue.len()).unwrap_or(u32::MAX);
        if !get.no_ack {
            queue.unacked += 1;
        }
        let (redelivered, message) = (entry.redelivered, entry.message.clone());
        let ledger = &mut self.channel.ledger;
        let tag = ledger.next_tag();
        if get.no_ack {
            self.world.drop_entry(key, &entry);
        } else {
            let unacked = Unacked {
                queue: key,
                consumer: None,
                entry,
            };
            ledger.record(tag, unacked);
        }
        let (out, max) = (self.out.out(), self.terms.frame_max);
        wire::get_ok(out, self.number, max, tag, redelivered, left, &message);
        Ok(())
    }

    /// Gives back everything this channel has not settled (AMQP 0-9-1 §1.8.3.16).
    pub(crate) fn recover(&mut self, requeue: bool, answer: bool) -> Result<(), Fault> {
        if !requeue {
            return Err(Fault::not_implemented("basic.recover without requeue"));
        }
        self.channel.give_back_all(self.world);
        let ok = basic::AMQPMethod::RecoverOk(basic::RecoverOk {});
        self.say_unless(!answer, AMQPClass::Basic(ok));
        Ok(())
    }

    #[inline]
    pub(crate) fn ack(&mut self, tag: u64, multiple: bool) -> Result<(), Fault> {
        if !multiple {
            let unacked = self.channel.ledger.take(tag);
            self.world.settle(unacked.ok_or_else(|| unknown_tag(tag))?);
            return Ok(());
        }
        for unacked in self.take_up_to(tag)? {
            self.world.settle(unacked);
        }
        Ok(())
    }

    pub(crate) fn nack(&mut self, tag: u64, multiple: bool, requeue: bool) -> Result<(), Fault> {
        let taken = if multiple {
            self.take_up_to(tag)?
        } else {
            let unacked = self.channel.ledger.take(tag);
            vec![unacked.ok_or_else(|| unknown_tag(tag))?]
        };
        for unacked in taken {
            if requeue {
                self.world.give_back(unacked);
            } else {
                self.world.settle(unacked);
            }
        }
        Ok(())
    }

    fn take_up_to(&mut self, tag: u64) -> Result<Vec<Unacked>, Fault> {
        self.channel
            .ledger
            .take_up_to(tag)
            .ok_or_else(|| unknown_tag(tag))
    }
}

fn unknown_tag(tag: u64) -> Fault {
    Fault::precondition(format!("unknown delivery tag {tag}"))
}
