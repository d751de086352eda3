//! The embedded Kubernetes API, its controllers, and the control's access to it.
//!
//! The control is its administrator at start (it installs what `edgeloom-control install` applies to a
//! real cluster) and a user with least rights from then on.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use edgeloom_plane::{Plane, PlaneConfig};
use edgeloom_store::{ApiServer, ServerConfig};
use kube::Client;
use prometheus::Registry;

use crate::cluster;
use crate::config::Config;
use crate::install;

/// The administrator's kubeconfig, in the state directory.
const ADMIN: &str = "admin.conf";
/// The control's own.
const OWN: &str = "control.conf";

/// The running API with its controllers.
pub struct Embedded {
    server: ApiServer,
    plane: Plane,
}

impl Embedded {
    /// Starts both; returns the control's client.
    pub async fn start(
        config: &Config,
        addresses: &[IpAddr],
        registry: &Registry,
    ) -> anyhow::Result<(Self, Client)> {
        let mut settings = ServerConfig::new(config.state_dir.join("api"), config.embedded.listen);
        settings.advertise = addresses.to_vec();
        settings.names.clone_from(&config.names);
        settings.service_cidrs.clone_from(&config.embedded.service_cidrs);
        let server = ApiServer::start(settings, registry).await?;
        let admin = config.state_dir.join(ADMIN);
        write_private(&admin, &server.admin_kubeconfig()?)?;
        let administrator = cluster::connect(&admin).await?;
        let plane = Plane::start(administrator.clone(), plane_config(config, &server), registry)?;
        install::install(&administrator).await?;
        let own = config.state_dir.join(OWN);
        write_private(&own, &server.kubeconfig_for(crate::MANAGER, &[])?)?;
        let client = cluster::connect(&own).await?;
        tracing::info!(kubeconfig = %admin.display(), "the embedded Kubernetes API is ready");
        Ok((Self { server, plane }, client))
    }

    /// Stops the controllers, then the API.
    pub async fn shutdown(self, drain: Duration) {
        self.plane.shutdown(drain).await;
        self.server.shutdown(drain).await;
    }
}

fn plane_config(config: &Config, server: &ApiServer) -> PlaneConfig {
    let ca = server.ca_pair();
    PlaneConfig {
        cluster_cidrs: config.embedded.cluster_cidrs.clone(),
        root_ca_pem: server.ca_certificate_pem().to_owned(),
        signing_certificate_pem: ca.certificate.clone(),
        signing_key_pem: ca.key.clone(),
    }
}

/// Writes a file that nobody else may read, whole or not at all.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    Ok(())
}
