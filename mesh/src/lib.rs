//! edgeloom-mesh
