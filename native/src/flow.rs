//! One connection: a smoltcp socket in a set of its own, and what smoltcp does not know or do.
//!
//! - Events, each when it is due, and a reason for the end.
//! - Nagle's algorithm by the amount of unsent bytes: on for bulk data, which else leaves in small pieces as the congestion window
//!   opens; off for the tail of a message, which else waits for a round trip.
//! - The window of a duplicate acknowledgement. Linux changes it in each; smoltcp then takes none of them for a duplicate, never
//!   retransmits fast, and each loss costs a timeout.
//! - Patience: a peer that falls silent in the handshake or after our FIN is given up; smoltcp would wait, or repeat, for ever.

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Duration;

use crate::buffers::Buffers;
use crate::config::Config;
use crate::device::Link;
use crate::packets::{ACK, FIN, Key, RST, SYN, Segment, TCP_HEADER, be16, be32, put16};

/// How long a peer may be silent, in microseconds, in the handshake or after our FIN: what Linux grants to FIN-WAIT-2, and about
/// what its repetitions of SYN-ACK and FIN take.
const PATIENCE: u64 = 60_000_000;

/// A socket that has nothing to send and yet asks to be polled at once is asked again after so many microseconds.
const LEAST_WAIT: u64 = 1000;

/// The longest packet without payload: headers of IPv6 or IPv4 with options, and of TCP with options.
const PURE_ACK: usize = 120;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    Normal,
    Reset,
    Timeout,
    Aborted,
    Refused,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Incoming(u64, Key),
    Withdrawn(u64),
    Established(u64),
    Readable(u64),
    Writable(u64),
    EndOfStream(u64),
    Closed(u64, CloseReason),
}

pub struct Flow {
    // Declared, and therefore dropped, before the memory that is lent to it.
    sockets: SocketSet<'static>,
    buffers: Buffers,
    handle: SocketHandle,
    pub id: u64,
    pub key: Key,
    /// Waits in the queue of flows that may have something to send.
    pub dirty: bool,
    /// Waits for the next step to tell what followed from a call.
    pub called: bool,
    /// The entry of this flow among the timers, in microseconds.
    pub deadline: Option<u64>,
    /// End of TIME-WAIT, in microseconds, while it lasts.
    pub linger: Option<u64>,
    /// The entry of this flow among those in TIME-WAIT.
    pub linger_entry: Option<u64>,
    /// The application was told of the end.
    pub reported: bool,

    ended: Option<CloseReason>,
    resetting: bool,
    discarded: bool,
    established: bool,
    finishing: bool,
    short: bool,
    readable: bool,
    fin_received: bool,
    end_reported: bool,

    mss: usize,
    sent: u32,
    acknowledged: u32,
    window: u16,
    /// When the last segment came in, and since when one is awaited without which the connection cannot live on.
    heard: u64,
    waiting: Option<u64>,
}

impl Flow {
    pub fn new(id: u64, key: Key, mut buffers: Buffers, config: &Config, now: u64) -> Flow {
        // SAFETY: the socket lives in `sockets`, which goes before `buffers` does: see the struct and `into_buffers`.
        let (receive, send) = unsafe { buffers.lend() };
        let mut socket = Socket::new(receive, send);
        // A reply within one step acknowledges anyway; a lone super-packet would be acknowledged late.
        socket.set_ack_delay(None);
        socket.set_congestion_control(config.congestion);
        socket.set_keep_alive(duration(config.keepalive));
        socket.set_timeout(duration(config.timeout));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let ip_header = if key.local.0.is_ipv4() { 20 } else { 40 };
        Flow {
            sockets,
            buffers,
            handle,
            id,
            key,
            dirty: false,
            called: false,
            deadline: None,
            linger: None,
            linger_entry: None,
            reported: false,
            ended: None,
            resetting: false,
            discarded: false,
            established: false,
            finishing: false,
            short: false,
            readable: false,
            fin_received: false,
            end_reported: false,
            mss: config.mtu - ip_header - TCP_HEADER,
            sent: 0,
            acknowledged: 0,
            window: 0,
            heard: now,
            waiting: None,
        }
    }

    /// The memory, for the next connection.
    pub fn into_buffers(self) -> Buffers {
        let Flow { sockets, buffers, .. } = self;
        drop(sockets);
        buffers
    }

