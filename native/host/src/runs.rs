//! Runs of TCP segments to super-packets: `coalesce` of `nic/offload.py` in easytier_host, where the rules are explained.
//!
//! Payloads are copied and never summed: each segment's checksum says what its payload must sum to, and from these follows the
//! checksum of the joined packet. What was corrupt stays so.

use std::collections::HashMap;

use wire::frames::VNET_HEADER;
use wire::sums::{ACK, FIN, PROTOCOL_TCP, PSH, be16, be32, put16, sum};

const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const MAX_SEGMENTS: usize = 64;
const MAX_PACKET: usize = 65_535;
/// Data offset, reserved bits and flags, and the flags that may differ within a run.
const OFFSET_FLAGS: usize = 12;
const FIN_PSH: u16 = (FIN | PSH) as u16;
const FLAGS: u16 = 0x0fff;
const MODULUS: u64 = 65_535;
/// IPv6 next headers, UDP and ICMPv6, behind which no TCP header can follow.
const WITHOUT_SEGMENTS: [u8; 2] = [17, 58];

/// A device frame to be written: one packet, or several joined ones.
pub struct Frame<'a> {
    packets: Vec<&'a [u8]>,
    joined: Option<Joined>,
}

/// What the headers of a super-packet need besides its first packet.
struct Joined {
    transport: usize,
    headers: usize,
    /// Payload bytes of each segment but the last.
    payload: usize,
    /// Of what differs between segments: packet size, sequence, flags, checksum.
    sum: u64,
    limit: usize,
}

impl Joined {
    fn new(packet: &[u8], transport: usize, headers: usize) -> Joined {
        let payload = packet.len() - headers;
        let limit = MAX_SEGMENTS.min((MAX_PACKET - headers) / payload);
        Joined { transport, headers, payload, sum: contribution(packet, transport), limit }
    }
}

/// The part of a segment's checksum equation that differs within a run.
fn contribution(packet: &[u8], transport: usize) -> u64 {
    packet.len() as u64
        + u64::from(be32(packet, transport + 4))
        + u64::from(be16(packet, transport + OFFSET_FLAGS))
        + u64::from(be16(packet, transport + 16))
}

impl<'a> Frame<'a> {
    fn plain(packet: &'a [u8]) -> Frame<'a> {
        Frame { packets: vec![packet], joined: None }
    }

    fn is_joined(&self) -> bool {
        self.packets.len() > 1
    }

    pub fn size(&self) -> usize {
        let headers = self.joined.as_ref().map_or(0, |joined| joined.headers);
        let repeated = headers * (self.packets.len() - 1);
        VNET_HEADER + self.packets.iter().map(|packet| packet.len()).sum::<usize>() - repeated
    }

    /// Write the frame into `target`, which has exactly the room for it.
    pub fn write(&self, target: &mut [u8]) {
        let (vnet, packet) = target.split_at_mut(VNET_HEADER);
        vnet.fill(0);
        match &self.joined {
            Some(joined) if self.is_joined() => self.write_joined(joined, vnet, packet),
            _ => packet.copy_from_slice(self.packets[0]),
        }
    }

    fn write_joined(&self, joined: &Joined, vnet: &mut [u8], target: &mut [u8]) {
        let (first, last) = (self.packets[0], self.packets[self.packets.len() - 1]);
        let &Joined { transport, headers, payload, .. } = joined;
        target[..headers].copy_from_slice(&first[..headers]);
        let mut rest = &mut target[headers..];
        for packet in &self.packets {
            let (part, more) = rest.split_at_mut(packet.len() - headers);
            part.copy_from_slice(&packet[headers..]);
            rest = more;
        }

        let size = target.len();
        let flags = be16(first, transport + OFFSET_FLAGS) | be16(last, transport + OFFSET_FLAGS) & FIN_PSH;
        if transport == 20 {
            put16(target, 2, size as u16);
            // Adjusted, not made anew: a wrong header checksum stays wrong.
            let adjusted = u64::from(be16(first, 10)) + first.len() as u64 + MODULUS - size as u64;
            put16(target, 10, (adjusted % MODULUS) as u16);
        } else {
            put16(target, 4, (size - 40) as u16);
        }
        put16(target, transport + OFFSET_FLAGS, flags);
        put16(target, transport + 16, self.checksum(joined, size, flags));

        vnet[1] = if transport == 20 { GSO_TCPV4 } else { GSO_TCPV6 };
        vnet[2..4].copy_from_slice(&(headers as u16).to_le_bytes());
        vnet[4..6].copy_from_slice(&(payload as u16).to_le_bytes());
    }

    /// A segment's payload sums to -(constant + its contribution) if its checksum is right; the joined checksum follows.
    fn checksum(&self, joined: &Joined, size: usize, flags: u16) -> u16 {
        let (first, transport) = (self.packets[0], joined.transport);
        let addresses = if transport == 20 { 12..20 } else { 8..40 };
        let tcp = &first[transport..joined.headers];
        let constant = [&first[addresses], &tcp[..4], &tcp[8..12], &tcp[18..]].map(|part| u64::from(sum(part)));
        let constant =
            constant.into_iter().sum::<u64>() + u64::from(be16(tcp, 14)) + u64::from(PROTOCOL_TCP) + MODULUS - transport as u64;
        let count = self.packets.len() as u64;
        let weight = count + if joined.payload % 2 == 1 { count / 2 * 255 } else { 0 };
        let without = constant + size as u64 + u64::from(be32(first, transport + 4)) + u64::from(flags);
        let total = joined.sum % MODULUS + weight % MODULUS * (constant % MODULUS) + MODULUS - without % MODULUS;
        (total % MODULUS) as u16
    }
}

/// The device frames of `packets`, in order; joined are segments to addresses for which `is_own` holds.
pub fn coalesce<'a, E>(
    packets: impl Iterator<Item = &'a [u8]>,
    mut is_own: impl FnMut(&[u8]) -> Result<bool, E>,
) -> Result<Vec<Frame<'a>>, E> {
    let mut frames: Vec<Frame> = Vec::new();
    // Addresses and ports -> the frame that the flow's next segment may join.
    let mut open: HashMap<&[u8], usize> = HashMap::new();
    for packet in packets {
        let Some(transport) = tcp_offset(packet) else {
            if packet.len() >= 40 && packet[0] != 0x45 && !WITHOUT_SEGMENTS.contains(&packet[6]) {
                // Options or extension headers may hide a segment of any open flow, which must not overtake it.
                open.clear();
            }
            frames.push(Frame::plain(packet));
            continue;
        };
        let flow = &packet[if transport == 20 { 12 } else { 8 }..transport + 4];
        if let Some(&index) = open.get(flow) {
            let frame = &mut frames[index];
            if frame.append(packet) {
                if frame.is_ended(packet) {
                    open.remove(flow);
                }
                continue;
            }
            open.remove(flow);
        }
        let mut frame = Frame::plain(packet);
        if let Some(headers) = joinable(packet, transport)
            && is_own(&packet[if transport == 20 { 16..20 } else { 24..40 }])?
        {
            let joined = Joined::new(packet, transport, headers);
            if joined.limit > 1 {
                open.insert(flow, frames.len());
            }
            frame.joined = Some(joined);
        }
        frames.push(frame);
    }
    Ok(frames)
}

