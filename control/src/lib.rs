//! edgeloom-control