    /// Await the SYN that `feed` gets next.
    pub fn listen(&mut self) -> bool {
        let local = self.key.local;
        self.socket_mut().listen(local).is_ok()
    }

    pub fn connect(&mut self, link: &mut Link) -> bool {
        let Key { local, remote } = self.key;
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        socket.connect(link.interface.context(), remote, local).is_ok()
    }

    /// Whether segments of its 4-tuple are its own, and the flow may still send.
    pub fn is_on_wire(&self) -> bool {
        self.ended.is_none() || self.linger.is_some() || self.resetting
    }

    pub fn state(&self) -> State {
        self.socket().state()
    }

    pub fn received(&self) -> usize {
        if self.discarded { 0 } else { self.socket().recv_queue() }
    }

    pub fn queued(&self) -> usize {
        self.socket().send_queue()
    }

    /// Take a segment of this connection.
    pub fn feed(&mut self, link: &mut Link, packet: &[u8], segment: &Segment) {
        if !self.is_on_wire() || self.resetting {
            return;
        }
        let before = self.state();
        let mut copy = [0; PURE_ACK];
        let packet = if self.repeats_acknowledgement(packet, segment) && segment.end <= PURE_ACK {
            let copy = &mut copy[..segment.end];
            copy.copy_from_slice(&packet[..segment.end]);
            put16(copy, segment.start + 14, self.window);
            &*copy
        } else {
            packet
        };
        link.input(packet, &mut self.sockets);

        let state = self.state();
        self.heard = link.now;
        if segment.flags & SYN != 0 {
            self.mss = self.mss.min(usize::from(segment.mss(packet)).max(1));
        } else if segment.flags & ACK != 0 && self.is_in_flight(segment.acknowledgement) {
            self.acknowledged = segment.acknowledgement;
            self.window = be16(packet, segment.start + 14);
        }
        if before != state && self.ended.is_none() {
            self.ended = match state {
                State::Closed if segment.flags & RST == 0 => Some(CloseReason::Normal),
                State::Closed if before == State::SynSent => Some(CloseReason::Refused),
                // smoltcp would listen on for anybody's SYN.
                State::Closed | State::Listen => Some(CloseReason::Reset),
                _ => None,
            };
        }
        if state == State::Closed {
            self.linger = None;
        }
    }

    /// Whether the segment is a duplicate acknowledgement in all but its window.
    fn repeats_acknowledgement(&self, packet: &[u8], segment: &Segment) -> bool {
        segment.payload == 0
            && segment.flags == ACK
            && segment.acknowledgement == self.acknowledged
            && self.sent != self.acknowledged
            && self.window != 0
            && segment.window != 0
            && segment.has_sack(packet)
    }

    fn is_in_flight(&self, acknowledgement: u32) -> bool {
        acknowledgement.wrapping_sub(self.acknowledged) <= self.sent.wrapping_sub(self.acknowledged)
    }

    /// Send what may be sent, `limit` packets at most; the number of packets, and whether the limit left something behind.
    pub fn service(&mut self, link: &mut Link, limit: usize) -> (usize, bool) {
        if self.linger.is_some_and(|until| link.now >= until) {
            self.linger = None;
        }
        if !self.is_on_wire() {
            return (0, false);
        }
        // From the first service on: calls may come long after the last step, whose time is all they know.
        self.waiting = self.depends_on_peer().then(|| self.waiting.unwrap_or(link.now));
        if self.end_of_patience().is_some_and(|end| link.now >= end) {
            self.reset(CloseReason::Timeout);
        }
        let mut count = 0;
        while count < limit {
            let unsent = self.queued().saturating_sub(self.sent.wrapping_sub(self.acknowledged) as usize);
            let bulk = unsent >= self.mss;
            self.socket_mut().set_nagle_enabled(bulk);
            if !link.send_one(&mut self.sockets) {
                break;
            }
            count += 1;
            self.track(link.output.last_packet().unwrap_or_default());
        }
        if self.state() == State::Closed && count < limit {
            // smoltcp resets by itself what was silent for too long.
            self.ended.get_or_insert(CloseReason::Timeout);
            self.resetting = false;
            self.linger = None;
        }
        (count, count == limit)
    }

