//! The API server as its clients see it: started on a loopback port of its own, driven by `kube`, by raw
//! requests over TLS, and by kubectl where there is one.

#![expect(clippy::unwrap_used, reason = "the helpers of a test")]

#[path = "api/access.rs"]
mod access;
#[path = "api/bounds.rs"]
mod bounds;
#[path = "api/kubectl.rs"]
mod kubectl;
#[path = "api/kubelet.rs"]
mod kubelet;
#[path = "api/objects.rs"]
mod objects;
#[path = "api/server.rs"]
mod server;
#[path = "api/watches.rs"]
mod watches;
