//! edgeloom-tunnel
