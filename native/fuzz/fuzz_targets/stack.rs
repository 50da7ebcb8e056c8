//! The user-space stack: any packets and any calls in any order, and its books balance.
#![no_main]

use std::net::IpAddr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stack::config::Config;
use stack::flow::Event;
use stack::stack::{Sizes, Stack};

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Packets(Vec<&'a [u8]>, u32),
    Segment { ports: (u8, u8), sequence: u8, acknowledged: u8, flags: u8, window: u16, payload: &'a [u8] },
    Accept(u8),
    Reject(u8),
    Decline(u8),
    Connect(u8, u8),
    Send(u8, u16),
    Receive(u8, u16),
    Finish(u8),
    Abort(u8),
}

const SOURCE: [u8; 4] = [10, 0, 0, 1];
const DESTINATION: [u8; 4] = [10, 0, 0, 2];

/// An IPv4 packet that gets far: addresses and lengths fit, checksums are not looked at.
fn segment(ports: (u8, u8), sequence: u8, acknowledged: u8, flags: u8, window: u16, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(1000)];
    let mut packet = vec![0; 40];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&((40 + payload.len()) as u16).to_be_bytes());
    (packet[8], packet[9]) = (64, 6);
    packet[12..16].copy_from_slice(&SOURCE);
    packet[16..20].copy_from_slice(&DESTINATION);
    (packet[21], packet[23]) = (ports.0, ports.1);
    (packet[27], packet[31]) = (sequence, acknowledged);
    (packet[32], packet[33]) = (0x50, flags);
    packet[34..36].copy_from_slice(&window.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

fn turn(stack: &mut Stack, packets: &[&[u8]], now: u64, ids: &mut Vec<u64>, pending: &mut Vec<u64>) {
    let (_, deadline) = stack.step(packets.iter().copied(), now, 64);
    assert!(deadline.is_none_or(|at| at >= now));
    stack.clear_output();
    for event in stack.take_events() {
        match event {
            Event::Incoming(id, _) => pending.push(id),
            Event::Withdrawn(id) => pending.retain(|&other| other != id),
            Event::Closed(id, _) => ids.retain(|&other| other != id),
            _ => {}
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut config = Config::new(1380, 1);
    config.verify_checksums = false;
    config.max_connections = 8;
    config.max_pending = 4;
    let mut stack = Stack::new(config);
    let (mut ids, mut pending): (Vec<u64>, Vec<u64>) = Default::default();
    let mut now = 1_000_000;
    let pick = |list: &[u64], number: u8| list.get(usize::from(number) % list.len().max(1)).copied().unwrap_or(u64::from(number));
    for step in steps {
        match step {
            Step::Packets(packets, pause) => {
                now += u64::from(pause % 50_000_000);
                turn(&mut stack, &packets, now, &mut ids, &mut pending);
            }
            Step::Segment { ports, sequence, acknowledged, flags, window, payload } => {
                let packet = segment(ports, sequence, acknowledged, flags, window, payload);
                turn(&mut stack, &[&packet], now, &mut ids, &mut pending);
            }
            Step::Accept(number) => ids.extend(stack.accept(pick(&pending, number), now, Sizes::default())),
            Step::Reject(number) => drop(stack.reject(pick(&pending, number), now)),
            Step::Decline(number) => drop(stack.decline(pick(&pending, number))),
            Step::Connect(from, to) => {
                let ends = ((IpAddr::from(DESTINATION), u16::from(from)), (IpAddr::from(SOURCE), u16::from(to)));
                ids.extend(stack.connect(ends.0, ends.1, Sizes::default()));
            }
            Step::Send(number, size) => drop(stack.send(pick(&ids, number), &vec![7; usize::from(size)])),
            Step::Receive(number, size) => drop(stack.receive(pick(&ids, number), &mut vec![0; usize::from(size)])),
            Step::Finish(number) => stack.finish(pick(&ids, number)),
            Step::Abort(number) => stack.abort(pick(&ids, number)),
        }
    }
    // With the line cut, and all of it given up, nothing is left.
    for id in std::mem::take(&mut ids) {
        stack.abort(id);
    }
    for id in std::mem::take(&mut pending) {
        drop(stack.decline(id));
    }
    let mut rest = 0;
    while let (_, Some(deadline)) = stack.step(std::iter::empty(), now, 64) {
        stack.clear_output();
        stack.take_events();
        now = now.max(deadline);
        rest += 1;
        assert!(rest < 10_000, "no rest");
    }
    let counters = stack.counters();
    let count = |name: &str| counters.iter().find(|(known, _)| *known == name).map(|(_, count)| *count);
    assert_eq!((count("connections"), count("pending")), (Some(0), Some(0)));
});
