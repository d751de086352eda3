//! Messages of the Container Runtime Interface, version 1 (`runtime.v1`), as far as edged uses them.
//!
//! Written from the field numbers of the published interface; fields that are not listed are skipped
//! when decoding, as protobuf asks for, so that any runtime that speaks CRI v1 is understood.

mod container;
mod image;
mod runtime;
mod sandbox;
mod stats;

pub use container::*;
pub use image::*;
pub use runtime::*;
pub use sandbox::*;
pub use stats::*;

/// An `int64` whose absence means something.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Int64Value {
    /// The value.
    #[prost(int64, tag = "1")]
    pub value: i64,
}

/// A `uint64` whose absence means something.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct UInt64Value {
    /// The value.
    #[prost(uint64, tag = "1")]
    pub value: u64,
}
