//! Containers within a sandbox.

use std::collections::HashMap;

use super::{ImageSpec, Int64Value, NamespaceOption, PodSandboxConfig, SecurityProfile};

/// A name and its value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// The name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// How mounts made on one side appear on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MountPropagation {
    /// Not at all.
    Private = 0,
    /// From the host into the container.
    HostToContainer = 1,
    /// Both ways.
    Bidirectional = 2,
}

/// A path of the host seen in the container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mount {
    /// Path in the container.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Path on the host.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Whether writes are refused.
    #[prost(bool, tag = "3")]
    pub readonly: bool,
    /// Whether to relabel for SELinux.
    #[prost(bool, tag = "4")]
    pub selinux_relabel: bool,
    /// Propagation.
    #[prost(enumeration = "MountPropagation", tag = "5")]
    pub propagation: i32,
}

/// Limits and weights of a container's cgroup.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxContainerResources {
    /// CFS period, in microseconds.
    #[prost(int64, tag = "1")]
    pub cpu_period: i64,
    /// CFS quota in a period, in microseconds.
    #[prost(int64, tag = "2")]
    pub cpu_quota: i64,
    /// CPU weight, 1024 a core.
    #[prost(int64, tag = "3")]
    pub cpu_shares: i64,
    /// Memory limit, in bytes.
    #[prost(int64, tag = "4")]
    pub memory_limit_in_bytes: i64,
    /// How early the kernel kills it when memory is short.
    #[prost(int64, tag = "5")]
    pub oom_score_adj: i64,
}

/// Capabilities added and dropped.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Capability {
    /// Added.
    #[prost(string, repeated, tag = "1")]
    pub add_capabilities: Vec<String>,
    /// Dropped.
    #[prost(string, repeated, tag = "2")]
    pub drop_capabilities: Vec<String>,
}

/// Security of a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxContainerSecurityContext {
    /// Capabilities.
    #[prost(message, optional, tag = "1")]
    pub capabilities: Option<Capability>,
    /// Whether it may do what the host's root may.
    #[prost(bool, tag = "2")]
    pub privileged: bool,
    /// Namespaces.
    #[prost(message, optional, tag = "3")]
    pub namespace_options: Option<NamespaceOption>,
    /// User id.
    #[prost(message, optional, tag = "5")]
    pub run_as_user: Option<Int64Value>,
    /// User name, where the image gives no id.
    #[prost(string, tag = "6")]
    pub run_as_username: String,
    /// Whether the root file system is read-only.
    #[prost(bool, tag = "7")]
    pub readonly_rootfs: bool,
    /// Supplementary groups.
    #[prost(int64, repeated, tag = "8")]
    pub supplemental_groups: Vec<i64>,
    /// Whether set-uid programs gain nothing.
    #[prost(bool, tag = "11")]
    pub no_new_privs: bool,
    /// Group id.
    #[prost(message, optional, tag = "12")]
    pub run_as_group: Option<Int64Value>,
    /// Paths hidden from it.
    #[prost(string, repeated, tag = "13")]
    pub masked_paths: Vec<String>,
    /// Paths that it cannot write.
    #[prost(string, repeated, tag = "14")]
    pub readonly_paths: Vec<String>,
    /// Seccomp profile.
    #[prost(message, optional, tag = "15")]
    pub seccomp: Option<SecurityProfile>,
}

/// What is particular to Linux in a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxContainerConfig {
    /// Resources.
    #[prost(message, optional, tag = "1")]
    pub resources: Option<LinuxContainerResources>,
    /// Security.
    #[prost(message, optional, tag = "2")]
    pub security_context: Option<LinuxContainerSecurityContext>,
}

/// What identifies a container in its sandbox.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ContainerMetadata {
    /// Name in the pod's specification.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How many containers of this name the pod had before.
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
}

/// All that is needed to make a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerConfig {
    /// Its identity.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ContainerMetadata>,
    /// Its image.
    #[prost(message, optional, tag = "2")]
    pub image: Option<ImageSpec>,
    /// Replaces the image's entry point.
    #[prost(string, repeated, tag = "3")]
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    #[prost(string, repeated, tag = "4")]
    pub args: Vec<String>,
    /// Working directory; empty for the image's.
    #[prost(string, tag = "5")]
    pub working_dir: String,
    /// Environment.
    #[prost(message, repeated, tag = "6")]
    pub envs: Vec<KeyValue>,
    /// Mounts.
    #[prost(message, repeated, tag = "7")]
    pub mounts: Vec<Mount>,
    /// Labels.
    #[prost(map = "string, string", tag = "9")]
    pub labels: HashMap<String, String>,
    /// Annotations.
    #[prost(map = "string, string", tag = "10")]
    pub annotations: HashMap<String, String>,
    /// Log file, relative to the sandbox's log directory.
    #[prost(string, tag = "11")]
    pub log_path: String,
    /// Whether standard input stays open.
    #[prost(bool, tag = "12")]
    pub stdin: bool,
    /// Whether standard input closes after the first attachment.
    #[prost(bool, tag = "13")]
    pub stdin_once: bool,
    /// Whether it has a terminal.
    #[prost(bool, tag = "14")]
    pub tty: bool,
    /// Linux.
    #[prost(message, optional, tag = "15")]
    pub linux: Option<LinuxContainerConfig>,
}

