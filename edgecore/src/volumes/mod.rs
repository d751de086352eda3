//! Volumes of pods: made before the containers start, kept up to date while they run, removed after.
//!
//! A pod's directory is `pods/UID` below the state directory: `volumes/NAME`, `subpaths`, `tokens`,
//! `etc-hosts`, `containers/NAME/ATTEMPT` (last words), `status.json`. It is readable by root only; what
//! containers see of it they see through their mounts.

pub mod atomic;
pub mod host;
pub mod payload;
pub mod tokens;
pub mod tree;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Volume, VolumeMount};
use time::OffsetDateTime;

use crate::cri::proto::{Mount, MountPropagation};
use crate::edged::cluster::Cluster;
use crate::edged::env::Environment;
use crate::edged::fields::Facts;
use crate::edged::pod::Pod;
use crate::edged::resources;

/// A volume that could not be set up, in kubelet's words.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
pub struct MountError {
    /// Name of the volume.
    pub volume: String,
    /// What is wrong.
    pub reason: String,
}

/// The directories of one pod.
#[derive(Clone, Debug)]
pub struct PodDirectory(PathBuf);

impl PodDirectory {
    /// The directory of the pod with this uid, below `pods`.
    pub fn new(pods: &Path, uid: &str) -> Self {
        Self(pods.join(uid))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The pod's hosts file.
    pub fn hosts(&self) -> PathBuf {
        self.0.join("etc-hosts")
    }

    /// The status that was written last.
    pub fn status(&self) -> PathBuf {
        self.0.join("status.json")
    }

    /// Where a container leaves its last words.
    pub fn last_words(&self, container: &str, attempt: u32) -> PathBuf {
        self.0.join("containers").join(container).join(attempt.to_string())
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.0.join("volumes").join(name)
    }

    fn sub_path(&self, volume: &str, container: &str, index: usize) -> PathBuf {
        self.0.join("subpaths").join(volume).join(container).join(index.to_string())
    }

    fn tokens(&self, volume: &str) -> PathBuf {
        self.0.join("tokens").join(volume)
    }

    /// Makes the directory, closed to everyone but root.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700))
    }

    /// Unmounts and removes all of it. An error where something stays mounted: what is in it is not the pod's.
    pub fn remove(&self) -> io::Result<()> {
        tree::remove(&self.0)
    }
}

/// Sets up every volume of the pod, or brings it up to date. Returns the Unix second at which it must be
/// done again for a token's sake.
pub async fn set_up(
    pod: &Pod,
    directory: &PodDirectory,
    facts: &Facts,
    cluster: &Arc<dyn Cluster>,
) -> Result<Option<i64>, MountError> {
    let mut renew = None;
    for volume in pod.spec.volumes.iter().flatten() {
        let refused = |reason: String| MountError { volume: volume.name.clone(), reason };
        if volume.name.is_empty() || volume.name.contains('/') || volume.name.starts_with('.') {
            return Err(refused("this name cannot be used".to_owned()));
        }
        let at = set_up_one(pod, volume, directory, facts, cluster).await.map_err(refused)?;
        renew = renew.into_iter().chain(at).min();
    }
    Ok(renew)
}

async fn set_up_one(
    pod: &Pod,
    volume: &Volume,
    directory: &PodDirectory,
    facts: &Facts,
    cluster: &Arc<dyn Cluster>,
) -> Result<Option<i64>, String> {
    let path = directory.volume(&volume.name);
    let gid = fs_group(pod);
    if let Some(source) = &volume.host_path {
        host::check_host_path(Path::new(&source.path), source.type_.as_deref().unwrap_or_default())?;
        return Ok(None);
    }
    if let Some(source) = &volume.empty_dir {
        let limit = source.size_limit.as_ref().and_then(resources::units).and_then(|n| u64::try_from(n).ok());
        let memory = (source.medium.as_deref() == Some("Memory")).then(|| limit.unwrap_or(0));
        host::make_empty_dir(&path, memory, gid).map_err(|error| error.to_string())?;
        return Ok(None);
    }
    let Some(mut payload) = payload::payload(pod, volume, facts, cluster.as_ref())? else {
        return Err(
            "edge nodes offer emptyDir, hostPath, configMap, secret, projected and downwardAPI volumes; \
                    this one is of another type"
                .to_owned(),
        );
    };
    let now = OffsetDateTime::now_utc();
    let mut renew = None;
    for wish in &payload.tokens {
        let kept = directory.tokens(&volume.name);
        let token = tokens::token(pod, wish, &kept, cluster.as_ref(), now).await?;
        // A token that could not be renewed is tried again in a while.
        let at = token.renew_at().max(now.unix_timestamp() + 60);
        renew = Some(renew.map_or(at, |before: i64| before.min(at)));
        let (mode, uid) = token_access(pod, wish.mode, gid);
        payload.files.insert(wish.path.clone(), atomic::File { content: token.token.into(), mode, uid });
    }
    tokio::task::spawn_blocking(move || atomic::write(&path, &payload.files, gid, now))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    Ok(renew)
}

/// A token is for its pod's user alone, where all containers run as one, as kubelet has it.
fn token_access(pod: &Pod, mode: u32, gid: Option<u32>) -> (u32, Option<u32>) {
    let of_pod = pod.spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = pod.containers().map(|(_, container)| {
        container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod)
    });
    let first = users.next().flatten();
    let shared = users.all(|user| user == first).then_some(first).flatten();
    match (gid, shared.and_then(|user| u32::try_from(user).ok())) {
        (Some(_), _) => (mode & 0o660, None),
        (None, Some(user)) => (0o600, Some(user)),
        (None, None) => (mode, None),
    }
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// The mounts of a container, once the pod's volumes are set up.
pub fn mounts(
    pod: &Pod,
    container: &Container,
    directory: &PodDirectory,
    environment: &Environment,
) -> Result<Vec<Mount>, String> {
    let wanted = container.volume_mounts.iter().flatten().enumerate();
    wanted.map(|(index, mount)| one_mount(pod, container, mount, index, directory, environment)).collect()
}

fn one_mount(
    pod: &Pod,
    container: &Container,
    mount: &VolumeMount,
    index: usize,
    directory: &PodDirectory,
    environment: &Environment,
) -> Result<Mount, String> {
    let volumes = pod.spec.volumes.as_deref().unwrap_or_default();
    let volume = volumes
        .iter()
        .find(|volume| volume.name == mount.name)
        .ok_or_else(|| format!("volume {:?} of mount {} is not in the pod", mount.name, mount.mount_path))?;
    let mut host_path = match &volume.host_path {
        Some(source) => PathBuf::from(&source.path),
        None => directory.volume(&volume.name),
    };
    let sub = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => Some(path.clone()),
        (_, Some(expression)) if !expression.is_empty() => Some(environment.expand(expression)),
        _ => None,
    };
    if let Some(sub) = sub {
        let target = directory.sub_path(&volume.name, &container.name, index);
        host::bind_sub_path(&host_path, &sub, &target)?;
        host_path = target;
    }
    let data = [volume.config_map.is_some(), volume.secret.is_some(), volume.projected.is_some()];
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => MountPropagation::HostToContainer,
        Some("Bidirectional") => MountPropagation::Bidirectional,
        _ => MountPropagation::Private,
    };
    Ok(Mount {
        container_path: Path::new("/").join(&mount.mount_path).display().to_string(),
        host_path: host_path.display().to_string(),
        readonly: mount.read_only.unwrap_or(false) || data.contains(&true) || volume.downward_api.is_some(),
        selinux_relabel: false,
        propagation: propagation as i32,
    })
}
