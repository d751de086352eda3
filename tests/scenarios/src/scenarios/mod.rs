//! The scenarios, by what they are about.

pub(crate) mod across_sites;
pub(crate) mod bad_input;
pub(crate) mod datapath;
pub(crate) mod lab;
pub(crate) mod offline;
pub(crate) mod operators;
pub(crate) mod own_cluster;
pub(crate) mod same_lan;
pub(crate) mod sites;
pub(crate) mod strangers;
pub(crate) mod tunnel;
pub(crate) mod wan;
