//! The calls of the application: connections to begin, to use and to end.

use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp::State;

use super::{Entry, MAX_SYN, Pending, Stack};
use crate::config::INDEX_BITS;
use crate::flow::{Event, Flow};
use crate::frames::complete_checksum;
use crate::packets::{Endpoint, Key, is_host};

/// Why a call was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No such pending SYN.
    NotPending,
    /// As many connections as allowed, or no memory.
    Limit,
    /// The 4-tuple is taken.
    AddressInUse,
    /// The connection has ended.
    Closed,
    /// Bytes or addresses with which no connection can begin.
    Invalid(&'static str),
}

/// Sizes of a connection's buffers in bytes, where they differ from the stack's.
#[derive(Clone, Copy, Default)]
pub struct Sizes {
    pub receive: Option<usize>,
    pub send: Option<usize>,
}

impl Stack {
    pub fn accept(&mut self, id: u64, now: u64, sizes: Sizes) -> Result<u64, Refusal> {
        self.advance(now);
        let Pending { key, frame, .. } = self.pending.get(&id).ok_or(Refusal::NotPending)?;
        let (key, frame) = (*key, frame.clone());
        let connection = self.open_passive(key, &frame, sizes)?;
        self.pending.remove(&id);
        Ok(connection)
    }

    pub fn accept_syn(&mut self, frame: &[u8], now: u64, sizes: Sizes) -> Result<u64, Refusal> {
        self.advance(now);
        let (packet, segment, intact) = self.open(frame).ok_or(Refusal::Invalid("no TCP segment between two hosts"))?;
        if !segment.is_first() || packet.len() > MAX_SYN {
            return Err(Refusal::Invalid("not the SYN of a new connection"));
        }
        if !intact {
            return Err(Refusal::Invalid("wrong checksum"));
        }
        match self.owner_of(&segment.key) {
            Some(Entry::Flow(_)) => Err(Refusal::AddressInUse),
            Some(Entry::Pending(id)) => {
                let connection = self.open_passive(segment.key, frame, sizes)?;
                self.pending.remove(&id);
                self.events.push(Event::Withdrawn(id));
                Ok(connection)
            }
            None => self.open_passive(segment.key, frame, sizes),
        }
    }

    pub fn reject(&mut self, id: u64, now: u64) -> Result<(), Refusal> {
        self.advance(now);
        let pending = self.forget(id)?;
        if let Some((packet, ..)) = self.open(&pending.frame) {
            self.link.input(packet, &mut SocketSet::new(Vec::new()));
        }
        Ok(())
    }

    pub fn decline(&mut self, id: u64) -> Result<Vec<u8>, Refusal> {
        let pending = self.forget(id)?;
        if self.config.vnet_header {
            complete_checksum(&pending.frame).map_err(Refusal::Invalid)
        } else {
            Ok(pending.frame.into_vec())
        }
    }

    pub fn connect(&mut self, source: Endpoint, destination: Endpoint, sizes: Sizes) -> Result<u64, Refusal> {
        let key = Key { local: source, remote: destination };
        if source.0.is_ipv4() != destination.0.is_ipv4() {
            return Err(Refusal::Invalid("source and destination are of two families"));
        }
        if !is_host(&source.0) || !is_host(&destination.0) {
            return Err(Refusal::Invalid("an address that is no host's"));
        }
        if source.1 == 0 || destination.1 == 0 {
            return Err(Refusal::Invalid("port 0"));
        }
        if self.owner_of(&key).is_some() {
            return Err(Refusal::AddressInUse);
        }
        let mut flow = self.new_flow(key, sizes)?;
        if !flow.connect(&mut self.link) {
            return Err(Refusal::Invalid("not to be connected"));
        }
        Ok(self.insert(flow))
    }

    pub fn send(&mut self, id: u64, data: &[u8]) -> Result<usize, Refusal> {
        let (index, flow) = self.find(id)?;
        let taken = flow.send(data).ok_or(Refusal::Closed)?;
        if taken > 0 {
            self.touch(index);
        }
        Ok(taken)
    }

    /// How many bytes `receive` would give.
    pub fn received(&mut self, id: u64) -> Result<usize, Refusal> {
        Ok(self.find(id)?.1.received())
    }

    /// Fill `target`, which is not longer than `received` said.
    pub fn receive(&mut self, id: u64, target: &mut [u8]) -> Result<usize, Refusal> {
        let (index, flow) = self.find(id)?;
        let taken = flow.receive(target);
        if taken > 0 {
            self.note_call(index);
        }
        Ok(taken)
    }

    pub fn finish(&mut self, id: u64) {
        if let Ok((index, flow)) = self.find(id) {
            flow.finish();
            self.note_call(index);
        }
    }

    pub fn abort(&mut self, id: u64) {
        if let Ok((index, flow)) = self.find(id) {
            flow.abort();
            self.note_call(index);
        }
    }

    pub fn flow(&mut self, id: u64) -> Result<&Flow, Refusal> {
        Ok(self.find(id)?.1)
    }

    fn note_call(&mut self, index: usize) {
        self.touch(index);
        if let Some(flow) = &mut self.flows[index]
            && !flow.called
        {
            flow.called = true;
            self.called.push(index);
        }
    }

    fn open_passive(&mut self, key: Key, frame: &[u8], sizes: Sizes) -> Result<u64, Refusal> {
        let mut flow = self.new_flow(key, sizes)?;
        let Some((packet, segment, _)) = self.open(frame) else { return Err(Refusal::Invalid("not a SYN")) };
        if !flow.listen() {
            return Err(Refusal::Invalid("not to be accepted"));
        }
        flow.feed(&mut self.link, packet, &segment);
        if flow.state() != State::SynReceived {
            return Err(Refusal::Invalid("no well-formed SYN"));
        }
        Ok(self.insert(flow))
    }

    fn new_flow(&mut self, key: Key, sizes: Sizes) -> Result<Flow, Refusal> {
        while self.flows.len() - self.free.len() >= self.config.max_connections {
            let Some((_, oldest)) = self.lingering.pop_first() else {
                self.counters.limited += 1;
                return Err(Refusal::Limit);
            };
            self.end_time_wait(oldest);
        }
        let buffers = self.pool.take(sizes.receive, sizes.send).map_err(|_| Refusal::Limit)?;
        let index = self.free.last().copied().unwrap_or(self.flows.len());
        self.serial += 1;
        let id = self.serial << INDEX_BITS | index as u64;
        Ok(Flow::new(id, key, buffers, &self.config, self.link.now))
    }

    fn insert(&mut self, flow: Flow) -> u64 {
        let (id, key) = (flow.id, flow.key);
        let index = (id & ((1 << INDEX_BITS) - 1)) as usize;
        if self.free.pop().is_none() {
            self.flows.push(None);
        }
        self.flows[index] = Some(flow);
        self.keys.insert(key, Entry::Flow(index));
        self.counters.opened += 1;
        self.touch(index);
        id
    }

    fn find(&mut self, id: u64) -> Result<(usize, &mut Flow), Refusal> {
        let index = (id & ((1 << INDEX_BITS) - 1)) as usize;
        let flow = self.flows.get_mut(index).and_then(Option::as_mut);
        let flow = flow.filter(|flow| flow.id == id && !flow.reported);
        flow.map(|flow| (index, flow)).ok_or(Refusal::Closed)
    }
}
