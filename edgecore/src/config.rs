//! The configuration of `edgecore`: one YAML file, every field with a default.

use std::net::IpAddr;
use std::path::PathBuf;

use edgeloom_api::names;
use edgeloom_mesh::config::{Control, Ops, Overlay, Settings as MeshSettings};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Everything that `edgecore` can be told. `--print-config` prints it with the values in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Config {
    /// Name of the Node. By default the host's name, in lower case.
    pub node: String,
    /// Identity, credential, objects, reports and pods' volumes: what must be found again after a reboot.
    pub state_dir: PathBuf,
    /// Directory of the admin socket, `edgecore.sock`.
    pub run_dir: PathBuf,
    /// The control, and how to join it.
    pub control: Control,
    /// The overlay's socket.
    pub overlay: Overlay,
    /// The node's place at its site.
    pub site: Site,
    /// The container runtime.
    pub cri: CriConfig,
    /// Pods.
    pub pods: Pods,
    /// The pods' network.
    pub network: Network,
    /// The mesh agent.
    pub mesh: MeshSettings,
    /// Plain HTTP for `/metrics`, `/healthz` and `/readyz`.
    pub ops: Ops,
    /// How long running streams may go on after a stop was asked for, in seconds.
    pub drain_seconds: u64,
}

/// The node's place at its site.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Site {
    /// Its address there, the pods' hostIP. By default the one that the default route is used with.
    pub address: Option<IpAddr>,
    /// Its interface there, where no address is given.
    pub interface: Option<String>,
}

/// The container runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct CriConfig {
    /// Its Unix socket.
    pub socket: PathBuf,
}

/// Pods.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Pods {
    /// Directory of the containers' logs.
    pub log_dir: PathBuf,
    /// A log is rotated when it exceeds so many bytes.
    pub log_max_bytes: u64,
    /// Files kept of a log, the one being written included.
    pub log_max_files: usize,
    /// Cgroup of all pods, as the runtime names it; a path that ends in `.slice` where it uses systemd.
    pub cgroup: String,
    /// The host's resolver configuration, for pods that use it.
    pub resolv_conf: PathBuf,
    /// Pods at most.
    pub max: u32,
}

/// The pods' network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Network {
    /// Directory of CNI configurations that the container runtime reads.
    pub conf_dir: PathBuf,
    /// Directory of the addresses that were given to pods.
    pub data_dir: PathBuf,
    /// Whether pods leave the node under its address (nftables).
    pub masquerade: bool,
    /// Ranges of all nodes' pods.
    pub cluster_cidrs: Vec<IpNet>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: hostname(),
            state_dir: PathBuf::from(names::STATE_DIR).join("edgecore"),
            run_dir: PathBuf::from(names::RUN_DIR),
            control: Control::default(),
            overlay: Overlay::default(),
            site: Site::default(),
            cri: CriConfig::default(),
            pods: Pods::default(),
            network: Network::default(),
            mesh: MeshSettings::default(),
            ops: Ops::default(),
            drain_seconds: 5,
        }
    }
}

impl Default for CriConfig {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/containerd/containerd.sock") }
    }
}

impl Default for Pods {
    fn default() -> Self {
        Self {
            log_dir: PathBuf::from("/var/log/pods"),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            cgroup: "/kubepods".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            max: 110,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            conf_dir: PathBuf::from("/etc/cni/net.d"),
            data_dir: PathBuf::from("/var/lib/cni/edgeloom"),
            masquerade: true,
            cluster_cidrs: vec![
                IpNet::new_assert([10, 244, 0, 0].into(), 16),
                IpNet::new_assert([0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0].into(), 48),
            ],
        }
    }
}

/// The host's name, or nothing where that cannot be a Node's.
fn hostname() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_default().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeloom_api::config::{Sources, load};

    fn read(text: &str) -> Result<Config, edgeloom_api::config::ConfigError> {
        load(&Sources { file: Some(("edgecore.yaml", text)), ..Sources::default() })
    }

    #[test]
    fn what_is_printed_can_be_read() {
        let printed = serde_yaml_ng::to_string(&Config::default()).unwrap();
        let again = read(&printed).unwrap();
        assert_eq!(serde_yaml_ng::to_string(&again).unwrap(), printed);
    }

    #[test]
    fn a_short_file_is_enough() {
        let config = read("node: edge-a\ncontrol: {addresses: [203.0.113.10], token: x.y}\n").unwrap();
        assert_eq!((config.node.as_str(), config.pods.max), ("edge-a", 110));
        assert!(read("pods: {logDirectory: /x}").unwrap_err().to_string().contains("logDirectory"));
    }
}
