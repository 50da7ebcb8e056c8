//! What a stack is made with, and the bounds of it.

use smoltcp::socket::tcp::CongestionControl;

/// Times are microseconds, sizes bytes.
#[derive(Clone, Debug)]
pub struct Config {
    pub mtu: usize,
    pub seed: u64,
    pub tso_max: usize,
    pub vnet_header: bool,
    pub verify_checksums: bool,
    pub receive_buffer: usize,
    pub send_buffer: usize,
    pub congestion: CongestionControl,
    pub keepalive: u64,
    pub timeout: u64,
    pub time_wait: u64,
    pub max_connections: usize,
    pub max_pending: usize,
    pub pending_ttl: u64,
}

const SECOND: u64 = 1_000_000;

/// Ids hold an index of a connection in so many bits, and a number that is never used twice in the rest.
pub const INDEX_BITS: u32 = 20;

impl Config {
    /// A plain link of this MTU with the defaults of the Python face.
    pub fn new(mtu: usize, seed: u64) -> Config {
        Config {
            mtu,
            seed,
            tso_max: 0,
            vnet_header: false,
            verify_checksums: true,
            receive_buffer: 256 << 10,
            send_buffer: 256 << 10,
            congestion: CongestionControl::Cubic,
            keepalive: 0,
            timeout: 0,
            time_wait: SECOND,
            max_connections: 16_384,
            max_pending: 1024,
            pending_ttl: 30 * SECOND,
        }
    }

    /// Says what is out of bounds.
    pub fn check(&self) -> Result<(), String> {
        let bounds = |name: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(format!("{name} is {value}, not within {least} to {most}"))
            }
        };
        bounds("mtu", self.mtu as u64, 576, 65_535)?;
        check_buffer("receive_buffer", self.receive_buffer)?;
        check_buffer("send_buffer", self.send_buffer)?;
        bounds("max_connections", self.max_connections as u64, 1, 1 << INDEX_BITS)?;
        bounds("max_pending", self.max_pending as u64, 0, 1 << 20)?;
        // smoltcp forgets a closed connection after 10 s by itself, and what was not received with it.
        bounds("time_wait in microseconds", self.time_wait, 0, 10 * SECOND)?;
        if self.tso_max != 0 {
            bounds("tso_max", self.tso_max as u64, self.mtu as u64, 65_535)?;
            if !self.vnet_header {
                return Err("tso_max needs vnet_header: a super-packet says in its header how to cut it".into());
            }
        }
        if self.timeout != 0 && (self.keepalive == 0 || self.keepalive >= self.timeout) {
            return Err("timeout needs a shorter keepalive: else it would end connections that are merely idle".into());
        }
        Ok(())
    }
}

/// Says what is wrong with the size of a buffer.
pub fn check_buffer(name: &str, size: usize) -> Result<(), String> {
    if (4 << 10..=16 << 20).contains(&size) { Ok(()) } else { Err(format!("{name} is {size}, not within 4 KiB to 16 MiB")) }
}
