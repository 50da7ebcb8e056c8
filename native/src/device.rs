//! The link as smoltcp sees it: its one interface, and a device that takes one packet at a time and collects what is sent.

use std::num::NonZeroUsize;
use std::ops::Range;

use smoltcp::iface::{Interface, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::HardwareAddress;

use crate::config::Config;
use crate::frames::{VNET_HEADER, close_frame};
use crate::join::Joint;

/// Memory of output that is kept from one step to the next, in bytes.
const KEPT_BYTES: usize = 8 << 20;

/// smoltcp writes every byte of a packet but the padding of TCP options, which lies within.
const HEADERS: usize = 120;

/// Packets to be given out, in order.
#[derive(Default)]
pub struct Output {
    memory: Vec<u8>,
    frames: Vec<Range<usize>>,
    vnet_header: bool,
    tso_max: usize,
    /// Packets of smoltcp, of which a frame may hold several.
    written: usize,
}

impl Output {
    pub fn new(config: &Config) -> Output {
        Output { vnet_header: config.vnet_header, tso_max: config.tso_max, ..Output::default() }
    }

    pub fn count(&self) -> usize {
        self.frames.len()
    }

    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.frames.iter().map(|range| &self.memory[range.clone()])
    }

    /// The last packet, without the header of its frame.
    pub fn last_packet(&self) -> Option<&[u8]> {
        let range = self.frames.last()?;
        Some(&self.memory[range.start + self.prefix()..range.end])
    }

    pub fn clear(&mut self) {
        self.frames.clear();
        if self.memory.len() > KEPT_BYTES {
            self.memory.truncate(KEPT_BYTES);
            self.memory.shrink_to_fit();
        }
    }

    fn prefix(&self) -> usize {
        if self.vnet_header { VNET_HEADER } else { 0 }
    }

    fn push<R>(&mut self, length: usize, segment_size: Option<u16>, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.frames.last().map_or(0, |range| range.end);
        let packet = start + self.prefix();
        let end = packet + length;
        if self.memory.len() < end {
            self.memory.resize(end, 0);
        }
        self.memory[packet..end.min(packet + HEADERS)].fill(0);
        let result = write(&mut self.memory[packet..end]);
        self.written += 1;
        if !self.join(packet..end) {
            if self.vnet_header {
                close_frame(&mut self.memory[start..end], segment_size);
            }
            self.frames.push(start..end);
        }
        result
    }

    /// Make the packet behind the last frame part of it, if it can be.
    fn join(&mut self, packet: Range<usize>) -> bool {
        let Some(last) = self.frames.last_mut().filter(|_| self.tso_max > 0) else { return false };
        let joint = Joint::of(&self.memory[last.clone()], &self.memory[packet.clone()], self.tso_max);
        let Some(joint) = joint else { return false };
        let payload = packet.start + joint.headers..packet.end;
        let end = last.end + payload.len();
        self.memory.copy_within(payload, last.end);
        last.end = end;
        joint.close(&mut self.memory[last.clone()]);
        true
    }
}

/// What all flows share: the interface, the output, and the time in microseconds.
pub struct Link {
    pub interface: Interface,
    pub output: Output,
    pub now: u64,
    capabilities: DeviceCapabilities,
}

impl Link {
    pub fn new(config: &Config) -> Link {
        let capabilities = capabilities(config);
        let mut output = Output::new(config);
        let mut device = Port { input: None, output: &mut output, capabilities: &capabilities };
        let mut settings = smoltcp::iface::Config::new(HardwareAddress::Ip);
        settings.random_seed = config.seed;
        let mut interface = Interface::new(settings, &mut device, Instant::ZERO);
        interface.set_any_ip(true);
        Link { interface, output, now: 0, capabilities }
    }

    /// Let `sockets` have a packet; a reply, one at most, goes to the output.
    pub fn input(&mut self, packet: &[u8], sockets: &mut SocketSet<'static>) {
        let mut device = Port { input: Some(packet), output: &mut self.output, capabilities: &self.capabilities };
        self.interface.poll_ingress_single(instant(self.now), &mut device, sockets);
    }

    /// Let the one socket of `sockets` send a packet; whether it did.
    pub fn send_one(&mut self, sockets: &mut SocketSet<'static>) -> bool {
        let before = self.output.written;
        let mut device = Port { input: None, output: &mut self.output, capabilities: &self.capabilities };
        self.interface.poll_egress(instant(self.now), &mut device, sockets);
        self.output.written > before
    }

    /// When `sockets` want to be asked again without having been touched.
    pub fn poll_at(&mut self, sockets: &SocketSet<'static>) -> Option<u64> {
        self.interface.poll_at(instant(self.now), sockets).map(|instant| instant.total_micros() as u64)
    }
}

fn instant(micros: u64) -> Instant {
    Instant::from_micros(micros as i64)
}

/// What `config` means to smoltcp. Checksums that come in are verified before smoltcp sees them.
fn capabilities(config: &Config) -> DeviceCapabilities {
    let mut checksum = ChecksumCapabilities::ignored();
    checksum.ipv4 = Checksum::Tx;
    checksum.tcp = if config.vnet_header { Checksum::None } else { Checksum::Tx };
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = config.mtu;
    capabilities.checksum = checksum;
    // Not for IPv6: smoltcp 0.14.0 drops packets above the MTU there even if offload is allowed. See `join`.
    capabilities.segmentation.tcpv4 = NonZeroUsize::new(config.tso_max);
    capabilities
}

/// The device for one call into smoltcp.
struct Port<'a> {
    input: Option<&'a [u8]>,
    output: &'a mut Output,
    capabilities: &'a DeviceCapabilities,
}

impl Device for Port<'_> {
    type RxToken<'t>
        = Incoming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Outgoing<'t>
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.input.take()?;
        Some((Incoming(packet), Outgoing { output: self.output, segment_size: None }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing { output: self.output, segment_size: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

struct Outgoing<'a> {
    output: &'a mut Output,
    segment_size: Option<u16>,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        self.output.push(length, self.segment_size, write)
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment_size = meta.segmentation_offload_size.map(Into::into);
    }
}
