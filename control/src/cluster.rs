//! The Kubernetes API that the control works for: the user's own, by a kubeconfig, or the embedded one.
//!
//! Nothing beyond this module knows which of the two it is.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, ResourceExt};

/// How long a cluster may take to answer at start before that is an error and not patience.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no cluster to work for.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kubeconfig cannot be read.
    #[error("kubeconfig {path}: {}", reason(.source))]
    Kubeconfig {
        /// Its path.
        path: String,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// No client can be made of it.
    #[error("kubeconfig {path}: {source}")]
    Client {
        /// Its path.
        path: String,
        /// What is wrong with it.
        source: Box<kube::Error>,
    },
    /// The API does not answer.
    #[error(
        "the Kubernetes API at {url} does not answer: {source}; check that it runs, its address and the credentials"
    )]
    Silent {
        /// Where it should be.
        url: String,
        /// The last try's error.
        source: Box<kube::Error>,
    },
    /// Something that every cluster has is not there.
    #[error("the cluster has no {0}")]
    Missing(&'static str),
}

/// What is wrong, without the kubeconfig's path, and with other paths quoted once.
fn reason(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(error, _) => error.to_string(),
        other => other.to_string().replace("'\"", "'").replace("\"'", "'"),
    }
}

/// A client of the cluster of a kubeconfig, once that answers.
pub async fn connect(path: &std::path::Path) -> Result<Client, ClusterError> {
    let name = path.display().to_string();
    let unreadable = |source| ClusterError::Kubeconfig { path: name.clone(), source };
    let file = Kubeconfig::read_from(path).map_err(unreadable)?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await.map_err(unreadable)?;
    let url = config.cluster_url.to_string();
    let client = Client::try_from(config)
        .map_err(|source| ClusterError::Client { path: name.clone(), source: Box::new(source) })?;
    answers(&client, &url).await?;
    Ok(client)
}

/// Waits until the API answers.
async fn answers(client: &Client, url: &str) -> Result<(), ClusterError> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match client.apiserver_version().await {
            Ok(version) => {
                tracing::info!(url, version = version.git_version, "the Kubernetes API answers");
                return Ok(());
            }
            Err(error) if tokio::time::Instant::now() < deadline => {
                tracing::warn!(url, %error, "the Kubernetes API does not answer yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(source) => {
                return Err(ClusterError::Silent { url: url.to_owned(), source: Box::new(source) });
            }
        }
    }
}

/// What tells this cluster from every other: the UID of its `kube-system` namespace.
pub async fn identifier(client: &Client) -> Result<String, kube::Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    Ok(namespaces.get("kube-system").await?.uid().unwrap_or_default())
}

/// The CA (PEM) that signs the cluster's client certificates, from where extension servers find it.
pub async fn client_ca(client: &Client) -> Result<Option<String>, kube::Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map = maps.get_opt("extension-apiserver-authentication").await?;
    Ok(map.and_then(|map| map.data?.remove("client-ca-file")))
}

/// Addresses at which others reach this host: those configured, else those of its interfaces.
pub fn addresses(configured: &[IpAddr]) -> Vec<IpAddr> {
    if !configured.is_empty() {
        return configured.to_vec();
    }
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let all = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    all.filter(is_reachable).collect()
}

fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !address.is_loopback() && !address.is_link_local() && !address.is_unspecified()
        }
        IpAddr::V6(address) => {
            !address.is_loopback() && !address.is_unspecified() && !address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_others_reach() {
        let all = ["127.0.0.1", "::1", "fe80::1", "169.254.1.1", "203.0.113.10", "2001:db8::1"];
        let all = all.iter().map(|text| text.parse::<IpAddr>().unwrap());
        let kept: Vec<String> = all.filter(is_reachable).map(|address| address.to_string()).collect();
        assert_eq!(kept, ["203.0.113.10", "2001:db8::1"]);
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let Err(error) = connect(std::path::Path::new("/nowhere/admin.conf")).await else { panic!() };
        assert_eq!(
            error.to_string(),
            "kubeconfig /nowhere/admin.conf: No such file or directory (os error 2)"
        );
    }
}
