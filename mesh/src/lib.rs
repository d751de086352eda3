//! The mesh on one node: what makes a Service's address answer wherever its pods are.
//!
//! [`ops`] and [`program`] are apart from the rest: the metrics and health endpoint that every daemon serves, and
//! what every daemon's `main` does.

pub mod admin;
mod agent;
pub mod balance;
pub mod carrier;
pub mod config;
pub mod daemon;
mod discovery;
mod host;
mod keep;
mod lan;
mod lan_tcp;
mod measure;
pub mod ops;
pub mod program;
pub mod proxy;
pub mod render;
pub mod snapshot;
mod steer;
mod stream;
pub mod uplink;
pub mod wire;

pub use agent::{Agent, AgentConfig, AgentError};

#[cfg(test)]
mod testing;
