//! A client of the CRI runtime and image services over a Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::proto::*;

/// For calls that only read the runtime's memory. Long, because a starved host answers late.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// For calls that make or end something: networks, mounts, processes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);
/// A pull ends when its transfer stands still, which the runtime itself watches; this is the outer bound.
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);
/// Lists of many containers with long annotations exceed gRPC's default of 4 MiB.
const MAX_MESSAGE: usize = 16 << 20;

/// Why a call to the runtime failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CriError {
    /// The configured socket is no usable path.
    #[error("CRI socket {socket}: {reason}")]
    Socket {
        /// The path.
        socket: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing answers at the socket.
    #[error(
        "no container runtime answers at {socket} ({reason}); install and start one \
         (apt-get install containerd runc) or set cri.socket"
    )]
    Unreachable {
        /// The path.
        socket: PathBuf,
        /// What the transport said.
        reason: String,
    },
    /// The runtime refused.
    #[error("rpc error: code = {code:?} desc = {message}")]
    Refused {
        /// Name of the call.
        method: &'static str,
        /// gRPC code.
        code: Code,
        /// The runtime's words.
        message: String,
    },
    /// The answer lacks what the interface promises.
    #[error("{method}: the runtime's answer has no {what}")]
    Incomplete {
        /// Name of the call.
        method: &'static str,
        /// What is absent.
        what: &'static str,
    },
}

impl CriError {
    /// Whether the object of the call does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: Code::NotFound, .. })
    }

    /// Whether the call ran into its time limit.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Refused { code: Code::DeadlineExceeded | Code::Cancelled, .. })
    }

    /// The runtime's own words, without gRPC's.
    pub fn message(&self) -> String {
        match self {
            Self::Refused { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }
}

/// A handle on a container runtime; clones share one connection, which is made when first needed and
/// again whenever it is lost.
#[derive(Clone, Debug)]
pub struct Cri {
    channel: Channel,
    socket: PathBuf,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $service:literal $method:literal ($request:ty) -> $answer:ty, $timeout:expr;)*) => {
        impl Cri {
            $(
                $(#[$doc])*
                pub async fn $name(&self, request: $request) -> Result<$answer, CriError> {
                    let path = concat!("/runtime.v1.", $service, "/", $method);
                    self.call($method, path, request, $timeout).await
                }
            )*
        }
    };
}

calls! {
    /// Name and version of the runtime.
    version = "RuntimeService" "Version" (VersionRequest) -> VersionResponse, READ_TIMEOUT;
    /// Conditions of the runtime.
    status = "RuntimeService" "Status" (StatusRequest) -> StatusResponse, READ_TIMEOUT;
    /// Makes and starts a sandbox, its network included.
    run_pod_sandbox = "RuntimeService" "RunPodSandbox" (RunPodSandboxRequest) -> PodSandboxId, WRITE_TIMEOUT;
    /// Stops a sandbox with all in it and frees its network. Doing it again is no error.
    stop_pod_sandbox = "RuntimeService" "StopPodSandbox" (PodSandboxId) -> Empty, WRITE_TIMEOUT;
    /// Removes a sandbox with all in it.
    remove_pod_sandbox = "RuntimeService" "RemovePodSandbox" (PodSandboxId) -> Empty, WRITE_TIMEOUT;
    /// One sandbox in full.
    pod_sandbox_status = "RuntimeService" "PodSandboxStatus" (PodSandboxId) -> PodSandboxStatusResponse, READ_TIMEOUT;
    /// The sandboxes that match.
    list_pod_sandbox = "RuntimeService" "ListPodSandbox" (ListPodSandboxRequest) -> ListPodSandboxResponse, READ_TIMEOUT;
    /// Makes a container.
    create_container = "RuntimeService" "CreateContainer" (CreateContainerRequest) -> ContainerId, WRITE_TIMEOUT;
    /// Starts a container that was made.
    start_container = "RuntimeService" "StartContainer" (ContainerId) -> Empty, WRITE_TIMEOUT;
    /// Removes a container, killing it where it runs.
    remove_container = "RuntimeService" "RemoveContainer" (ContainerId) -> Empty, WRITE_TIMEOUT;
    /// The containers that match.
    list_containers = "RuntimeService" "ListContainers" (ListContainersRequest) -> ListContainersResponse, READ_TIMEOUT;
    /// One container in full.
    container_status = "RuntimeService" "ContainerStatus" (ContainerId) -> ContainerStatusResponse, READ_TIMEOUT;
    /// Has the runtime open a container's log file again, after it was moved.
    reopen_container_log = "RuntimeService" "ReopenContainerLog" (ContainerId) -> Empty, READ_TIMEOUT;
    /// URL for a command with its streams.
    exec = "RuntimeService" "Exec" (ExecRequest) -> StreamingResponse, READ_TIMEOUT;
    /// URL for the streams of a container's main process.
    attach = "RuntimeService" "Attach" (AttachRequest) -> StreamingResponse, READ_TIMEOUT;
    /// URL for ports of a sandbox.
    port_forward = "RuntimeService" "PortForward" (PortForwardRequest) -> StreamingResponse, READ_TIMEOUT;
    /// What containers use.
    list_container_stats = "RuntimeService" "ListContainerStats" (ListContainerStatsRequest) -> ListContainerStatsResponse, READ_TIMEOUT;
    /// All images.
    list_images = "ImageService" "ListImages" (ListImagesRequest) -> ListImagesResponse, READ_TIMEOUT;
    /// One image, if the runtime has it.
    image_status = "ImageService" "ImageStatus" (ImageRequest) -> ImageStatusResponse, READ_TIMEOUT;
    /// Pulls an image.
    pull_image = "ImageService" "PullImage" (PullImageRequest) -> PullImageResponse, PULL_TIMEOUT;
    /// Removes an image.
    remove_image = "ImageService" "RemoveImage" (ImageRequest) -> Empty, WRITE_TIMEOUT;
    /// Use of the images' file systems.
    image_fs_info = "ImageService" "ImageFsInfo" (ImageFsInfoRequest) -> ImageFsInfoResponse, READ_TIMEOUT;
}

