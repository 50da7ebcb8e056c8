//! Whatever bytes come: no panic, nothing lost, nothing opened that was not sealed.

use std::convert::Infallible;

use host_native::aead::{Aead, PEER_HEADER, TAIL};
use host_native::runs::coalesce;
use wire::frames::{VNET_HEADER, split_frame};
use wire::sums::be32;

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

fn rounds() -> usize {
    std::env::var("FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// A segment near to what is valid, so that the later checks are reached.
fn segment(random: &mut Random, sequence: u32, payload: usize) -> Vec<u8> {
    let transport = [20, 40][random.below(2)];
    let mut packet = vec![0; transport + 20];
    packet.extend(random.bytes(payload));
    let length = packet.len();
    if transport == 20 {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet[6] = 0x40;
        packet[9] = 6;
    } else {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        packet[6] = 6;
    }
    packet[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
    packet[transport + 12] = 0x50;
    packet[transport + 13] = 0x10;
    packet
}

#[test]
fn damaged_segments_are_joined_without_loss() {
    let mut random = Random(7);
    let mut joined = 0;
    for _ in 0..rounds() * 300 {
        let payload = [1, 2, 999, 1000][random.below(4)];
        let mut packets = Vec::new();
        for index in 0..random.below(90) {
            let mut packet = segment(&mut random, (index * payload) as u32, payload);
            if random.below(20) == 0 {
                let at = random.below(packet.len().min(70));
                packet[at] = random.below(256) as u8;
            }
            if random.below(30) == 0 {
                packet.truncate(random.below(packet.len() + 1));
            }
            packets.push(packet);
        }
        let frames = coalesce(packets.iter().map(Vec::as_slice), |_| Ok::<_, Infallible>(true)).unwrap();
        let mut whole = 0;
        for frame in &frames {
            let mut target = vec![0xaa; frame.size()];
            frame.write(&mut target);
            if target[1] == 0 {
                whole += target.len() - VNET_HEADER;
            } else {
                joined += 1;
                let headers = usize::from(u16::from_le_bytes([target[2], target[3]]));
                let size = usize::from(u16::from_le_bytes([target[4], target[5]]));
                let bytes = target.len() - VNET_HEADER - headers;
                whole += bytes + headers * bytes.div_ceil(size);
            }
        }
        assert_eq!(whole, packets.iter().map(Vec::len).sum::<usize>());
    }
    assert!(joined > 100, "tests nothing");
}

#[test]
fn what_is_joined_comes_apart_again() {
    let mut random = Random(3);
    let packets: Vec<_> = (0..40u32).map(|index| segment(&mut Random(5), index * 1000, 1000)).collect();
    let frames = coalesce(packets.iter().map(Vec::as_slice), |_| Ok::<_, Infallible>(true)).unwrap();
    assert_eq!(frames.len(), 1);
    let mut target = vec![0; frames[0].size()];
    frames[0].write(&mut target);
    // The kernel's part: it has verified the checksum, and asks for new ones.
    target[0] = 1;
    let transport = if packets[0][0] == 0x45 { 20 } else { 40 };
    target[6] = transport as u8;
    target[8] = 16;
    let pieces = split_frame(&target, 1500).unwrap();
    let sequences: Vec<_> = pieces.iter().map(|piece| be32(piece, transport + 4)).collect();
    assert_eq!(sequences, (0..40).map(|index| index * 1000).collect::<Vec<_>>());
    assert!(split_frame(&random.bytes(30), 1500).is_err());
}

#[test]
fn only_what_was_sealed_is_opened() {
    let mut random = Random(11);
    for (algorithm, size) in [("aes-gcm", 16), ("aes-256-gcm", 32), ("chacha20", 32)] {
        let aead = Aead::new(algorithm, &random.bytes(size)).unwrap();
        assert!(Aead::new(algorithm, &random.bytes(size + 1)).is_none());
        for _ in 0..rounds() * 50 {
            let length = random.below(1500);
            let payload = random.bytes(length);
            let mut frame = vec![0; PEER_HEADER + length + TAIL];
            aead.seal(&[1; 12], &payload, [2; 12], &mut frame);
            let mut opened = vec![0; Aead::opened_size(&frame).unwrap()];
            assert!(aead.open(&frame, &mut opened));
            assert_eq!(opened, payload);

            let at = PEER_HEADER + random.below(frame.len() - PEER_HEADER);
            frame[at] ^= 1 << random.below(8);
            assert!(!aead.open(&frame, &mut opened));
            frame.truncate(random.below(frame.len()));
            if let Some(size) = Aead::opened_size(&frame) {
                assert!(!aead.open(&frame, &mut vec![0; size]));
            }
        }
    }
    assert!(Aead::new("xor", &[0; 16]).is_none());
}
