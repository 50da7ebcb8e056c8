//! Device frames: malformed, or packets of no more than the MTU.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::frames::{VNET_HEADER, complete_checksum, split_frame};

fuzz_target!(|input: (u16, &[u8])| {
    let (mtu, frame) = (usize::from(input.0), input.1);
    if let Ok(packets) = split_frame(frame, mtu) {
        assert!(packets.len() == 1 || packets.iter().all(|packet| packet.len() <= mtu));
        assert!(packets.iter().all(|packet| !packet.is_empty()));
    }
    if let Ok(packet) = complete_checksum(frame) {
        assert_eq!(packet.len(), frame.len() - VNET_HEADER);
    }
});
