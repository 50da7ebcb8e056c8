//! What both Python modules know of packets: checksums, and device frames that a kernel left unfinished.
//!
//! Pure functions on bytes, without state and without Python.

pub mod frames;
pub mod sums;
