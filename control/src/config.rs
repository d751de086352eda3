//! The control's configuration: one YAML file, every field with a default.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgeloom_api::names;
use edgeloom_tunnel::Limits;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Everything that `edgeloom-control` can be told. `--print-config` prints it with the values in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Config {
    /// Cache, keys of the embedded API and last known state; nothing of it is needed beside a real cluster.
    pub state_dir: PathBuf,
    /// Kubeconfig of the cluster to work for. None: the embedded API is started and used.
    pub kubeconfig: Option<PathBuf>,
    /// Site of this host.
    pub site: String,
    /// Addresses at which edge nodes and the API server reach this host. None given: those of its interfaces.
    pub addresses: Vec<IpAddr>,
    /// Further names and addresses for the serving certificates, such as that of a load balancer.
    pub names: Vec<String>,
    /// The embedded Kubernetes API.
    pub embedded: Embedded,
    /// The overlay, the relay included.
    pub overlay: Overlay,
    /// The HTTPS for `meshctl` and Prometheus.
    pub admin: Admin,
    /// The ports that stand for the nodes' kubelets.
    pub kubelet: Kubelet,
    /// Joining and credentials.
    pub join: Join,
    /// Plain HTTP for `/metrics`, `/healthz` and `/readyz`.
    pub ops: Ops,
    /// How long running streams may go on after a stop was asked for, in seconds.
    pub drain_seconds: u64,
}

/// The embedded Kubernetes API and its controllers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Embedded {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Ranges of Service addresses, one of each family.
    pub service_cidrs: Vec<IpNet>,
    /// Ranges of which every Node gets a piece for its pods, one of each family.
    pub cluster_cidrs: Vec<IpNet>,
}

/// The overlay's socket at the control.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Overlay {
    /// UDP address and port; TCP at the same port takes nodes whose UDP is blocked.
    pub listen: SocketAddr,
    /// Whether TCP at that port is taken.
    pub carriers: bool,
    /// Where WebSockets over TLS are taken, for nodes from which only HTTPS leads outside, such as `[::]:443`. Nodes
    /// dial port 443 unless they are told otherwise.
    pub websocket: Option<SocketAddr>,
    /// Whether this control relays between nodes that find no direct path.
    pub relay: bool,
    /// What others may take of this control, as a relay too.
    pub limits: Limits,
}

/// The admin HTTPS.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// The kubelet ports.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Kubelet {
    /// Address on which every node's port is opened.
    pub listen: IpAddr,
    /// Certificate and key (PEM) to serve with. None: one is asked for by a CertificateSigningRequest
    /// for `kubernetes.io/kubelet-serving`.
    pub certificate: Option<Certificate>,
}

/// A certificate chain and its key, in PEM files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Certificate {
    /// Certificate chain, leaf first.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// Joining and credentials.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Join {
    /// Life of a node's credential in hours; it is renewed at two thirds.
    pub credential_hours: u64,
    /// How long after its end a credential can still be renewed, in hours.
    pub grace_hours: u64,
    /// Ranges of Services of a `kubeconfig`'s cluster that serves no ServiceCIDRs (before Kubernetes 1.33).
    pub service_cidrs: Vec<IpNet>,
}

/// Plain HTTP for metrics and health.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Ops {
    /// Where it listens.
    pub listen: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: Path::new(names::STATE_DIR).join("control"),
            kubeconfig: None,
            site: "cloud".to_owned(),
            addresses: Vec::new(),
            names: Vec::new(),
            embedded: Embedded::default(),
            overlay: Overlay::default(),
            admin: Admin::default(),
            kubelet: Kubelet::default(),
            join: Join::default(),
            ops: Ops::default(),
            drain_seconds: 5,
        }
    }
}

impl Default for Embedded {
    fn default() -> Self {
        let range = |text: &str| text.parse().expect("the literal is a valid range");
        Self {
            listen: any(names::API_PORT),
            service_cidrs: vec![range("10.96.0.0/12"), range("fd00:10:96::/108")],
            cluster_cidrs: vec![range("10.244.0.0/16"), range("fd00:10:244::/48")],
        }
    }
}

impl Default for Overlay {
    fn default() -> Self {
        Self {
            listen: any(names::OVERLAY_PORT),
            carriers: true,
            websocket: None,
            relay: true,
            limits: Limits::default(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: any(names::ADMIN_PORT) }
    }
}

impl Default for Kubelet {
    fn default() -> Self {
        Self { listen: Ipv6Addr::UNSPECIFIED.into(), certificate: None }
    }
}

impl Default for Join {
    fn default() -> Self {
        Self { credential_hours: 24 * 90, grace_hours: 24 * 30, service_cidrs: Vec::new() }
    }
}

impl Default for Ops {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], names::OPS_PORT)) }
    }
}

impl Config {
    /// How long a stop may take before it is forced.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

/// All addresses of both families; without IPv6 the listener falls back to IPv4.
fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeloom_api::config::{Sources, load};

    #[test]
    fn every_field_has_a_default() {
        let config: Config = load(&Sources::default()).unwrap();
        assert_eq!(config.embedded.listen.port(), names::API_PORT);
        assert!(config.overlay.relay);
    }

    #[test]
    fn what_is_printed_can_be_read_back() {
        let text = serde_yaml_ng::to_string(&Config::default()).unwrap();
        let sources = Sources { file: Some(("control.yaml", &text)), ..Sources::default() };
        let config: Config = load(&sources).unwrap();
        assert_eq!(serde_yaml_ng::to_string(&config).unwrap(), text);
    }

    #[test]
    fn a_misspelt_field_is_refused_by_name() {
        let sources =
            Sources { file: Some(("control.yaml", "overlay: {relai: true}")), ..Sources::default() };
        let error = load::<Config>(&sources).unwrap_err().to_string();
        assert!(error.contains("relai"), "{error}");
    }
}