impl Cri {
    /// A client of the runtime that listens at `socket`. Connects on the first call.
    pub fn new(socket: &Path) -> Result<Self, CriError> {
        let refused = |reason: String| CriError::Socket { socket: socket.to_owned(), reason };
        if !socket.is_absolute() {
            return Err(refused("not an absolute path".to_owned()));
        }
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self { channel: endpoint.connect_lazy(), socket: socket.to_owned() })
    }

    /// Stops a container: SIGTERM, `grace` to end, SIGKILL.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
        };
        let path = "/runtime.v1.RuntimeService/StopContainer";
        let _: Empty = self.call("StopContainer", path, request, grace + WRITE_TIMEOUT).await?;
        Ok(())
    }

    /// Runs a command in a container; it is killed after `timeout`.
    pub async fn exec_sync(
        &self,
        id: &str,
        cmd: &[String],
        timeout: Duration,
    ) -> Result<ExecSyncResponse, CriError> {
        let seconds = timeout.as_secs().max(1);
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: cmd.to_vec(),
            timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
        };
        let path = "/runtime.v1.RuntimeService/ExecSync";
        self.call("ExecSync", path, request, Duration::from_secs(seconds) + READ_TIMEOUT).await
    }

    async fn call<Q, A>(
        &self,
        method: &'static str,
        path: &'static str,
        request: Q,
        timeout: Duration,
    ) -> Result<A, CriError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready().await.map_err(|error| self.unreachable(&error))?;
        let mut request = Request::new(request);
        request.set_timeout(timeout);
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc.unary(request, PathAndQuery::from_static(path), codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(method, &status))
    }

    fn refused(&self, method: &'static str, status: &tonic::Status) -> CriError {
        match (status.code(), std::error::Error::source(status)) {
            (Code::Unavailable, Some(source)) => self.unreachable(source),
            (code, _) => CriError::Refused { method, code, message: status.message().to_owned() },
        }
    }

    /// The innermost cause is the one that says something: "No such file or directory".
    fn unreachable(&self, error: &dyn std::error::Error) -> CriError {
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        CriError::Unreachable { socket: self.socket.clone(), reason: cause.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_runtime_is_named_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("absent.sock");
        let error = Cri::new(&socket).unwrap().version(VersionRequest::default()).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, CriError::Unreachable { .. }), "{error:?}");
        assert!(text.contains("absent.sock") && text.contains("apt-get install containerd"), "{text}");
    }

    #[test]
    fn a_relative_socket_is_refused() {
        assert!(matches!(Cri::new(Path::new("containerd.sock")), Err(CriError::Socket { .. })));
    }
}
