//! What our own frames on the shared UDP socket look like: pure, bounded, without I/O.
//!
//! The first byte of a QUIC packet is 0x40 or above (RFC 9000, section 17, with the QUIC bit left alone); our
//! frames begin below it. [`frame`] is the outer form, which the socket reads; [`message`] is what two nodes say
//! to each other inside sealed frames; [`seal`] holds the keys of both; [`stamp`] makes frames good once; [`codec`] is
//! the bounded reading of bytes.

pub(crate) mod codec;
pub mod frame;
pub mod message;
pub mod seal;
pub mod stamp;

#[cfg(test)]
mod tests;
