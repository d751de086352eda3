//! edgeloom-scenarios
fn main() {}
