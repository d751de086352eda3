//! The datapath in a real kernel, with real sockets. Needs root; says so and passes without.

#![expect(clippy::unwrap_used, reason = "a test that meets an error here has failed")]

mod far;
mod figures;
mod host;
mod lasting;
mod near;
mod net;