/// Makes a container without starting it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateContainerRequest {
    /// The sandbox.
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    /// The container.
    #[prost(message, optional, tag = "2")]
    pub config: Option<ContainerConfig>,
    /// The sandbox's configuration, as it was made with.
    #[prost(message, optional, tag = "3")]
    pub sandbox_config: Option<PodSandboxConfig>,
}

/// Names a container, both as an answer and in requests.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerId {
    /// The id.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// Stops a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StopContainerRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Seconds between SIGTERM and SIGKILL; 0 kills at once.
    #[prost(int64, tag = "2")]
    pub timeout: i64,
}

/// Life of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ContainerState {
    /// Made, not started.
    Created = 0,
    /// Started.
    Running = 1,
    /// Ended.
    Exited = 2,
    /// The runtime does not know.
    Unknown = 3,
}

/// Selects containers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerFilter {
    /// Id, or empty.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Sandbox, or empty.
    #[prost(string, tag = "3")]
    pub pod_sandbox_id: String,
    /// Labels that all must match.
    #[prost(map = "string, string", tag = "4")]
    pub label_selector: HashMap<String, String>,
}

/// Lists containers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContainersRequest {
    /// Which; all where absent.
    #[prost(message, optional, tag = "1")]
    pub filter: Option<ContainerFilter>,
}

/// A container in a list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Container {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its sandbox.
    #[prost(string, tag = "2")]
    pub pod_sandbox_id: String,
    /// Its identity.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<ContainerMetadata>,
    /// Image that it was made from.
    #[prost(message, optional, tag = "4")]
    pub image: Option<ImageSpec>,
    /// Reference of that image.
    #[prost(string, tag = "5")]
    pub image_ref: String,
    /// Its life.
    #[prost(enumeration = "ContainerState", tag = "6")]
    pub state: i32,
    /// When it was made, in nanoseconds of Unix time.
    #[prost(int64, tag = "7")]
    pub created_at: i64,
    /// Labels.
    #[prost(map = "string, string", tag = "8")]
    pub labels: HashMap<String, String>,
    /// Annotations.
    #[prost(map = "string, string", tag = "9")]
    pub annotations: HashMap<String, String>,
}

/// Answer to [`ListContainersRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContainersResponse {
    /// The containers.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<Container>,
}

/// A container in full.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerStatus {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its identity.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<ContainerMetadata>,
    /// Its life.
    #[prost(enumeration = "ContainerState", tag = "3")]
    pub state: i32,
    /// When it was made, in nanoseconds of Unix time.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    /// When it was started, 0 for never.
    #[prost(int64, tag = "5")]
    pub started_at: i64,
    /// When it ended, 0 for not yet.
    #[prost(int64, tag = "6")]
    pub finished_at: i64,
    /// Exit code.
    #[prost(int32, tag = "7")]
    pub exit_code: i32,
    /// Image by the name it was asked for.
    #[prost(message, optional, tag = "8")]
    pub image: Option<ImageSpec>,
    /// Reference of that image, with its digest.
    #[prost(string, tag = "9")]
    pub image_ref: String,
    /// Why it is in this state, such as `OOMKilled`.
    #[prost(string, tag = "10")]
    pub reason: String,
    /// The same for a person.
    #[prost(string, tag = "11")]
    pub message: String,
    /// Labels.
    #[prost(map = "string, string", tag = "12")]
    pub labels: HashMap<String, String>,
    /// Annotations.
    #[prost(map = "string, string", tag = "13")]
    pub annotations: HashMap<String, String>,
    /// Mounts.
    #[prost(message, repeated, tag = "14")]
    pub mounts: Vec<Mount>,
    /// Log file on the host.
    #[prost(string, tag = "15")]
    pub log_path: String,
}

/// Answer to a request for one container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerStatusResponse {
    /// The container.
    #[prost(message, optional, tag = "1")]
    pub status: Option<ContainerStatus>,
}
