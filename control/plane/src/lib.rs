//! edgeloom-plane
