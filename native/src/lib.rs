//! A user-space TCP stack in batches, without sockets, threads or a clock, for Python.
//!
//! ```text
//! python.rs    the Python module, nothing else
//! stack.rs     all connections of a link      flow.rs    one of them          device.rs   the link as smoltcp sees it
//! packets.rs   segments                       join.rs    super-packets for IPv6
//! wire/        checksums, virtio-net frames; a crate that easytier_host's module shares
//! buffers.rs   memory                         config.rs  settings             guard.rs    what a panic costs
//! ```

pub mod buffers;
pub mod config;
pub mod device;
pub mod flow;
pub mod guard;
pub mod join;
pub mod packets;
#[cfg(feature = "python")]
mod python;
pub mod stack;

pub use wire::frames;
