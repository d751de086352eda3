//! The meaning of Services in one place, for the datapath, DNS and the proxy to render.

mod name;

pub use name::{NameError, NodeName, Site};
