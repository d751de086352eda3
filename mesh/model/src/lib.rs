//! What Services, endpoints, nodes and sites mean, in one place.
//!
//! The agent feeds [`Model`] with Kubernetes objects as they come (raw JSON, in any order); each is
//! checked on its way in and an object that is malformed is refused by name and field without touching
//! the others. Three renderings are made of the result: DNS records, the kernel's Service table and the
//! proxy's. What they share is here: which addresses belong to a Service ([`Service::frontends`]), and
//! which endpoints serve a caller on a given node ([`Model::choose`]).
//!
//! A leaf crate: no I/O, no clock.

mod choice;
mod key;
mod model;
mod name;
mod node;
mod protocol;
mod read;
mod service;
mod slice;
mod workload;

pub use choice::{Backend, Choice, FarBackend, View};
pub use key::ServiceKey;
pub use model::{Counts, Frontend, Model, ObjectKind};
pub use name::{NameError, NodeName, Site};
pub use node::{EdgeNode, Node, Role};
pub use protocol::{Family, Protocol};
pub use read::{FieldError, ObjectError};
pub use service::{Distribution, Entry, Service, ServicePort, ServiceType, TargetPort, TrafficPolicy};
pub use slice::{Endpoint, EndpointSlice, PodRef, SlicePort};
pub use workload::{Pod, Workload};
