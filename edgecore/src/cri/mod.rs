//! The Container Runtime Interface, version 1: messages ([`proto`]) and a client over the runtime's
//! Unix socket ([`Cri`]). Nothing here knows what a Kubernetes pod is.

mod client;
pub mod proto;

pub use client::{Cri, CriError};
