//! The receive buffer: packets lie in it whole, and stay where they are while
//! they are looked at. Pure: no I/O.

use bytes::{Buf, BytesMut};

use super::packet::{CHUNK_BYTES, HEADER_BYTES};
use crate::error::{Error, Result};

/// What one read from the socket asks for.
const READ_BYTES: usize = 256 << 10;
/// A buffer above this, left behind by a big packet, is given back.
const BYTES_KEPT: usize = 8 << 20;
/// The largest max_allowed_packet there is, and room for the headers of an event that big.
const PACKET_BYTES_MAX: usize = (1 << 30) + (1 << 20);

/// A packet that lies whole in the receive buffer.
#[derive(Clone, Copy)]
pub struct Frame {
    /// Length with its header.
    len: usize,
}

impl Frame {
    /// Length without its header.
    pub fn payload_len(self) -> usize {
        self.len - HEADER_BYTES
    }
}

pub struct Frames {
    buffer: BytesMut,
    front: Option<Front>,
    sequence: u8,
}

/// The packet at the front, as far as it is known.
#[derive(Clone, Copy)]
struct Front {
    /// Where its chunks so far end.
    end: usize,
    /// Another chunk follows.
    more: bool,
}

impl Frames {
    pub fn new() -> Self {
        Self {
            buffer: BytesMut::with_capacity(2 * READ_BYTES),
            front: None,
            sequence: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The number of the last packet.
    pub fn sequence(&self) -> u8 {
        self.sequence
    }

    /// The packet at the front, if it is there whole. The headers of its
    /// further chunks, if it came in several, are cut out.
    pub fn whole(&mut self) -> Result<Option<Frame>> {
        loop {
            let at = match self.front {
                None => 0,
                Some(front) if self.buffer.len() < front.end => return Ok(None),
                Some(Front { end, more: false }) => return Ok(Some(Frame { len: end })),
                Some(Front { end, more: true }) => end,
            };
            let Some([a, b, c, sequence]) = self.buffer.get(at..).and_then(<[u8]>::first_chunk).copied() else {
                return Ok(None);
            };
            let len = u32::from_le_bytes([a, b, c, 0]) as usize;
            let end = if at == 0 { HEADER_BYTES + len } else { at + len };
            if end > PACKET_BYTES_MAX {
                return Err(Error::transient(
                    "the server sent a packet of more than 1 GiB, which no max_allowed_packet allows",
                ));
            }
            if at > 0 {
                self.buffer.copy_within(at + HEADER_BYTES.., at);
                self.buffer.truncate(self.buffer.len() - HEADER_BYTES);
            }
            self.sequence = sequence;
            self.front = Some(Front {
                end,
                more: len == CHUNK_BYTES,
            });
        }
    }

    /// The bytes of the packet that [`Frames::whole`] returned.
    pub fn payload(&self, frame: Frame) -> &[u8] {
        self.buffer.get(HEADER_BYTES..frame.len).unwrap_or_default()
    }

    pub fn consume(&mut self, frame: Frame) {
        self.front = None;
        self.buffer.advance(frame.len);
    }

    /// The buffer, with room for a read.
    pub fn room(&mut self) -> &mut BytesMut {
        let missing = self
            .front
            .map_or(0, |front| front.end.saturating_sub(self.buffer.len()));
        self.buffer.reserve(READ_BYTES.max(missing));
        if self.buffer.capacity() > BYTES_KEPT && self.buffer.len() + missing < READ_BYTES {
            let mut small = BytesMut::with_capacity(2 * READ_BYTES);
            small.extend_from_slice(&self.buffer);
            self.buffer = small;
        }
        &mut self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Payloads as the server frames them.
    fn stream(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for payload in payloads {
            let mut chunks: Vec<&[u8]> = payload.chunks(CHUNK_BYTES).collect();
            if payload.len().is_multiple_of(CHUNK_BYTES) {
                chunks.push(&[]);
            }
            for (i, chunk) in chunks.into_iter().enumerate() {
                out.extend_from_slice(&(chunk.len() as u32).to_le_bytes()[..3]);
                out.push(i as u8);
                out.extend_from_slice(chunk);
            }
        }
        out
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    #[track_caller]
    fn check(lens: &[usize], read: usize) {
        let payloads: Vec<_> = lens.iter().map(|len| pattern(*len)).collect();
        let mut frames = Frames::new();
        let mut found = 0;
        for piece in stream(&payloads).chunks(read) {
            frames.room().extend_from_slice(piece);
            while let Some(frame) = frames.whole().expect("frame") {
                // Asked twice, it answers the same.
                let again = frames.whole().expect("frame").expect("still there");
                assert_eq!(again.payload_len(), frame.payload_len());
                assert!(frames.payload(frame) == payloads[found], "{lens:?} by {read}");
                frames.consume(frame);
                found += 1;
            }
        }
        assert_eq!(found, lens.len());
        assert!(frames.is_empty());
    }

    #[test]
    fn packets_come_out_whole_however_they_arrive() {
        for read in [1, 2, 3, 7, 1000] {
            check(&[0, 1, 5, 0, 300, 2], read);
        }
        for read in [1 << 20, usize::MAX] {
            check(&[3, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 4], read);
        }
        check(&[2 * CHUNK_BYTES, 4], 65_536);
    }

    #[test]
    fn a_big_packet_does_not_keep_its_memory() {
        let mut frames = Frames::new();
        frames
            .room()
            .extend_from_slice(&stream(&[pattern(3 * CHUNK_BYTES), pattern(10)]));
        for _ in 0..2 {
            let frame = frames.whole().expect("frame").expect("whole");
            frames.consume(frame);
        }
        assert!(frames.room().capacity() <= BYTES_KEPT);
    }

    #[test]
    fn a_packet_without_end_is_refused() {
        let mut frames = Frames::new();
        frames.front = Some(Front {
            end: PACKET_BYTES_MAX - 1,
            more: true,
        });
        frames.buffer = BytesMut::zeroed(PACKET_BYTES_MAX + 3);
        frames.buffer[PACKET_BYTES_MAX - 1] = 2;
        assert!(frames.whole().is_err());
    }
}
