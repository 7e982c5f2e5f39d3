//! From a publish to the queues: check, collect, route, confirm.

use super::call::Call;
use super::exchange::Exchange;
use super::fault::Fault;
use super::message::split_routing;

use super::store::Origin;
use super::{reply_to, wire};
use crate::codec::{Fields, Header, Publish};
use crate::protocol::{AMQPClass, basic, reply};

impl Call<'_> {
    /// `basic.publish`: refused here, before its content comes, if it cannot go anywhere.
    #[inline]
    pub(crate) fn publish(&mut self, publish: &Publish<'_>) -> Result<(), Fault> {
        *self.publishes = true;
        if publish.immediate {
            return Err(Fault::not_implemented("the immediate flag"));
        }
        let channel = &mut *self.channel;
        channel
            .assembly
            .begin(publish.exchange, publish.routing_key, publish.mandatory);
        channel.is_persistent = false;
        channel.ttl = None;
        let is_known = channel.route.version == self.world.vhost.version()
            && channel.route.routing == channel.assembly.routing();
        if is_known || publish.exchange.is_empty() {
            return Ok(());
        }
        let fault = match self.world.vhost.exchange(publish.exchange) {
            Some(exchange) if !exchange.options.internal => return Ok(()),
            Some(_) => Fault::access_refused(format!(
                "cannot publish to internal exchange '{}' in vhost '/'",
                publish.exchange
            )),
            None => Fault::not_found("exchange", publish.exchange),
        };
        self.channel.assembly.finish();
        Err(fault)
    }

    /// The content header.
    #[inline]
    pub(crate) fn header(&mut self, header: &Header<'_>) -> Result<(), Fault> {
        let properties = header.as_wire();
        let body_max = self.world.config.body_max;
        let result = if properties == [0, 0] {
            self.channel.assembly.header(header, properties, body_max)
        } else {
            self.header_with_properties(header, properties, body_max)
        };
        match result {
            Ok(is_whole) => {
                self.world.memory += self.channel.assembly.held();
                if is_whole {
                    return self.whole();
                }
                Ok(())
            }
            Err(fault) => {
                self.channel.assembly.finish();
                Err(fault.in_method(60, 40))
            }
        }
    }

    fn header_with_properties(
        &mut self,
        header: &Header<'_>,
        properties: &[u8],
        body_max: u64,
    ) -> Result<bool, Fault> {
        let fields = Fields::from_wire(properties).unwrap_or_default();
        if let Some(user) = fields.user_id
            && user != self.terms.user.as_bytes()
        {
            let (theirs, own) = (String::from_utf8_lossy(user), &self.terms.user);
            return Err(Fault::precondition(format!(
                "user_id property set to '{theirs}' but authenticated user was '{own}'"
            )));
        }
        if let Some(text) = fields.expiration {
            let ttl = std::str::from_utf8(text)
                .ok()
                .and_then(|t| t.parse::<u32>().ok());
            let Some(ttl) = ttl else {
                let text = String::from_utf8_lossy(text);
                return Err(Fault::precondition(format!("invalid expiration '{text}'")));
            };
            self.channel.ttl = Some(ttl.into());
        }
        let assembly = &mut self.channel.assembly;
        self.channel.is_persistent = fields.delivery_mode == Some(2);
        if fields.reply_to == Some(reply_to::NAME.as_bytes()) {
            let Some(replies) = &self.channel.replies else {
                return Err(Fault::precondition("fast reply consumer does not exist"));
            };
            let rewritten = reply_to::rewrite(properties, &fields, &replies.address);
            // It has grown, and may have to come back to its publisher.
            wire::check_fit(&rewritten, self.terms.frame_max)?;
            return assembly.header(header, &rewritten, body_max);
        }
        assembly.header(header, properties, body_max)
    }

    /// A piece of body.
    #[inline]
    pub(crate) fn body(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let is_whole = self.channel.assembly.body(piece)?;
        self.world.memory += piece.len() as u64;
        if is_whole {
            return self.whole();
        }
        Ok(())
    }

    /// The message is whole: routes it.
    #[inline]
    fn whole(&mut self) -> Result<(), Fault> {
        let channel = &mut *self.channel;
        self.world.memory -= channel.assembly.held();
        let is_known = channel.route.version == self.world.vhost.version()
            && channel.route.routing == channel.assembly.routing();
        if !is_known {
            self.find_route();
        }
        let channel = &mut *self.channel;
        let origin = channel.confirms.as_ref().map(|confirms| Origin {
            peer: self.peer.to_bits(),
            channel: self.number,
            publish: confirms.next(),
        });
        let queues = &channel.route.queues;
        let batch = if !queues.is_empty() {
            let message = channel
                .assembly
                .message(channel.is_persistent, queues.len());
            self.world.enqueue(message, queues, origin, channel.ttl)
        } else if !self.reply_directly() && self.channel.assembly.mandatory {
            self.give_return();
            0
        } else {
            0
        };
        let channel = &mut *self.channel;
        channel.assembly.finish();
        if let Some(confirms) = &mut channel.confirms {
            confirms.push(batch);
            if !channel.is_confirming {
                channel.is_confirming = true;
                self.world.confirming.push((self.peer, self.number));
            }
        }
        Ok(())
    }

    /// Looks up where the message goes, and remembers it where the answer holds for the next one.
    fn find_route(&mut self) {
        let channel = &mut *self.channel;
        let assembly = &channel.assembly;
        let (exchange, key) = split_routing(assembly.routing());
        let headers = || {
            let properties = crate::codec::RawProperties::from_wire(assembly.properties());
            properties.and_then(|p| p.headers()).unwrap_or_default()
        };
        let vhost = &mut self.world.vhost;
        vhost.route(exchange, key, headers, &mut channel.route.queues);
        let by_headers = vhost
            .exchange(exchange)
            .is_some_and(Exchange::looks_at_headers);
        channel.route.version = if by_headers { 0 } else { vhost.version() };
        channel.route.routing.clear();
        channel.route.routing.extend_from_slice(assembly.routing());
    }

    /// Hands the message to a direct reply-to consumer if its key is the address of one.
    fn reply_directly(&mut self) -> bool {
        let assembly = &self.channel.assembly;
        let (exchange, key) = split_routing(assembly.routing());
        if !exchange.is_empty() {
            return false;
        }
        let Some((peer, channel)) = self.world.reply_addresses.get(key).copied() else {
            return false;
        };
        let message = assembly.message(false, 1);
        let notice = super::world::Notice::Reply {
            peer,
            channel,
            message,
        };
        self.world.notices.push(notice);
        true
    }

    /// No queue takes it and the publisher wants to know (AMQP 0-9-1 §1.8.3.3).
    fn give_return(&mut self) {
        let (exchange, key) = split_routing(self.channel.assembly.routing());
        let method = basic::AMQPMethod::Return(basic::Return {
            reply_code: reply::NO_ROUTE,
            reply_text: reply::name(reply::NO_ROUTE).into(),
            exchange: exchange.into(),
            routing_key: key.into(),
        });
        self.say(AMQPClass::Basic(method));
        let assembly = &self.channel.assembly;
        wire::content(
            self.out.out(),
            self.number,
            self.terms.frame_max,
            assembly.properties(),
            assembly.body_so_far(),
        );
    }
}
