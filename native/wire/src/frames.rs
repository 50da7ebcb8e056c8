//! Device frames: a virtio-net header (Linux, include/uapi/linux/virtio_net.h; little endian), then an IP packet.
//!
//! ```text
//! 0 flags   1 gso type   2 header length u16   4 gso size u16   6 checksum start u16   8 checksum offset u16
//! ```
//!
//! What a kernel gives may be unfinished: the checksum, or the cutting of a super-packet into segments (TCP; UDP, RFC 768).

use crate::sums::{CWR, FIN, PROTOCOL_TCP, PSH, TCP_HEADER, be16, be32, fold, pseudo_sum, put16, sum};

pub const VNET_HEADER: usize = 10;
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

const PROTOCOL_UDP: u8 = 17;
const UDP_HEADER: usize = 8;

#[derive(Clone, Copy)]
struct VnetHeader {
    flags: u8,
    gso_type: u8,
    gso_size: u16,
    checksum_start: usize,
    checksum_offset: usize,
}

impl VnetHeader {
    fn parse(frame: &[u8]) -> Option<(VnetHeader, &[u8])> {
        let (header, packet) = frame.split_at_checked(VNET_HEADER)?;
        let le16 = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let header = VnetHeader {
            flags: header[0],
            gso_type: header[1],
            gso_size: le16(4),
            checksum_start: usize::from(le16(6)),
            checksum_offset: usize::from(le16(8)),
        };
        Some((header, packet))
    }
}

/// The packet of a device frame, and whether somebody vouches for its TCP checksum: the sender on this machine, or hardware.
pub fn open_frame(frame: &[u8]) -> Option<(&[u8], bool)> {
    let (header, packet) = VnetHeader::parse(frame)?;
    Some((packet, header.flags & (NEEDS_CSUM | DATA_VALID) != 0))
}

/// Make a device frame of the finished TCP packet behind `frame[VNET_HEADER..]`: its checksum becomes the partial one, and with
/// a `segment_size` it asks to be cut.
pub fn close_frame(frame: &mut [u8], segment_size: Option<u16>) {
    let (header, packet) = frame.split_at_mut(VNET_HEADER);
    let ipv4 = packet[0] >> 4 == 4;
    let start = if ipv4 { 4 * usize::from(packet[0] & 15) } else { 40 };
    let pseudo = pseudo_sum(packet, PROTOCOL_TCP, packet.len() - start);
    packet[start + 16..start + 18].copy_from_slice(&pseudo.to_be_bytes());

    header.fill(0);
    header[0] = NEEDS_CSUM;
    header[6..8].copy_from_slice(&(start as u16).to_le_bytes());
    header[8..10].copy_from_slice(&16u16.to_le_bytes());
    if let Some(size) = segment_size {
        let headers = start + 4 * usize::from(packet[start + 12] >> 4);
        header[1] = if ipv4 { GSO_TCPV4 } else { GSO_TCPV6 };
        header[2..4].copy_from_slice(&(headers as u16).to_le_bytes());
        header[4..6].copy_from_slice(&size.to_le_bytes());
    }
}

/// What is wrong with a device frame.
pub type Malformed = &'static str;

/// The packet of a device frame, whole, with its checksum complete.
pub fn complete_checksum(frame: &[u8]) -> Result<Vec<u8>, Malformed> {
    let (header, packet) = open_any(frame)?;
    let mut packet = packet.to_vec();
    if header.flags & NEEDS_CSUM != 0 {
        complete(&mut packet, header.checksum_start, header.checksum_offset)?;
    }
    Ok(packet)
}

