//! The message of the service `test.Echo`: `message Note { string text = 1; uint32 number = 2; }`, by hand.

/// `test.Note`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    pub text: String,
    pub number: u32,
}

impl Note {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Fields that have their default are left out, as prost does.
        if !self.text.is_empty() {
            bytes.push(1 << 3 | 2);
            varint(&mut bytes, self.text.len() as u64);
            bytes.extend_from_slice(self.text.as_bytes());
        }
        if self.number != 0 {
            bytes.push(2 << 3);
            varint(&mut bytes, self.number.into());
        }
        bytes
    }

    /// `None`: it is no such message.
    pub fn decode(mut bytes: &[u8]) -> Option<Note> {
        let mut note = Note::default();
        while !bytes.is_empty() {
            match take_varint(&mut bytes)? {
                0x0a => {
                    let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
                    let (text, rest) = bytes.split_at_checked(length)?;
                    note.text = String::from_utf8(text.to_vec()).ok()?;
                    bytes = rest;
                }
                0x10 => note.number = u32::try_from(take_varint(&mut bytes)?).ok()?,
                _ => return None,
            }
        }
        Some(note)
    }
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_written_and_read() {
        let note = Note { text: "hi".to_owned(), number: 300 };
        assert_eq!(note.encode(), [0x0a, 2, b'h', b'i', 0x10, 0xac, 0x02]);
        let long = Note { text: "x".repeat(1000), number: u32::MAX };
        for note in [note, long, Note::default()] {
            assert_eq!(Note::decode(&note.encode()), Some(note));
        }
        for wrong in [&[0x0a, 5, b'h'][..], &[0x10], &[0x1a, 0], &[0x0a, 1, 0xff], &[0x80; 11]] {
            assert_eq!(Note::decode(wrong), None);
        }
    }
}
