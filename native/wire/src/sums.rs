//! Fields of IP and TCP headers, and checksums: ones'-complement sums, RFC 1071.
//!
//! Headers: RFC 791 (IPv4), 8200 (IPv6), 9293 (TCP).

pub const PROTOCOL_TCP: u8 = 6;
pub const TCP_HEADER: usize = 20;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const CWR: u8 = 0x80;

/// The sum of the pseudo-header of an IP packet whose transport part has `length` bytes.
pub fn pseudo_sum(packet: &[u8], protocol: u8, length: usize) -> u16 {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    fold(u64::from(sum(addresses)) + u64::from(protocol) + length as u64)
}

/// The ones'-complement sum of `data`, an odd last byte being padded with a zero.
pub fn sum(data: &[u8]) -> u16 {
    let (words, rest) = data.as_chunks::<4>();
    // Native order: the sum of swapped words is the swapped sum (RFC 1071, 2.B), and the loop becomes vector instructions.
    let mut total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(last));
    u16::from_be_bytes(fold(total).to_ne_bytes())
}

pub fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

pub fn be16(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([data[at], data[at + 1]])
}

pub fn be32(data: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

pub fn put16(data: &mut [u8], at: usize, value: u16) {
    data[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word_by_word(data: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in data.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn sums_are_those_of_words() {
        let data: Vec<u8> = (0..3000u32).map(|number| ((number * number) >> 3) as u8).collect();
        for start in 0..9 {
            for end in [start, start + 1, start + 2, start + 3, start + 4, start + 7, 1000, 2999, 3000] {
                assert_eq!(sum(&data[start..end]), word_by_word(&data[start..end]), "{start}..{end}");
            }
        }
        assert_eq!(sum(&[0xff; 70_000]), 0xffff);
        assert_eq!(sum(&[0; 70_000]), 0);
    }
}
