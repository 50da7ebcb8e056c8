//! Packets to super-packets: nothing panics, and no byte is lost or made up.
#![no_main]

use std::convert::Infallible;

use host::runs::coalesce;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packets: Vec<&[u8]>| {
    let packets: Vec<&[u8]> = packets.into_iter().filter(|packet| !packet.is_empty()).collect();
    let frames = coalesce(packets.iter().copied(), |address| Ok::<_, Infallible>(address.first() == Some(&10))).unwrap();
    assert!(frames.len() <= packets.len());
    for frame in frames {
        let mut target = vec![0; frame.size()];
        frame.write(&mut target);
    }
});
