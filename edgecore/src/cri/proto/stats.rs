//! What containers use.

use std::collections::HashMap;

use super::{ContainerMetadata, FilesystemUsage, UInt64Value};

/// Selects containers whose use is asked for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerStatsFilter {
    /// Id, or empty.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Sandbox, or empty.
    #[prost(string, tag = "2")]
    pub pod_sandbox_id: String,
    /// Labels that all must match.
    #[prost(map = "string, string", tag = "3")]
    pub label_selector: HashMap<String, String>,
}

/// Lists containers' use.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContainerStatsRequest {
    /// Which; all where absent.
    #[prost(message, optional, tag = "1")]
    pub filter: Option<ContainerStatsFilter>,
}

/// Whose use it is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerAttributes {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its identity.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<ContainerMetadata>,
    /// Labels.
    #[prost(map = "string, string", tag = "3")]
    pub labels: HashMap<String, String>,
}

/// CPU use.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct CpuUsage {
    /// When it was measured, in nanoseconds of Unix time.
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    /// CPU time so far, in nanoseconds.
    #[prost(message, optional, tag = "2")]
    pub usage_core_nano_seconds: Option<UInt64Value>,
    /// CPU in use, in thousand millionths of a core.
    #[prost(message, optional, tag = "3")]
    pub usage_nano_cores: Option<UInt64Value>,
}

/// Memory use, in bytes.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct MemoryUsage {
    /// When it was measured, in nanoseconds of Unix time.
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    /// What cannot be reclaimed.
    #[prost(message, optional, tag = "2")]
    pub working_set_bytes: Option<UInt64Value>,
    /// Limit less working set.
    #[prost(message, optional, tag = "3")]
    pub available_bytes: Option<UInt64Value>,
    /// All in use.
    #[prost(message, optional, tag = "4")]
    pub usage_bytes: Option<UInt64Value>,
    /// Anonymous memory.
    #[prost(message, optional, tag = "5")]
    pub rss_bytes: Option<UInt64Value>,
    /// Page faults.
    #[prost(message, optional, tag = "6")]
    pub page_faults: Option<UInt64Value>,
    /// Major page faults.
    #[prost(message, optional, tag = "7")]
    pub major_page_faults: Option<UInt64Value>,
}

/// Use of one container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerStats {
    /// Whose.
    #[prost(message, optional, tag = "1")]
    pub attributes: Option<ContainerAttributes>,
    /// CPU.
    #[prost(message, optional, tag = "2")]
    pub cpu: Option<CpuUsage>,
    /// Memory.
    #[prost(message, optional, tag = "3")]
    pub memory: Option<MemoryUsage>,
    /// Its writable layer.
    #[prost(message, optional, tag = "4")]
    pub writable_layer: Option<FilesystemUsage>,
}

/// Answer to [`ListContainerStatsRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContainerStatsResponse {
    /// One entry a container.
    #[prost(message, repeated, tag = "1")]
    pub stats: Vec<ContainerStats>,
}
