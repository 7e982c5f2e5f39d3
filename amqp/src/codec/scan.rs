//! A look at tables before anything is built from them.
//!
//! amq-protocol's table parser recurses: 8,000 nested tables in 40 KB overflow the stack and abort the process.
//! So every table a peer sends is walked here first, without recursion or allocation, and refused when it is
//! nested deeper than [`MAX_TABLE_DEPTH`], holds more than [`MAX_TABLE_VALUES`] values, or is cut short.

use super::wire::{Cursor, Short};

/// How deep tables and arrays may be nested (our choice; real messages use two or three levels).
pub const MAX_TABLE_DEPTH: usize = 32;

/// How many values one table may hold, all levels together (our choice). A value can cost two bytes on the wire
/// and about a hundred in memory, so this bounds the memory a table can take.
pub const MAX_TABLE_VALUES: usize = 8192;

/// Why a table was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableError {
    Malformed,
    TooDeep,
    TooMany,
}

impl From<Short> for TableError {
    fn from(_: Short) -> Self {
        TableError::Malformed
    }
}

/// One open table or array: how many bytes of the input were left when it ends.
#[derive(Clone, Copy, Default)]
struct Level {
    ends_at: usize,
    is_table: bool,
}

/// Checks the table at the start of `cursor` and moves past it.
pub(crate) fn skip_table(cursor: &mut Cursor<'_>) -> Result<(), TableError> {
    let mut levels = [Level::default(); MAX_TABLE_DEPTH];
    let mut depth = 0;
    let mut values = 0;
    enter(cursor, &mut levels, &mut depth, true)?;
    while depth > 0 {
        let level = levels[depth - 1];
        let left = cursor.rest().len();
        if left == level.ends_at {
            depth -= 1;
            continue;
        }
        values += 1;
        if values > MAX_TABLE_VALUES {
            return Err(TableError::TooMany);
        }
        if level.is_table {
            std::str::from_utf8(cursor.short_bytes()?).map_err(|_| TableError::Malformed)?;
        }
        let kind = cursor.u8()?;
        match kind {
            b'F' | b'A' => enter(cursor, &mut levels, &mut depth, kind == b'F')?,
            _ => skip_value(cursor, kind)?,
        }
        // A value that reaches over the end of its table is malformed, even if the frame has bytes left.
        if cursor.rest().len() < level.ends_at {
            return Err(TableError::Malformed);
        }
    }
    Ok(())
}

fn enter(
    cursor: &mut Cursor<'_>,
    levels: &mut [Level; MAX_TABLE_DEPTH],
    depth: &mut usize,
    is_table: bool,
) -> Result<(), TableError> {
    let len = cursor.u32()? as usize;
    let ends_at = cursor
        .rest()
        .len()
        .checked_sub(len)
        .ok_or(TableError::Malformed)?;
    let level = levels.get_mut(*depth).ok_or(TableError::TooDeep)?;
    *level = Level { ends_at, is_table };
    *depth += 1;
    Ok(())
}

/// The types RabbitMQ knows, with its meaning of the letters (`s` is a 16-bit number).
fn skip_value(cursor: &mut Cursor<'_>, kind: u8) -> Result<(), TableError> {
    match kind {
        b'V' => {}
        b't' | b'b' | b'B' => drop(cursor.take(1)?),
        b's' | b'U' | b'u' => drop(cursor.take(2)?),
        b'I' | b'i' | b'f' => drop(cursor.take(4)?),
        b'D' => drop(cursor.take(5)?),
        b'L' | b'l' | b'd' | b'T' => drop(cursor.take(8)?),
        b'S' | b'x' => drop(cursor.long_bytes()?),
        _ => return Err(TableError::Malformed),
    }
    Ok(())
}

/// What stands before the table in a method's arguments.
enum Field {
    Bytes(usize),
    ShortString,
}
use Field::{Bytes, ShortString};

/// The fields before the table, for each method that carries one (AMQP 0-9-1 §1.2 and RabbitMQ's extensions).
fn before_table(class: u16, method: u16) -> Option<&'static [Field]> {
    Some(match (class, method) {
        (10, 10) => &[Bytes(2)],
        (10, 11) => &[],
        (40, 10) => &[Bytes(2), ShortString, ShortString, Bytes(1)],
        (40, 30 | 40) => &[Bytes(2), ShortString, ShortString, ShortString, Bytes(1)],
        (50, 10) => &[Bytes(2), ShortString, Bytes(1)],
        (50, 20) => &[Bytes(2), ShortString, ShortString, ShortString, Bytes(1)],
        (50, 50) => &[Bytes(2), ShortString, ShortString, ShortString],
        (60, 20) => &[Bytes(2), ShortString, ShortString, Bytes(1)],
        _ => return None,
    })
}

/// Checks the table of a method, if it carries one. `arguments` is the payload after class and method id.
pub(crate) fn check_method(class: u16, method: u16, arguments: &[u8]) -> Result<(), TableError> {
    let Some(fields) = before_table(class, method) else {
        return Ok(());
    };
    let mut cursor = Cursor::new(arguments);
    for field in fields {
        match field {
            Bytes(count) => drop(cursor.take(*count)?),
            ShortString => drop(cursor.short_bytes()?),
        }
    }
    skip_table(&mut cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0];
        for _ in 1..levels {
            let mut outer = ((bytes.len() + 3) as u32).to_be_bytes().to_vec();
            outer.extend_from_slice(&[1, b'k', b'F']);
            outer.extend_from_slice(&bytes);
            bytes = outer;
        }
        bytes
    }

    fn scan(bytes: &[u8]) -> Result<usize, TableError> {
        let mut cursor = Cursor::new(bytes);
        skip_table(&mut cursor).map(|()| cursor.rest().len())
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(scan(&nested(MAX_TABLE_DEPTH)), Ok(0));
        assert_eq!(scan(&nested(MAX_TABLE_DEPTH + 1)), Err(TableError::TooDeep));
        assert_eq!(scan(&nested(8000)), Err(TableError::TooDeep));
    }

    #[test]
    fn count_is_bounded() {
        let table = |count: usize| {
            let mut bytes = ((count * 2) as u32).to_be_bytes().to_vec();
            bytes.extend(std::iter::repeat_n([0, b'V'], count).flatten());
            bytes
        };
        assert_eq!(scan(&table(MAX_TABLE_VALUES)), Ok(0));
        assert_eq!(scan(&table(MAX_TABLE_VALUES + 1)), Err(TableError::TooMany));
    }

    #[test]
    fn a_value_may_not_reach_over_the_end_of_its_table() {
        // A table of three bytes whose value takes four more, which the frame does have.
        let bytes = [0, 0, 0, 3, 1, b'k', b'I', 0, 0, 0, 7];
        assert_eq!(scan(&bytes), Err(TableError::Malformed));
        assert_eq!(scan(&[0, 0, 0, 9]), Err(TableError::Malformed));
        assert_eq!(
            scan(&[0, 0, 0, 3, 1, b'k', b'?']),
            Err(TableError::Malformed)
        );
    }
}
