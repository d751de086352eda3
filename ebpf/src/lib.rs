//! edgeloom-ebpf