/// The packets that a device frame stands for, of at most `mtu` bytes if it is a super-packet.
pub fn split_frame(frame: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, Malformed> {
    let (header, packet) = open_any(frame)?;
    if header.gso_type == GSO_NONE {
        return Ok(vec![complete_checksum(frame)?]);
    }
    let ipv4 = packet[0] >> 4 == 4;
    let (protocol, least) = match (header.gso_type & !GSO_ECN, ipv4) {
        (GSO_UDP_L4, _) => (PROTOCOL_UDP, UDP_HEADER),
        (GSO_TCPV4, true) | (GSO_TCPV6, false) => (PROTOCOL_TCP, TCP_HEADER),
        _ => return Err("segmentation type does not fit the IP version"),
    };
    let partial = header.flags & NEEDS_CSUM != 0;
    let transport = match (ipv4, partial) {
        (true, _) => 4 * usize::from(packet[0] & 15),
        (false, false) => 40,
        // Extension headers may lie between; the kernel has walked them.
        (false, true) => header.checksum_start,
    };
    let valid = if ipv4 {
        transport >= 20 && packet[9] == protocol && (!partial || header.checksum_start == transport)
    } else {
        transport >= 40 && (partial || packet[6] == protocol)
    };
    if !valid || packet.len() < transport + least {
        return Err("no transport header where it should be");
    }
    let header_size =
        transport + if protocol == PROTOCOL_UDP { UDP_HEADER } else { 4 * usize::from(packet[transport + 12] >> 4) };
    let size = usize::from(header.gso_size).min(mtu.saturating_sub(header_size));
    if header_size < transport + least || size == 0 || packet.len() <= header_size || packet.len() > 65_535 {
        return Err("the super-packet cannot be cut");
    }
    let checksum_at = transport + if protocol == PROTOCOL_UDP { 6 } else { 16 };
    let length = packet.len() - transport;
    // The pseudo-header's sum without the length, which differs from segment to segment.
    let pseudo = if partial {
        // The field holds it, with the right final destination even behind a routing header.
        fold(u64::from(be16(packet, checksum_at)) + u64::from(!(length as u16)))
    } else {
        let pseudo = pseudo_sum(packet, protocol, 0);
        if fold(u64::from(pseudo) + length as u64 + u64::from(sum(&packet[transport..]))) != 0xffff {
            return Err("wrong checksum");
        }
        pseudo
    };

    let (headers, payload) = packet.split_at(header_size);
    let count = payload.len().div_ceil(size);
    let mut packets = Vec::with_capacity(count);
    for (index, piece) in payload.chunks(size).enumerate() {
        let mut segment = Vec::with_capacity(header_size + piece.len());
        segment.extend_from_slice(headers);
        segment.extend_from_slice(piece);
        let length = segment.len();
        if ipv4 {
            put16(&mut segment, 2, length as u16);
            put16(&mut segment, 4, be16(headers, 4).wrapping_add(index as u16));
            put16(&mut segment, 10, 0);
            let checksum = !sum(&segment[..transport]);
            put16(&mut segment, 10, checksum);
        } else {
            put16(&mut segment, 4, (length - 40) as u16);
        }
        if protocol == PROTOCOL_TCP {
            let sequence = be32(headers, transport + 4).wrapping_add((index * size) as u32);
            segment[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            if index > 0 {
                segment[transport + 13] &= !CWR;
            }
            if index + 1 < count {
                segment[transport + 13] &= !(FIN | PSH);
            }
        } else {
            put16(&mut segment, transport + 4, (length - transport) as u16);
        }
        put16(&mut segment, checksum_at, 0);
        let total = u64::from(pseudo) + (length - transport) as u64 + u64::from(sum(&segment[transport..]));
        put_checksum(&mut segment, checksum_at, !fold(total));
        packets.push(segment);
    }
    Ok(packets)
}

fn open_any(frame: &[u8]) -> Result<(VnetHeader, &[u8]), Malformed> {
    let (header, packet) = VnetHeader::parse(frame).ok_or("too short for a device frame")?;
    let least = match packet.first().map(|byte| byte >> 4) {
        Some(4) => 20,
        Some(6) => 40,
        _ => return Err("not an IP packet"),
    };
    if packet.len() < least {
        return Err("too short for an IP packet");
    }
    Ok((header, packet))
}

/// Finish the checksum of all from `start` on, whose field holds the pseudo-header's sum.
fn complete(packet: &mut [u8], start: usize, offset: usize) -> Result<(), Malformed> {
    let field = start + offset;
    if start < 20 || field + 2 > packet.len() {
        return Err("checksum lies outside of the packet");
    }
    let checksum = !sum(&packet[start..]);
    put_checksum(packet, field, checksum);
    Ok(())
}

/// 0 would mean "none" to UDP; 0xffff is the same number to every protocol.
fn put_checksum(packet: &mut [u8], at: usize, checksum: u16) {
    put16(packet, at, if checksum == 0 { 0xffff } else { checksum });
}
