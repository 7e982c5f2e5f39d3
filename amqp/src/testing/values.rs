//! Random values of AMQP's types.

use super::Random;
use crate::protocol::{AMQPValue, BasicProperties, FieldArray, FieldTable, ShortString};

impl Random {
    pub(crate) fn flag(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub(crate) fn text(&mut self) -> String {
        let len = if self.below(20) == 0 {
            255
        } else {
            self.below(24)
        };
        (0..len)
            .map(|_| char::from(b' ' + self.below(95) as u8))
            .collect()
    }

    pub(crate) fn short(&mut self) -> ShortString {
        self.text().into()
    }

    pub(crate) fn table(&mut self, depth: u32) -> FieldTable {
        let mut table = FieldTable::default();
        for _ in 0..self.below(5) {
            let (key, value) = (self.short(), self.value(depth));
            table.insert(key, value);
        }
        table
    }

    pub(crate) fn value(&mut self, depth: u32) -> AMQPValue {
        let kinds = if depth == 0 { 14 } else { 16 };
        match self.below(kinds) {
            0 => AMQPValue::Boolean(self.flag()),
            1 => AMQPValue::ShortShortInt(self.next() as i8),
            2 => AMQPValue::ShortShortUInt(self.next() as u8),
            3 => AMQPValue::ShortInt(self.next() as i16),
            4 => AMQPValue::ShortUInt(self.next() as u16),
            5 => AMQPValue::LongInt(self.next() as i32),
            6 => AMQPValue::LongUInt(self.next() as u32),
            7 => AMQPValue::LongLongInt(self.next() as i64),
            8 => AMQPValue::Float(self.below(1000) as f32 / 8.0),
            9 => AMQPValue::Double(self.below(1_000_000) as f64 / 8.0),
            10 => AMQPValue::LongString(self.text().into()),
            11 => AMQPValue::Timestamp(self.next()),
            12 => AMQPValue::ByteArray(self.text().into_bytes().into()),
            13 => AMQPValue::Void,
            14 => AMQPValue::FieldTable(self.table(depth - 1)),
            _ => {
                let mut array = FieldArray::default();
                for _ in 0..self.below(4) {
                    array.push(self.value(depth - 1));
                }
                AMQPValue::FieldArray(array)
            }
        }
    }

    pub(crate) fn properties(&mut self) -> BasicProperties {
        let mut p = BasicProperties::default();
        macro_rules! maybe {
            ($with:ident, $value:expr) => {
                if self.below(3) == 0 {
                    p = p.$with($value);
                }
            };
        }
        maybe!(with_content_type, self.short());
        maybe!(with_content_encoding, self.short());
        maybe!(with_headers, self.table(3));
        maybe!(with_delivery_mode, self.next() as u8);
        maybe!(with_priority, self.next() as u8);
        maybe!(with_correlation_id, self.short());
        maybe!(with_reply_to, self.short());
        maybe!(with_expiration, self.short());
        maybe!(with_message_id, self.short());
        maybe!(with_timestamp, self.next());
        maybe!(with_type, self.short());
        maybe!(with_user_id, self.short());
        maybe!(with_app_id, self.short());
        maybe!(with_cluster_id, self.short());
        p
    }
}
