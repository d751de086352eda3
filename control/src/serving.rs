//! The certificate of the control's HTTPS ports, kept fresh.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::cluster::{self, ClusterError};
use crate::config::Certificate;
use crate::kubelet::{CertificateError, obtain};
use crate::tls::{Pair, TlsError, server};

/// How soon a failed renewal is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// Why the HTTPS ports have no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// None was signed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The configured one cannot be read.
    #[error("kubelet.certificate: {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It cannot be served with.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The cluster's client CA could not be read.
    #[error("the cluster's client CA (ConfigMap kube-system/extension-apiserver-authentication): {0}")]
    ClientCa(#[from] kube::Error),
    /// There is no client CA.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// The TLS configurations of both kinds of port.
#[derive(Clone)]
pub struct Serving {
    /// HTTP/1.1 alone, since upgrades pass through.
    pub kubelet: Arc<ArcSwap<rustls::ServerConfig>>,
    /// HTTP/2 too.
    pub admin: Arc<ArcSwap<rustls::ServerConfig>>,
}

/// Where the certificate comes from.
#[derive(Clone)]
pub struct Source {
    /// The cluster.
    pub client: Client,
    /// Names and addresses that it must have.
    pub names: Vec<String>,
    /// Files to use instead.
    pub files: Option<Certificate>,
}

impl Source {
    /// The configurations of now, and when to come again.
    pub async fn load(&self) -> Result<(Serving, SystemTime), ServingError> {
        let ((kubelet, admin), renew) = self.configs().await?;
        let swap = |config| Arc::new(ArcSwap::from_pointee(config));
        Ok((Serving { kubelet: swap(kubelet), admin: swap(admin) }, renew))
    }

    async fn configs(
        &self,
    ) -> Result<((rustls::ServerConfig, rustls::ServerConfig), SystemTime), ServingError> {
        let missing = ClusterError::Missing("client CA in kube-system/extension-apiserver-authentication");
        let client_ca = cluster::client_ca(&self.client).await?.ok_or(missing)?;
        let (pair, renew) = match &self.files {
            Some(files) => (read(files)?, SystemTime::now() + Duration::from_secs(3600)),
            None => obtain(&self.client, &self.names).await?,
        };
        let kubelet = server(&pair, &client_ca, &[b"http/1.1"])?;
        let admin = server(&pair, &client_ca, &[b"h2", b"http/1.1"])?;
        Ok(((kubelet, admin), renew))
    }

    /// Renews in time until stopped.
    pub async fn keep(self, serving: Serving, mut renew: SystemTime, stop: CancellationToken) {
        loop {
            let wait = renew.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
            match self.configs().await {
                Ok(((kubelet, admin), next)) => {
                    serving.kubelet.store(Arc::new(kubelet));
                    serving.admin.store(Arc::new(admin));
                    renew = next;
                }
                Err(error) => {
                    tracing::error!(%error, "renewing the serving certificate; trying again");
                    renew = SystemTime::now() + RETRY;
                }
            }
        }
    }
}

fn read(files: &Certificate) -> Result<Pair, ServingError> {
    let text = |path: &std::path::Path| {
        std::fs::read_to_string(path)
            .map_err(|source| ServingError::File { path: path.display().to_string(), source })
    };
    Ok(Pair { certificate: text(&files.certificate)?, key: text(&files.key)? })
}
