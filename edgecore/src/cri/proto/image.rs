//! Images.

use std::collections::HashMap;

use super::{Int64Value, PodSandboxConfig, UInt64Value};

/// Names an image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageSpec {
    /// Reference, by tag, digest or id.
    #[prost(string, tag = "1")]
    pub image: String,
    /// Annotations.
    #[prost(map = "string, string", tag = "2")]
    pub annotations: HashMap<String, String>,
}

/// An image that the runtime holds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Image {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// References by tag.
    #[prost(string, repeated, tag = "2")]
    pub repo_tags: Vec<String>,
    /// References by digest.
    #[prost(string, repeated, tag = "3")]
    pub repo_digests: Vec<String>,
    /// Size in bytes.
    #[prost(uint64, tag = "4")]
    pub size: u64,
    /// User id that the image asks to run as.
    #[prost(message, optional, tag = "5")]
    pub uid: Option<Int64Value>,
    /// User name that the image asks to run as.
    #[prost(string, tag = "6")]
    pub username: String,
    /// Whether the runtime itself needs it (a sandbox image).
    #[prost(bool, tag = "8")]
    pub pinned: bool,
}

/// Lists all images.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ListImagesRequest {}

/// Answer to [`ListImagesRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListImagesResponse {
    /// The images.
    #[prost(message, repeated, tag = "1")]
    pub images: Vec<Image>,
}

/// Asks for an image, or removes it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageRequest {
    /// The image.
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
}

/// Answer to a request for one image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageStatusResponse {
    /// The image; absent where the runtime has it not.
    #[prost(message, optional, tag = "1")]
    pub image: Option<Image>,
}

/// Credentials for a registry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AuthConfig {
    /// User name.
    #[prost(string, tag = "1")]
    pub username: String,
    /// Password.
    #[prost(string, tag = "2")]
    pub password: String,
    /// `user:password` in base64.
    #[prost(string, tag = "3")]
    pub auth: String,
    /// The registry.
    #[prost(string, tag = "4")]
    pub server_address: String,
    /// Token that is exchanged for an access token.
    #[prost(string, tag = "5")]
    pub identity_token: String,
    /// Bearer token.
    #[prost(string, tag = "6")]
    pub registry_token: String,
}

/// Pulls an image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PullImageRequest {
    /// The image.
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
    /// Credentials, where the registry needs them.
    #[prost(message, optional, tag = "2")]
    pub auth: Option<AuthConfig>,
    /// The sandbox for whose sake it is pulled.
    #[prost(message, optional, tag = "3")]
    pub sandbox_config: Option<PodSandboxConfig>,
}

/// Answer to [`PullImageRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct PullImageResponse {
    /// Reference of what was pulled.
    #[prost(string, tag = "1")]
    pub image_ref: String,
}

/// Asks for the use of the images' file system.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ImageFsInfoRequest {}

/// A file system.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FilesystemIdentifier {
    /// A directory on it.
    #[prost(string, tag = "1")]
    pub mountpoint: String,
}

/// Use of a file system.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FilesystemUsage {
    /// When it was measured, in nanoseconds of Unix time.
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    /// Which one.
    #[prost(message, optional, tag = "2")]
    pub fs_id: Option<FilesystemIdentifier>,
    /// Bytes used.
    #[prost(message, optional, tag = "3")]
    pub used_bytes: Option<UInt64Value>,
    /// Inodes used.
    #[prost(message, optional, tag = "4")]
    pub inodes_used: Option<UInt64Value>,
}

/// Answer to [`ImageFsInfoRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageFsInfoResponse {
    /// One entry a file system.
    #[prost(message, repeated, tag = "1")]
    pub image_filesystems: Vec<FilesystemUsage>,
}
