//! IP packets with TCP segments as bytes: what must be read from each of them before smoltcp sees it.
//!
//! Headers: RFC 791 (IPv4), 8200 (IPv6), 9293 (TCP).

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{TcpPacket, TcpRepr};
pub use wire::sums::{ACK, CWR, FIN, PROTOCOL_TCP, PSH, RST, SYN, TCP_HEADER, be16, be32, fold, pseudo_sum, put16, sum};

const DEFAULT_MSS: u16 = 536; // RFC 9293, 3.7.1

/// An address and a port.
pub type Endpoint = (IpAddr, u16);

/// The 4-tuple of a connection as this stack sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    pub local: Endpoint,
    pub remote: Endpoint,
}

impl Hash for Key {
    /// In few pieces: it is done for every packet, and the derived one costs twice as much.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        match (self.local.0, self.remote.0) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                hasher.write_u64(u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()));
            }
            (local, remote) => (local, remote).hash(hasher),
        }
        hasher.write_u32(u32::from(self.local.1) << 16 | u32::from(self.remote.1));
    }
}

/// A TCP segment that came in: its key, and the header fields that the flow table needs.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub key: Key,
    pub flags: u8,
    pub acknowledgement: u32,
    pub window: u16,
    pub payload: usize,
    /// Offset and end of the TCP segment in its packet.
    pub start: usize,
    pub end: usize,
}

impl Segment {
    /// The segment in `packet`. None for everything else: no TCP, malformed, fragments, extension headers, and addresses that a
    /// host must not answer.
    pub fn parse(packet: &[u8]) -> Option<Segment> {
        let (source, destination, start, end) = match packet.first()? >> 4 {
            4 => {
                let start = 4 * usize::from(packet[0] & 15);
                let header = packet.get(..20)?;
                let end = usize::from(be16(header, 2));
                // Any of more fragments, fragment offset; DF alone is fine.
                let fragment = be16(header, 6) & 0x3fff != 0;
                if start < 20 || header[9] != PROTOCOL_TCP || fragment {
                    return None;
                }
                (address(&header[12..16])?, address(&header[16..20])?, start, end)
            }
            6 => {
                let header = packet.get(..40)?;
                if header[6] != PROTOCOL_TCP {
                    return None;
                }
                let end = 40 + usize::from(be16(header, 4));
                (address(&header[8..24])?, address(&header[24..40])?, 40, end)
            }
            _ => return None,
        };
        if end > packet.len() || end < start + TCP_HEADER || !is_host(&source) || !is_host(&destination) {
            return None;
        }
        let tcp = &packet[start..end];
        let header = 4 * usize::from(tcp[12] >> 4);
        let (source_port, destination_port) = (be16(tcp, 0), be16(tcp, 2));
        if header < TCP_HEADER || header > tcp.len() || source_port == 0 || destination_port == 0 {
            return None;
        }
        Some(Segment {
            key: Key { local: (destination, destination_port), remote: (source, source_port) },
            flags: tcp[13],
            acknowledgement: be32(tcp, 8),
            window: be16(tcp, 14),
            payload: tcp.len() - header,
            start,
            end,
        })
    }

    /// Whether it begins a connection.
    pub fn is_first(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }

    /// The segment size that a SYN offers.
    pub fn mss(&self, packet: &[u8]) -> u16 {
        match self.option(packet, 2) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => DEFAULT_MSS,
        }
    }

    /// Whether smoltcp will understand it.
    pub fn is_well_formed(&self, packet: &[u8]) -> bool {
        let Key { local, remote } = self.key;
        let tcp = TcpPacket::new_checked(&packet[self.start..self.end]);
        tcp.is_ok_and(|tcp| TcpRepr::parse(&tcp, &remote.0.into(), &local.0.into(), &ChecksumCapabilities::ignored()).is_ok())
    }

    /// Whether it carries SACK blocks.
    pub fn has_sack(&self, packet: &[u8]) -> bool {
        self.option(packet, 5).is_some()
    }

    fn option<'a>(&self, packet: &'a [u8], wanted: u8) -> Option<&'a [u8]> {
        let mut rest = &packet[self.start + TCP_HEADER..self.end - self.payload];
        loop {
            match *rest {
                [] | [0, ..] => return None,
                [1, ..] => rest = &rest[1..],
                [kind, length, ..] => {
                    let option = rest.get(2..usize::from(length))?;
                    if kind == wanted {
                        return Some(option);
                    }
                    rest = &rest[usize::from(length)..];
                }
                [_] => return None,
            }
        }
    }

    /// Whether the checksums of its IP and TCP headers are right.
    pub fn is_intact(&self, packet: &[u8]) -> bool {
        let ip_intact = packet[0] >> 4 == 6 || sum(&packet[..self.start]) == 0xffff;
        let pseudo = pseudo_sum(packet, PROTOCOL_TCP, self.end - self.start);
        ip_intact && fold(u64::from(pseudo) + u64::from(sum(&packet[self.start..self.end]))) == 0xffff
    }
}

/// A packed address: 4 or 16 bytes.
pub fn address(packed: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(packed) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(packed).ok().map(|octets| Ipv6Addr::from(octets).into())
}

/// Whether a TCP connection to or from the address makes sense on a link: no broadcast, multicast, loopback or "this network".
pub fn is_host(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => !(address.is_unspecified() || address.is_loopback() || address.is_multicast()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(options: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&((40 + options.len()) as u16).to_be_bytes());
        packet[9] = PROTOCOL_TCP;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet[20..24].copy_from_slice(&[0, 1, 0, 2]);
        packet[32] = ((TCP_HEADER + options.len()) << 2) as u8;
        packet[33] = SYN;
        packet.extend_from_slice(options);
        packet
    }

    #[test]
    fn options_are_found_and_malformed_ones_end_the_search() {
        let mss = |options: &[u8]| {
            let packet = segment(options);
            Segment::parse(&packet).map(|segment| segment.mss(&packet))
        };
        assert_eq!(mss(&[2, 4, 5, 0xb4]), Some(1460));
        assert_eq!(mss(&[1, 1, 1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 4, 1, 0]), Some(256));
        for absent in [&[][..], &[0, 0, 0, 0], &[2, 3, 5, 0], &[2, 0, 5, 0xb4], &[2, 5, 5, 0xb4], &[1, 1, 1, 2], &[9, 1, 2, 4]]
        {
            assert_eq!(mss(absent), Some(DEFAULT_MSS), "{absent:?}");
        }
    }

    #[test]
    fn hosts_are_told_from_what_must_not_be_answered() {
        for text in ["10.0.0.1", "192.168.1.255", "223.255.255.255", "fe80::1", "fd00::1", "2001:db8::1"] {
            assert!(is_host(&text.parse().unwrap()), "{text}");
        }
        for text in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"] {
            assert!(!is_host(&text.parse().unwrap()), "{text}");
        }
    }
}
