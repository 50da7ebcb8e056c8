//! Sealed frames: a peer header of 16 bytes in clear, ciphertext, 16 bytes of tag, 12 bytes of nonce.
//!
//! Layouts: `crypto.py` and `packet.py` of easytier_host. Nonces are the caller's, who must never give one twice.

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

pub const PEER_HEADER: usize = 16;
pub const TAG: usize = 16;
pub const NONCE: usize = 12;
/// What sealing adds to a payload.
pub const TAIL: usize = TAG + NONCE;

/// All of a peer header but the length of the payload, which is its last field.
pub type Head = [u8; PEER_HEADER - 4];

/// One key.
pub struct Aead(LessSafeKey);

impl Aead {
    /// None if there is no such algorithm, or the key is not of its size.
    pub fn new(algorithm: &str, key: &[u8]) -> Option<Aead> {
        let algorithm = match algorithm {
            "aes-gcm" => &AES_128_GCM,
            "aes-256-gcm" => &AES_256_GCM,
            "chacha20" => &CHACHA20_POLY1305,
            _ => return None,
        };
        Some(Aead(LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?)))
    }

    /// Write the frame of `payload` into `frame`, which has exactly the room for it.
    pub fn seal(&self, head: &Head, payload: &[u8], nonce: [u8; NONCE], frame: &mut [u8]) {
        let (header, sealed) = frame.split_at_mut(PEER_HEADER);
        let (head_field, length_field) = header.split_at_mut(head.len());
        head_field.copy_from_slice(head);
        length_field.copy_from_slice(&(payload.len() as u32).to_le_bytes());
        let (body, tail) = sealed.split_at_mut(payload.len());
        body.copy_from_slice(payload);
        let tag = self.0.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), body);
        // It fails above 64 GiB only.
        tail[..TAG].copy_from_slice(tag.expect("a payload fits into memory").as_ref());
        tail[TAG..].copy_from_slice(&nonce);
    }

    /// The length of a frame's payload; None if the frame is too short to be sealed.
    pub fn opened_size(frame: &[u8]) -> Option<usize> {
        frame.len().checked_sub(PEER_HEADER + TAIL)
    }

    /// Write the payload of `frame` into `payload`, which has exactly the room for it; false if it was not sealed with this key.
    pub fn open(&self, frame: &[u8], payload: &mut [u8]) -> bool {
        let (body, tail) = frame[PEER_HEADER..].split_at(payload.len());
        let (tag, nonce) = tail.split_at(TAG);
        let (Ok(tag), Ok(nonce)) = (Tag::try_from(tag), Nonce::try_assume_unique_for_key(nonce)) else { return false };
        payload.copy_from_slice(body);
        self.0.open_in_place_separate_tag(nonce, Aad::empty(), tag, payload, 0..).is_ok()
    }
}

/// Nonce number `index` of a batch: a prefix of 8 bytes, and a counter of 4, big endian; None past the end of the counter.
pub fn nonce(prefix: [u8; 8], first: u32, index: usize) -> Option<[u8; NONCE]> {
    let counter = first.checked_add(u32::try_from(index).ok()?)?;
    let mut nonce = [0; NONCE];
    nonce[..8].copy_from_slice(&prefix);
    nonce[8..].copy_from_slice(&counter.to_be_bytes());
    Some(nonce)
}
