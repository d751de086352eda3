//! What the programs of Edgeloom agree on: names, ports, Kubernetes kinds, custom resources,
//! the messages of joining and of the hub, tokens and credentials, and how configuration is read.
//!
//! A leaf crate: it does no I/O and reads no clock. Everything else in the workspace may depend on it.

pub mod admin;
pub mod config;
pub mod credential;
pub mod hub;
pub mod join;
pub mod kind;
pub mod message;
pub mod names;
pub mod overlap;
pub mod token;
pub mod v1alpha1;
