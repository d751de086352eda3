//! Version, status and the streaming requests of the runtime service.

use std::collections::HashMap;

/// Asks for the runtime's name and version.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VersionRequest {
    /// Version of the kubelet's runtime API.
    #[prost(string, tag = "1")]
    pub version: String,
}

/// The runtime's name and version.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VersionResponse {
    /// Name of the runtime, such as `containerd`.
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    /// Version of the runtime.
    #[prost(string, tag = "3")]
    pub runtime_version: String,
    /// Version of the interface that it speaks.
    #[prost(string, tag = "4")]
    pub runtime_api_version: String,
}

/// Asks for the runtime's conditions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRequest {
    /// Whether to add details.
    #[prost(bool, tag = "1")]
    pub verbose: bool,
}

/// One condition of the runtime: `RuntimeReady` or `NetworkReady`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RuntimeCondition {
    /// Name of the condition.
    #[prost(string, tag = "1")]
    pub r#type: String,
    /// Whether it holds.
    #[prost(bool, tag = "2")]
    pub status: bool,
    /// CamelCase reason.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// What a person reads.
    #[prost(string, tag = "4")]
    pub message: String,
}

/// The runtime's conditions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RuntimeStatus {
    /// All of them.
    #[prost(message, repeated, tag = "1")]
    pub conditions: Vec<RuntimeCondition>,
}

/// Answer to [`StatusRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusResponse {
    /// The conditions.
    #[prost(message, optional, tag = "1")]
    pub status: Option<RuntimeStatus>,
    /// Details, where asked for.
    #[prost(map = "string, string", tag = "2")]
    pub info: HashMap<String, String>,
}

/// Runs a command in a container and waits for its end.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecSyncRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Command and arguments.
    #[prost(string, repeated, tag = "2")]
    pub cmd: Vec<String>,
    /// Seconds after which the command is killed; 0 for never.
    #[prost(int64, tag = "3")]
    pub timeout: i64,
}

/// What the command of an [`ExecSyncRequest`] said.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecSyncResponse {
    /// Its standard output.
    #[prost(bytes = "vec", tag = "1")]
    pub stdout: Vec<u8>,
    /// Its standard error.
    #[prost(bytes = "vec", tag = "2")]
    pub stderr: Vec<u8>,
    /// Its exit code.
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
}

/// Asks for a URL at which a command can be run with its streams attached.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Command and arguments.
    #[prost(string, repeated, tag = "2")]
    pub cmd: Vec<String>,
    /// Whether to allocate a terminal.
    #[prost(bool, tag = "3")]
    pub tty: bool,
    /// Whether to stream standard input.
    #[prost(bool, tag = "4")]
    pub stdin: bool,
    /// Whether to stream standard output.
    #[prost(bool, tag = "5")]
    pub stdout: bool,
    /// Whether to stream standard error; never together with a terminal.
    #[prost(bool, tag = "6")]
    pub stderr: bool,
}

/// Asks for a URL at which a container's main process can be attached to.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttachRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Whether to stream standard input.
    #[prost(bool, tag = "2")]
    pub stdin: bool,
    /// Whether the process has a terminal.
    #[prost(bool, tag = "3")]
    pub tty: bool,
    /// Whether to stream standard output.
    #[prost(bool, tag = "4")]
    pub stdout: bool,
    /// Whether to stream standard error; never together with a terminal.
    #[prost(bool, tag = "5")]
    pub stderr: bool,
}

/// Asks for a URL at which ports of a sandbox can be forwarded.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PortForwardRequest {
    /// The sandbox.
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    /// The ports, where known beforehand.
    #[prost(int32, repeated, tag = "2")]
    pub port: Vec<i32>,
}

/// Answer to [`ExecRequest`], [`AttachRequest`] and [`PortForwardRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct StreamingResponse {
    /// Where the runtime's streaming server waits for the one request.
    #[prost(string, tag = "1")]
    pub url: String,
}
