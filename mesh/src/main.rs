//! edgeloom-mesh
fn main() {}
