//! Anything on the wire, any order of calls: nothing panics, overflows or runs away, and the books balance.
//!
//! Built with overflow checks and smoltcp's debug assertions. `FUZZ_ROUNDS` makes it longer.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use _native::config::Config;
use _native::flow::Event;
use _native::frames::{complete_checksum, split_frame};
use _native::stack::{Refusal, Sizes, Stack};
use smoltcp::socket::tcp::CongestionControl;

/// xorshift64*: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

fn rounds(default: usize) -> usize {
    std::env::var("FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One stack with an application that calls at random.
struct Side {
    stack: Stack,
    live: HashSet<u64>,
    ended: HashSet<u64>,
    pending: Vec<u64>,
    established: usize,
    received: usize,
}

impl Side {
    fn new(config: Config) -> Side {
        config.check().unwrap();
        Side {
            stack: Stack::new(config),
            live: HashSet::new(),
            ended: HashSet::new(),
            pending: Vec::new(),
            established: 0,
            received: 0,
        }
    }

    fn step(&mut self, input: &[Vec<u8>], now: u64, random: &mut Random) -> (Vec<Vec<u8>>, Option<u64>) {
        let limit = [0, 1, 3, 64][random.below(4)];
        let (_, deadline) = self.stack.step(input.iter().map(Vec::as_slice), now, limit);
        let output: Vec<Vec<u8>> = self.stack.output().map(<[u8]>::to_vec).collect();
        assert!(output.len() <= limit + input.len() + self.pending.len() + 8);
        self.stack.clear_output();
        for event in self.stack.take_events().collect::<Vec<_>>() {
            match event {
                Event::Incoming(id, _) => self.pending.push(id),
                Event::Withdrawn(id) => self.pending.retain(|&other| other != id),
                Event::Closed(id, _) => {
                    self.live.remove(&id);
                    assert!(self.ended.insert(id), "closed twice");
                }
                Event::Established(id) | Event::Readable(id) | Event::Writable(id) | Event::EndOfStream(id) => {
                    assert!(!self.ended.contains(&id), "{event:?} after its end");
                    self.established += usize::from(matches!(event, Event::Established(_)));
                    self.live.insert(id);
                }
            }
        }
        (output, deadline)
    }

    fn call(&mut self, now: u64, random: &mut Random) {
        while let Some(id) = self.pending.pop() {
            match random.below(8) {
                0 => drop(self.stack.reject(id, now)),
                1 => drop(self.stack.decline(id)),
                _ => match self.stack.accept(id, now, Sizes::default()) {
                    Ok(id) => drop(self.live.insert(id)),
                    Err(refusal) => assert_eq!(refusal, Refusal::Limit),
                },
            }
        }
        // In an order that does not depend on the hasher.
        let mut live: Vec<u64> = self.live.iter().copied().collect();
        live.sort_unstable();
        for id in live {
            match random.below(60) {
                0 => self.stack.abort(id),
                1 => self.stack.finish(id),
                2..20 => drop(self.stack.send(id, &vec![7; random.below(9000)])),
                20..40 => {
                    if let Ok(length) = self.stack.received(id) {
                        let mut target = vec![0; random.below(length + 1)];
                        self.received += self.stack.receive(id, &mut target).unwrap();
                    }
                }
                _ => {}
            }
        }
    }
}

fn mutate(packet: &mut Vec<u8>, random: &mut Random) {
    match random.below(5) {
        0 => packet.truncate(random.below(packet.len() + 1)),
        1 => packet.extend(std::iter::repeat_n(3, random.below(40))),
        2 => {
            // Where the fields are that change what a packet means.
            let at = random.below(packet.len().min(70));
            packet[at] = random.next() as u8;
        }
        _ => {
            let at = random.below(packet.len());
            packet[at] ^= 1 << random.below(8);
        }
    }
}

#[test]
fn two_stacks_over_a_line_that_mangles() {
    for seed in 1..=rounds(12) as u64 {
        let mut random = Random(seed);
        let mut config = Config::new([576, 1380, 65_535][random.below(3)], seed);
        config.vnet_header = random.once_in(2);
        config.tso_max = if config.vnet_header && random.once_in(2) { 65_535 } else { 0 };
        // Without verification mangled packets get far into smoltcp.
        config.verify_checksums = random.once_in(4);
        config.receive_buffer = [4096, 65_536, 70_001][random.below(3)];
        config.send_buffer = [4096, 65_536, 70_001][random.below(3)];
        config.congestion = [CongestionControl::None, CongestionControl::Reno, CongestionControl::Cubic][random.below(3)];
        (config.keepalive, config.timeout) = [(0, 0), (5_000_000, 20_000_000)][random.below(2)];
        config.max_connections = 20;
        config.max_pending = 5;
        let mut sides = [Side::new(config.clone()), Side::new(config)];
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let hosts = [(address("10.0.0.1"), address("10.0.0.2")), (address("fd00::1"), address("fd00::2"))];
        let mut on_the_way = [Vec::new(), Vec::new()];
        let mut now = 1_000_000;
        for turn in 0..3000 {
            if random.once_in(20) {
                let (source, destination) = hosts[random.below(2)];
                let port = 1000 + random.below(30) as u16;
                if let Ok(id) = sides[0].stack.connect((source, port), (destination, 80), Sizes::default()) {
                    sides[0].live.insert(id);
                }
            }
            let side = turn % 2;
            let mut input: Vec<Vec<u8>> = std::mem::take(&mut on_the_way[side]);
            input.retain(|packet| !packet.is_empty() && !random.once_in(20));
            if random.once_in(10) {
                input.reverse();
            }
            for packet in &mut input {
                if random.once_in(15) {
                    mutate(packet, &mut random);
                }
            }
            if random.once_in(10) {
                input.extend_from_within(..);
            }
            let (output, deadline) = sides[side].step(&input, now, &mut random);
            assert!(deadline.is_none_or(|at| at >= now));
            on_the_way[1 - side].extend(output);
            sides[side].call(now, &mut random);
            now += [1, 100, 20_000, 1_500_000][random.below(4)] as u64;
        }
        assert!(sides.iter().all(|side| side.established > 5 && side.received > 10_000), "seed {seed} tests nothing");
        // With the line cut and time passing, aborted connections are gone, and so is what they held.
        for side in &mut sides {
            for id in side.live.clone() {
                side.stack.abort(id);
            }
            for id in std::mem::take(&mut side.pending) {
                side.stack.decline(id).unwrap();
            }
            let mut rest = 0;
            while let (_, Some(deadline)) = side.stack.step(std::iter::empty(), now, 64) {
                side.stack.clear_output();
                now = now.max(deadline);
                rest += 1;
                assert!(rest < 1000, "no rest");
            }
            let counters: HashMap<_, _> = side.stack.counters().into();
            assert_eq!((counters["connections"], counters["pending"], counters["time_wait"]), (0, 0, 0));
            assert_eq!(counters["opened"], counters["closed"]);
        }
    }
}

#[test]
fn frames_of_any_bytes() {
    let mut random = Random(99);
    for _ in 0..rounds(12) * 5000 {
        let length = random.below(200);
        let mut frame: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        if length > 30 {
            // Near to what is valid, so that the later checks are reached.
            frame[0] &= 3;
            frame[1] = [0, 1, 4, 5, 0x81][random.below(5)];
            frame[5] = 0;
            (frame[7], frame[9]) = (0, 0);
            frame[10] = [0x45, 0x46, 0x60][random.below(3)];
            let protocol = if frame[10] == 0x60 { 16 } else { 19 };
            frame[protocol] = [6, 17][random.below(2)];
            if random.once_in(2) {
                frame[6] = if frame[10] == 0x60 { 40 } else { 20 };
            }
        }
        let mtu = random.below(300);
        if let Ok(packets) = split_frame(&frame, mtu) {
            assert!(packets.iter().map(Vec::len).sum::<usize>() <= 200 * 200);
            assert!(packets.len() == 1 || packets.iter().all(|packet| packet.len() <= mtu));
        }
        if let Ok(packet) = complete_checksum(&frame) {
            assert_eq!(packet.len(), frame.len() - 10);
        }
    }
}
