//! The stack: all flows of one link, the SYNs that wait for a decision, timers, and the order of work.
//!
//! A step takes the packets that came in, then expires what is due, then lets flows send:
//!
//! ```text
//! packet -> Segment -> keys: 4-tuple -> Flow -> smoltcp           unclaimed: not ours
//!                                    -> pending: the SYN as bytes
//! timers, calls ----------> dirty: flows that may have something to send, served in turns
//! ```
//!
//! Each flow has a socket set of its own, so that work is in proportion to packets and not to connections.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::buffers::Pool;
use crate::config::Config;
use crate::device::Link;
use crate::flow::{Event, Flow};
use crate::frames::open_frame;
use crate::packets::{Key, RST, Segment};

mod calls;

pub use calls::{Refusal, Sizes};

/// Packets that one flow may send before it is the next one's turn.
const QUANTUM: usize = 64;

/// A SYN is not longer than this, data included; a pending one is kept whole.
const MAX_SYN: usize = 1500;

#[derive(Clone, Copy, Default, Debug)]
pub struct Counters {
    pub received: u64,
    pub sent: u64,
    pub unclaimed: u64,
    pub malformed: u64,
    pub bad_checksum: u64,
    pub pending_full: u64,
    pub limited: u64,
    pub resets_received: u64,
    pub opened: u64,
    pub closed: u64,
}

#[derive(Clone, Copy)]
enum Entry {
    Flow(usize),
    Pending(u64),
}

struct Pending {
    key: Key,
    frame: Box<[u8]>,
    expires: u64,
}

pub struct Stack {
    config: Config,
    link: Link,
    flows: Vec<Option<Flow>>,
    free: Vec<usize>,
    keys: HashMap<Key, Entry>,
    /// By id, and so by age.
    pending: BTreeMap<u64, Pending>,
    timers: BTreeSet<(u64, usize)>,
    /// Flows in TIME-WAIT by its end.
    lingering: BTreeSet<(u64, usize)>,
    dirty: VecDeque<usize>,
    /// Flows to which calls were made since the last step. What follows from a call is told by the next step and not before,
    /// so that an id is good until the caller has seen its end.
    called: Vec<usize>,
    events: Vec<Event>,
    pool: Pool,
    counters: Counters,
    serial: u64,
}

impl Stack {
    /// `config` must have passed its check.
    pub fn new(config: Config) -> Stack {
        Stack {
            link: Link::new(&config),
            pool: Pool::new(config.receive_buffer, config.send_buffer),
            config,
            flows: Vec::new(),
            free: Vec::new(),
            keys: HashMap::new(),
            pending: BTreeMap::new(),
            timers: BTreeSet::new(),
            lingering: BTreeSet::new(),
            dirty: VecDeque::new(),
            called: Vec::new(),
            events: Vec::new(),
            counters: Counters::default(),
            serial: 0,
        }
    }

