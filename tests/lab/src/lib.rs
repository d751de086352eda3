//! edgeloom-lab
