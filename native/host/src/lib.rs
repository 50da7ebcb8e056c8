//! What easytier_host does for every packet, in batches, for Python: sealing and opening, super-packets to packets and back.
//!
//! ```text
//! python.rs    the Python module, nothing else
//! aead.rs      sealed frames                  runs.rs      packets to super-packets
//! ../wire/     super-packets to packets, checksums
//! ```
//!
//! The host has all of this in Python too, with the same bytes as results; its tests compare the two.

pub mod aead;
#[cfg(feature = "python")]
mod python;
pub mod runs;
