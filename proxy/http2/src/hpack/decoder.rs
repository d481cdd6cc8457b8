//! Header blocks of a client, decoded with its dynamic table.

use std::collections::VecDeque;
use std::rc::Rc;

use super::huffman;
use super::static_table::STATIC;

/// The size of the dynamic table, bytes: the protocol's default, which is never raised.
const TABLE: usize = 4096;
/// What an entry counts beyond its texts (RFC 7541 section 4.1).
const OVERHEAD: usize = 32;

/// The block cannot be decoded, and no later one either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadBlock;

/// A decoded field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: &'a [u8],
    /// Whether name and value are made of what RFC 9113 section 8.2.1 and RFC 9110 section 5.5 allow.
    pub(crate) sound: bool,
}

/// A client's side of the compression.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    /// What the client has chosen, up to [`TABLE`].
    limit: usize,
    /// Space for strings under Huffman's code.
    name: Vec<u8>,
    value: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Entry {
    name: Name,
    value: Rc<[u8]>,
    sound: bool,
}

#[derive(Clone, Debug)]
enum Name {
    Known(&'static str),
    Own(Rc<str>),
}

impl Name {
    fn text(&self) -> &str {
        match self {
            Self::Known(text) => text,
            Self::Own(text) => text,
        }
    }
}

impl Entry {
    fn field(&self) -> Field<'_> {
        Field { name: self.name.text(), value: &self.value, sound: self.sound }
    }

    fn size(&self) -> usize {
        self.name.text().len() + self.value.len() + OVERHEAD
    }
}

impl Default for Decoder {
    fn default() -> Self {
        let (name, value) = (Vec::new(), Vec::new());
        Self { entries: VecDeque::new(), size: 0, limit: TABLE, name, value }
    }
}

impl Decoder {
    /// Visits every field of a whole block. Of fields that nobody wants the table is kept up to date all the same.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        mut visit: impl FnMut(Field<'_>),
    ) -> Result<(), BadBlock> {
        let mut at_start = true;
        while let Some(first) = block.first().copied() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                match index.checked_sub(1).ok_or(BadBlock)? {
                    fixed @ ..61 => {
                        let (name, value) = STATIC[fixed];
                        visit(Field { name, value: value.as_bytes(), sound: true });
                    }
                    own => visit(self.entries.get(own - 61).ok_or(BadBlock)?.field()),
                }
            } else if first & 0x40 != 0 {
                let index = integer(&mut block, 6)?;
                let entry = self.literal(index, &mut block)?;
                visit(entry.field());
                self.insert(entry);
            } else if first & 0x20 != 0 {
                let size = integer(&mut block, 5)?;
                if !at_start || size > TABLE {
                    return Err(BadBlock);
                }
                self.limit = size;
                self.shrink(size);
                continue;
            } else {
                let index = integer(&mut block, 4)?;
                self.passing(index, &mut block, &mut visit)?;
            }
            at_start = false;
        }
        Ok(())
    }

    /// Frees space that the next block will ask for again; the table stays.
    pub(crate) fn let_go(&mut self) {
        (self.name, self.value) = (Vec::new(), Vec::new());
    }

    /// A field that does not enter the table.
    fn passing(
        &mut self,
        index: usize,
        block: &mut &[u8],
        visit: &mut impl FnMut(Field<'_>),
    ) -> Result<(), BadBlock> {
        let Self { entries, name, value, .. } = self;
        let (name, named) = match index.checked_sub(1) {
            None => {
                let name = string(block, name)?;
                (std::str::from_utf8(name).unwrap_or_default(), is_name(name))
            }
            Some(fixed @ ..61) => (STATIC[fixed].0, true),
            Some(own) => {
                let entry = entries.get(own - 61).ok_or(BadBlock)?;
                (entry.name.text(), is_name(entry.name.text().as_bytes()))
            }
        };
        let value = string(block, value)?;
        visit(Field { name, value, sound: named && is_value(value) });
        Ok(())
    }

    /// A field that enters the table.
    fn literal(&mut self, index: usize, block: &mut &[u8]) -> Result<Entry, BadBlock> {
        let (name, named) = match index.checked_sub(1) {
            None => {
                let name = string(block, &mut self.name)?;
                let text = std::str::from_utf8(name).unwrap_or_default();
                (Name::Own(text.into()), is_name(name))
            }
            Some(fixed @ ..61) => (Name::Known(STATIC[fixed].0), true),
            Some(own) => {
                let name = self.entries.get(own - 61).ok_or(BadBlock)?.name.clone();
                let named = is_name(name.text().as_bytes());
                (name, named)
            }
        };
        let value = string(block, &mut self.value)?;
        Ok(Entry { name, value: value.into(), sound: named && is_value(value) })
    }

    /// An entry larger than the table empties it.
    fn insert(&mut self, entry: Entry) {
        let size = entry.size();
        self.shrink(self.limit.saturating_sub(size));
        if size <= self.limit {
            self.size += size;
            self.entries.push_front(entry);
        }
    }

    fn shrink(&mut self, to: usize) {
        while self.size > to
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.size();
        }
    }
}

/// An integer whose first byte gives `bits` bits to it (RFC 7541 section 5.1).
fn integer(block: &mut &[u8], bits: u32) -> Result<usize, BadBlock> {
    /// More than any index or length that is good for something.
    const MOST: usize = 1 << 28;
    let (first, mut rest) = block.split_first().ok_or(BadBlock)?;
    let full = (1 << bits) - 1;
    let mut value = usize::from(*first) & full;
    if value == full {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first().ok_or(BadBlock)?;
            rest = after;
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if value > MOST || shift > 28 {
                return Err(BadBlock);
            }
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// A string, in `space` if it had to be decoded.
fn string<'s, 'b: 's>(block: &mut &'b [u8], space: &'s mut Vec<u8>) -> Result<&'s [u8], BadBlock> {
    let coded = block.first().ok_or(BadBlock)? & 0x80 != 0;
    let len = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(len).ok_or(BadBlock)?;
    *block = rest;
    if !coded {
        return Ok(text);
    }
    space.clear();
    huffman::decode(text, space).map_err(|_| BadBlock)?;
    Ok(space)
}

/// A token of RFC 9110 in lower case, or a pseudo field's name.
fn is_name(name: &[u8]) -> bool {
    let rest = name.strip_prefix(b":").unwrap_or(name);
    !rest.is_empty() && rest.iter().all(|byte| CLASSES[usize::from(*byte)] & NAME != 0)
}

/// No control bytes but tabs, and no white space around it.
fn is_value(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| byte.is_some_and(|b| matches!(b, b' ' | b'\t'));
    let legal = |any: u8, byte: &u8| any | (CLASSES[usize::from(*byte)] & BARRED);
    value.iter().fold(0, legal) == 0 && !blank(value.first()) && !blank(value.last())
}

const NAME: u8 = 1;
const BARRED: u8 = 2;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let marks = b"!#$%&'*+-.^_`|~";
    let mut i = 0;
    while i < marks.len() {
        classes[marks[i] as usize] = NAME;
        i += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        if (byte as u8).is_ascii_lowercase() || (byte as u8).is_ascii_digit() {
            classes[byte] = NAME;
        }
        if (byte < 0x20 && byte != b'\t' as usize) || byte == 0x7f {
            classes[byte] = BARRED;
        }
        byte += 1;
    }
    classes
};

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
