//! The memory of connections: anonymous mappings, of which the kernel provides a page when bytes first touch it.
//!
//! smoltcp wants its buffers at full size from the beginning. A zeroed Vec of the usual sizes comes from the heap and is written
//! at once; a mapping costs an idle connection nothing. Used ones are kept for the next connection, their pages being warm.

use std::io;

use memmap2::MmapMut;
use smoltcp::socket::tcp::SocketBuffer;

/// Kept for re-use at most, in bytes: 64 connections of the default size.
const POOL_BYTES: usize = 32 << 20;

/// The receive and the send buffer of one connection.
pub struct Buffers {
    map: MmapMut,
    receive: usize,
}

impl Buffers {
    fn new(receive: usize, send: usize) -> io::Result<Buffers> {
        Ok(Buffers { map: MmapMut::map_anon(receive + send)?, receive })
    }

    /// Both as smoltcp wants them.
    ///
    /// # Safety
    /// What is returned must be dropped before `self` is, or is lent again.
    pub unsafe fn lend(&mut self) -> (SocketBuffer<'static>, SocketBuffer<'static>) {
        // SAFETY: the mapping stays where it is while `self` moves, and the caller promises not to use the slice after it.
        let memory: &'static mut [u8] = unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr(), self.map.len()) };
        let (receive, send) = memory.split_at_mut(self.receive);
        (SocketBuffer::new(receive), SocketBuffer::new(send))
    }
}

/// Used buffers of one pair of sizes.
pub struct Pool {
    receive: usize,
    send: usize,
    free: Vec<Buffers>,
}

impl Pool {
    pub fn new(receive: usize, send: usize) -> Pool {
        Pool { receive, send, free: Vec::new() }
    }

    /// Buffers of the given sizes, or of the pool's. An error means that the system gives no more memory.
    pub fn take(&mut self, receive: Option<usize>, send: Option<usize>) -> io::Result<Buffers> {
        let (receive, send) = (receive.unwrap_or(self.receive), send.unwrap_or(self.send));
        if (receive, send) == (self.receive, self.send)
            && let Some(buffers) = self.free.pop()
        {
            return Ok(buffers);
        }
        Buffers::new(receive, send)
    }

    pub fn give_back(&mut self, buffers: Buffers) {
        let size = self.receive + self.send;
        if buffers.receive == self.receive && buffers.map.len() == size && self.bytes() + size <= POOL_BYTES {
            self.free.push(buffers);
        }
    }

    pub fn bytes(&self) -> usize {
        self.free.len() * (self.receive + self.send)
    }
}
