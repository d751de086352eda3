//! kubelet endpoints.
pub mod logs;
