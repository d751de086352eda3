//! edgeloom-control
fn main() {}
