//! edgeloom-lab
fn main() {}