    /// Note the sequence numbers of a packet of ours.
    fn track(&mut self, packet: &[u8]) {
        let start = if self.key.local.0.is_ipv4() { 20 } else { 40 };
        let Some(tcp) = packet.get(start..).filter(|tcp| tcp.len() >= TCP_HEADER) else { return };
        let (sequence, flags) = (be32(tcp, 4), tcp[13]);
        let payload = tcp.len() - 4 * usize::from(tcp[12] >> 4);
        if flags & SYN != 0 {
            self.acknowledged = sequence;
        }
        let length = payload as u32 + u32::from(flags & (SYN | FIN) != 0);
        if length > 0 {
            self.sent = sequence.wrapping_add(length);
        }
    }

    /// When to call `service` again though nothing happened.
    pub fn next_deadline(&self, link: &mut Link) -> Option<u64> {
        if !self.is_on_wire() {
            return None;
        }
        let socket = link.poll_at(&self.sockets).map(|at| at.max(link.now + LEAST_WAIT));
        [socket, self.end_of_patience(), self.linger].into_iter().flatten().min()
    }

    fn depends_on_peer(&self) -> bool {
        let closing = matches!(self.state(), State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck);
        self.ended.is_none() && (closing || !self.established)
    }

    fn end_of_patience(&self) -> Option<u64> {
        self.waiting.map(|since| since.max(self.heard) + PATIENCE)
    }

    /// Append the events that are due.
    pub fn report(&mut self, now: u64, time_wait: u64, events: &mut Vec<Event>) {
        if self.reported {
            return;
        }
        let id = self.id;
        let state = self.state();
        let synchronized = !matches!(state, State::Closed | State::Listen | State::SynSent | State::SynReceived);
        if synchronized && !self.established {
            self.established = true;
            events.push(Event::Established(id));
            if self.finishing {
                // Before, smoltcp would forget that the handshake is not complete.
                self.socket_mut().close();
            }
        }
        if matches!(state, State::CloseWait | State::Closing | State::TimeWait) {
            self.fin_received = true;
        }
        if state == State::TimeWait && self.ended.is_none() {
            self.ended = Some(CloseReason::Normal);
            // Not without time to acknowledge the FIN.
            self.linger = Some(now + time_wait.max(LEAST_WAIT));
        }
        let received = self.received();
        if received > 0 && !self.readable {
            self.readable = true;
            events.push(Event::Readable(id));
        }
        let socket = self.socket();
        let free = socket.send_capacity() - socket.send_queue();
        if self.short && !self.finishing && socket.may_send() && free >= socket.send_capacity() / 4 {
            self.short = false;
            events.push(Event::Writable(id));
        }
        if received == 0 && self.fin_received && !self.end_reported && !self.discarded {
            self.end_reported = true;
            events.push(Event::EndOfStream(id));
        }
        if let Some(reason) = self.ended
            && received == 0
        {
            self.reported = true;
            events.push(Event::Closed(id, reason));
        }
    }

    /// Queue bytes; None if no more may come.
    pub fn send(&mut self, data: &[u8]) -> Option<usize> {
        if self.finishing || self.ended.is_some() {
            return None;
        }
        let taken = self.socket_mut().send_slice(data).unwrap_or(0);
        self.short |= taken < data.len();
        Some(taken)
    }

    /// Take received bytes; `target` is not longer than `received`.
    pub fn receive(&mut self, target: &mut [u8]) -> usize {
        let taken = self.socket_mut().recv_slice(target).unwrap_or(0);
        self.readable = self.socket().can_recv();
        taken
    }

    pub fn finish(&mut self) {
        if !self.finishing && self.ended.is_none() {
            self.finishing = true;
            if self.established {
                self.socket_mut().close();
            }
        }
    }

    pub fn abort(&mut self) {
        self.discarded = true;
        if self.ended.is_none() {
            self.reset(CloseReason::Aborted);
        } else {
            self.ended = Some(CloseReason::Aborted);
        }
    }

    fn reset(&mut self, reason: CloseReason) {
        self.ended = Some(reason);
        self.resetting = true;
        self.socket_mut().abort();
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

fn duration(micros: u64) -> Option<Duration> {
    (micros > 0).then(|| Duration::from_micros(micros))
}