impl<'a> Frame<'a> {
    /// Join the next packet of the same flow; false if it does not follow the last one in every respect.
    fn append(&mut self, packet: &'a [u8]) -> bool {
        let (first, count) = (self.packets[0], self.packets.len());
        let Some(joined) = &mut self.joined else { return false };
        let &mut Joined { transport, headers, payload, .. } = joined;
        // All but lengths, the identification of IPv4, sequence, FIN, PSH and checksums.
        let ip_agrees = if transport == 20 {
            packet[..2] == first[..2] && packet[6..10] == first[6..10]
        } else {
            packet[..4] == first[..4] && packet[6..8] == first[6..8]
        };
        let next = be32(first, transport + 4).wrapping_add((count * payload) as u32);
        let flags = be16(packet, transport + OFFSET_FLAGS) & !FIN_PSH;
        let follows = be32(packet, transport + 4) == next
            && flags == be16(first, transport + OFFSET_FLAGS)
            && packet[transport + 8..transport + 12] == first[transport + 8..transport + 12]
            && packet[transport + 14..transport + 16] == first[transport + 14..transport + 16]
            && (headers + 1..=first.len()).contains(&packet.len())
            && has_its_length(packet, transport)
            && packet[transport + 18..headers] == first[transport + 18..headers]
            && ip_agrees;
        if follows {
            // Behind an odd number of bytes the words of a payload straddle those of its own checksum: 256 x swaps them.
            let swapped = payload % 2 == 1 && count % 2 == 1;
            joined.sum += contribution(packet, transport) << if swapped { 8 } else { 0 };
            self.packets.push(packet);
        }
        follows
    }

    /// Whether nothing may follow `packet`, which was joined last.
    fn is_ended(&self, packet: &[u8]) -> bool {
        self.joined.as_ref().is_none_or(|joined| {
            packet.len() != self.packets[0].len()
                || be16(packet, joined.transport + OFFSET_FLAGS) & FIN_PSH != 0
                || self.packets.len() == joined.limit
        })
    }
}

/// Where the TCP header of a packet without options or extension headers begins.
fn tcp_offset(packet: &[u8]) -> Option<usize> {
    match packet.len() {
        40.. if packet[0] == 0x45 && packet[9] == PROTOCOL_TCP => Some(20),
        60.. if packet[0] >> 4 == 6 && packet[6] == PROTOCOL_TCP => Some(40),
        _ => None,
    }
}

fn has_its_length(packet: &[u8], transport: usize) -> bool {
    packet.len() == if transport == 20 { usize::from(be16(packet, 2)) } else { 40 + usize::from(be16(packet, 4)) }
}

/// The length of all headers, if a run may begin with this segment.
fn joinable(packet: &[u8], transport: usize) -> Option<usize> {
    let offset_flags = be16(packet, transport + OFFSET_FLAGS);
    let headers = transport + 4 * usize::from(offset_flags >> 12);
    let whole = transport == 40 || matches!(packet[6..8], [0x40 | 0, 0]);
    let fits = transport + 20 <= headers && headers < packet.len();
    (offset_flags & FLAGS == u16::from(ACK) && fits && has_its_length(packet, transport) && whole).then_some(headers)
}
