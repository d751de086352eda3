//! edgeloom-conformance
fn main() {}
