//! edgeloom-store
