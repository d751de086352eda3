//! edgeloom-model
