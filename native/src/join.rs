//! Super-packets for IPv6: smoltcp makes them for IPv4 only, so the segments it gives out one after the other are put together.

use crate::frames::{VNET_HEADER, close_frame};
use crate::packets::{ACK, FIN, PSH, be32, put16};

const IPV6_HEADER: usize = 40;
const FLAGS: usize = IPV6_HEADER + 13;

/// How a packet goes on with the device frame before it.
pub struct Joint {
    /// Bytes before the payload of the packet.
    pub headers: usize,
    segment: u16,
    flags: u8,
}

impl Joint {
    /// Some if `next`, a TCP packet, continues the data of `frame` with the same headers, no earlier segment was shorter than the
    /// first or carried PSH or FIN, and the whole stays within `largest` bytes.
    pub fn of(frame: &[u8], next: &[u8], largest: usize) -> Option<Joint> {
        let last = frame.get(VNET_HEADER..)?;
        if last.first()? >> 4 != 6 || next.first()? >> 4 != 6 || last.len() <= FLAGS || next.len() <= FLAGS {
            return None;
        }
        let headers = IPV6_HEADER + 4 * usize::from(last[52] >> 4);
        let (size, payload) = (last.len().checked_sub(headers)?, next.len().checked_sub(headers)?);
        let asked = u16::from_le_bytes([frame[4], frame[5]]);
        let segment = if asked > 0 { asked } else { size as u16 };
        // All but payload length, sequence number, flags and checksum.
        let same = [0..4, 6..44, 48..53, 54..56, 58..headers].into_iter().all(|part| last[part.clone()] == next[part]);
        let continues = be32(next, 44) == be32(last, 44).wrapping_add(size as u32);
        let open = size > 0 && size.is_multiple_of(usize::from(segment)) && last[FLAGS] == ACK;
        let fits = payload > 0 && payload <= usize::from(segment) && last.len() + payload <= largest;
        let flags = next[FLAGS];
        let plain = flags & !(PSH | FIN) == ACK;
        (same && continues && open && fits && plain).then_some(Joint { headers, segment, flags })
    }

    /// Make the headers of `frame` right, to which the payload was appended.
    pub fn close(&self, frame: &mut [u8]) {
        let length = frame.len() - VNET_HEADER - IPV6_HEADER;
        put16(frame, VNET_HEADER + 4, length as u16);
        frame[VNET_HEADER + FLAGS] |= self.flags;
        close_frame(frame, Some(self.segment));
    }
}