    /// Take `frames`, let the time be `now`, and collect output and events; the indexes of unclaimed frames, and the deadline.
    pub fn step<'a>(
        &mut self,
        frames: impl Iterator<Item = &'a [u8]>,
        now: u64,
        max_packets: usize,
    ) -> (Vec<usize>, Option<u64>) {
        self.advance(now);
        for index in std::mem::take(&mut self.called) {
            self.settle(index);
        }
        let mut unclaimed = Vec::new();
        for (index, frame) in frames.enumerate() {
            self.counters.received += 1;
            if !self.input(frame) {
                unclaimed.push(index);
            }
        }
        self.counters.unclaimed += unclaimed.len() as u64;
        self.expire();
        self.serve(max_packets);
        let deadline = if self.dirty.is_empty() { self.next_deadline() } else { Some(self.link.now) };
        (unclaimed, deadline)
    }

    /// The packets to send; gone with the next `clear_output`.
    pub fn output(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.link.output.frames()
    }

    pub fn clear_output(&mut self) {
        self.counters.sent += self.link.output.count() as u64;
        self.link.output.clear();
    }

    pub fn take_events(&mut self) -> std::vec::Drain<'_, Event> {
        self.events.drain(..)
    }

    pub fn counters(&self) -> [(&'static str, u64); 14] {
        let Counters {
            received,
            sent,
            unclaimed,
            malformed,
            bad_checksum,
            pending_full,
            limited,
            resets_received,
            opened,
            closed,
        } = self.counters;
        [
            ("connections", (self.flows.len() - self.free.len()) as u64),
            ("pending", self.pending.len() as u64),
            ("time_wait", self.lingering.len() as u64),
            ("pooled_bytes", self.pool.bytes() as u64),
            ("received", received),
            ("sent", sent),
            ("unclaimed", unclaimed),
            ("malformed", malformed),
            ("bad_checksum", bad_checksum),
            ("pending_full", pending_full),
            ("limited", limited),
            ("resets_received", resets_received),
            ("opened", opened),
            ("closed", closed),
        ]
    }

    fn advance(&mut self, now: u64) {
        self.link.now = self.link.now.max(now);
    }

    /// The packet in a frame, its segment, and whether that is intact.
    fn open<'a>(&self, frame: &'a [u8]) -> Option<(&'a [u8], Segment, bool)> {
        let (packet, vouched) = if self.config.vnet_header { open_frame(frame)? } else { (frame, false) };
        let segment = Segment::parse(packet)?;
        let intact = vouched || !self.config.verify_checksums || segment.is_intact(packet);
        Some((packet, segment, intact))
    }

    /// Whether the frame is ours.
    fn input(&mut self, frame: &[u8]) -> bool {
        let Some((packet, segment, intact)) = self.open(frame) else { return false };
        let first = segment.is_first();
        let mut owner = self.keys.get(&segment.key).copied();
        if !first && owner.is_none() {
            return false;
        }
        if !intact {
            self.counters.bad_checksum += 1;
            return true;
        }
        if segment.flags & RST != 0 {
            self.counters.resets_received += 1;
        }
        if first {
            owner = self.owner_of(&segment.key);
        }
        match owner {
            Some(Entry::Flow(index)) => {
                if let Some(flow) = &mut self.flows[index] {
                    flow.feed(&mut self.link, packet, &segment);
                }
                self.touch(index);
                self.settle(index);
                true
            }
            Some(Entry::Pending(id)) => {
                if first && segment.is_well_formed(packet) && packet.len() <= MAX_SYN {
                    if let Some(pending) = self.pending.get_mut(&id) {
                        pending.frame = frame.into();
                    }
                } else if segment.flags & RST != 0 && self.forget(id).is_ok() {
                    self.events.push(Event::Withdrawn(id));
                }
                true
            }
            None => self.hold(&segment, frame, packet),
        }
    }

    fn hold(&mut self, segment: &Segment, frame: &[u8], packet: &[u8]) -> bool {
        if !segment.is_well_formed(packet) || packet.len() > MAX_SYN {
            self.counters.malformed += 1;
            return true;
        }
        if self.pending.len() >= self.config.max_pending {
            self.counters.pending_full += 1;
            return false;
        }
        let key = segment.key;
        self.serial += 1;
        let id = self.serial;
        let expires = self.link.now + self.config.pending_ttl;
        self.pending.insert(id, Pending { key, frame: frame.into(), expires });
        self.keys.insert(key, Entry::Pending(id));
        self.events.push(Event::Incoming(id, key));
        true
    }

    fn forget(&mut self, id: u64) -> Result<Pending, Refusal> {
        let pending = self.pending.remove(&id).ok_or(Refusal::NotPending)?;
        self.keys.remove(&pending.key);
        Ok(pending)
    }

    fn expire(&mut self) {
        let now = self.link.now;
        while let Some((&id, pending)) = self.pending.first_key_value()
            && pending.expires <= now
        {
            if self.forget(id).is_ok() {
                self.events.push(Event::Withdrawn(id));
            }
        }
        while let Some(&(at, index)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(flow) = &mut self.flows[index] {
                flow.deadline = None;
            }
            self.touch(index);
        }
    }

    fn serve(&mut self, max_packets: usize) {
        let mut left = max_packets;
        while left > 0
            && let Some(index) = self.dirty.pop_front()
        {
            let Some(flow) = self.flows[index].as_mut().filter(|flow| flow.dirty) else { continue };
            flow.dirty = false;
            let (count, more) = flow.service(&mut self.link, left.min(QUANTUM));
            left -= count;
            if more {
                self.touch(index);
            } else if let Some(at) = flow.next_deadline(&mut self.link)
                && flow.deadline.is_none_or(|earlier| at < earlier)
            {
                // A later one waits for the earlier to pass: acknowledgements move deadlines back all the time.
                if let Some(earlier) = flow.deadline.replace(at) {
                    self.timers.remove(&(earlier, index));
                }
                self.timers.insert((at, index));
            }
            self.settle(index);
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        let timer = self.timers.first().map(|&(at, _)| at);
        let pending = self.pending.first_key_value().map(|(_, pending)| pending.expires);
        [timer, pending].into_iter().flatten().min()
    }

    /// Note that a flow may have something to send.
    fn touch(&mut self, index: usize) {
        if let Some(flow) = &mut self.flows[index]
            && !flow.dirty
        {
            flow.dirty = true;
            self.dirty.push_back(index);
        }
    }

    /// Draw the conclusions from what happened to a flow: events, TIME-WAIT, a free 4-tuple, its removal.
    fn settle(&mut self, index: usize) {
        let Some(flow) = &mut self.flows[index] else { return };
        flow.called = false;
        let was_reported = flow.reported;
        flow.report(self.link.now, self.config.time_wait, &mut self.events);
        if flow.reported && !was_reported {
            self.counters.closed += 1;
        }
        if let Some(until) = flow.linger
            && flow.linger_entry.is_none()
        {
            flow.linger_entry = Some(until);
            self.lingering.insert((until, index));
        }
        if !flow.is_on_wire() {
            self.release(index);
        }
    }

    /// Free the 4-tuple of a flow that is off the wire, and the flow itself once nobody waits for it.
    fn release(&mut self, index: usize) {
        let Some(flow) = &mut self.flows[index] else { return };
        if let Some(until) = flow.linger_entry.take() {
            self.lingering.remove(&(until, index));
        }
        if let Some(&Entry::Flow(owner)) = self.keys.get(&flow.key)
            && owner == index
        {
            self.keys.remove(&flow.key);
        }
        if flow.reported
            && let Some(flow) = self.flows[index].take()
        {
            if let Some(at) = flow.deadline {
                self.timers.remove(&(at, index));
            }
            self.pool.give_back(flow.into_buffers());
            self.free.push(index);
        }
    }

    /// Who has a 4-tuple that a new connection wants. A flow in TIME-WAIT makes way.
    fn owner_of(&mut self, key: &Key) -> Option<Entry> {
        if let Some(&Entry::Flow(index)) = self.keys.get(key) {
            self.end_time_wait(index);
        }
        self.keys.get(key).copied()
    }

    fn end_time_wait(&mut self, index: usize) {
        if let Some(flow) = &mut self.flows[index]
            && flow.linger.take().is_some()
        {
            self.release(index);
        }
    }
}
