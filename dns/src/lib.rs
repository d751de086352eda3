//! edgeloom-dns
