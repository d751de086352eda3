//! edgeloom-client
