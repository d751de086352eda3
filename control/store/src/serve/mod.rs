//! The embedded API server as a whole: keys, store, HTTP face, and the objects that a cluster starts
//! with.
//!
//! ```text
//!  ServerConfig ─> pki (CA, serving certificate, client certificates) ─┐
//!                └> Store ──> Access (rules followed) ──> Face ─────────┴─> connections
//! ```

mod bootstrap;
mod certificate;
mod kubeconfig;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::certificate::Serving;
use crate::auth::pki::{Authority, Pair, PkiError};
use crate::auth::token::{KeyError, Signer};
use crate::db::{Store, StoreConfig};
use crate::http::{Access, Face, KubeletClient, Listener, Metrics, TlsSetup, serve};

/// How the server is to run.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Directory of the database and the keys; made if it is not there.
    pub data_dir: PathBuf,
    /// Address and port to listen on; port 0 takes any.
    pub listen: SocketAddr,
    /// Addresses by which clients reach the server. The first stands in kubeconfigs and is the endpoint of
    /// the Service `kubernetes`; with none it is that of `listen`.
    pub advertise: Vec<IpAddr>,
    /// Further DNS names in the serving certificate.
    pub names: Vec<String>,
    /// Ranges of ClusterIPs, the first of which is the default family.
    pub service_cidrs: Vec<IpNet>,
    /// Domain of the cluster's DNS names.
    pub cluster_domain: String,
    /// Further authorities whose certificates kubelets may serve with, as PEM; the server's own counts.
    pub kubelet_ca_pem: Option<String>,
}

impl ServerConfig {
    /// The defaults of the project, with state in `data_dir`, listening on `listen`.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        let data_dir = data_dir.into();
        Self {
            service_cidrs: StoreConfig::new(&data_dir).service_cidrs,
            data_dir,
            listen,
            advertise: Vec::new(),
            names: Vec::new(),
            cluster_domain: edgeloom_api::names::CLUSTER_DOMAIN.to_owned(),
            kubelet_ca_pem: None,
        }
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot use the data directory {path}: {source}")]
    DataDir { path: PathBuf, source: std::io::Error },
    #[error("cannot listen on {address}: {source}; is another API server running there?")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("a certificate or key is not valid PEM: {0}")]
    Pem(String),
    #[error("the object database failed: {0}")]
    Store(#[from] crate::Error),
    #[error("metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A running API server.
pub struct ApiServer {
    store: Store,
    authority: Arc<Authority>,
    address: SocketAddr,
    advertised: SocketAddr,
    face: Arc<Face>,
    connections: TaskTracker,
    background: TaskTracker,
    stop: CancellationToken,
    force: CancellationToken,
}

impl ApiServer {
    /// Starts the server; on return it answers, and the objects that a cluster starts with are there.
    pub async fn start(config: ServerConfig, registry: &prometheus::Registry) -> Result<Self, ServeError> {
        let pki = config.data_dir.join("pki");
        let data_dir = |source| ServeError::DataDir { path: config.data_dir.clone(), source };
        std::fs::create_dir_all(&pki).map_err(data_dir)?;
        let authority = Arc::new(Authority::load_or_create(&pki, "edgeloom-ca")?);
        let signer = Signer::load_or_create(&pki.join("sa.key"))?;
        let metrics = Metrics::new(registry)?;
        let store = open(&config, registry).await?;
        let tcp = TcpListener::bind(config.listen)
            .await
            .map_err(|source| ServeError::Listen { address: config.listen, source })?;
        let address = tcp.local_addr().map_err(data_dir)?;
        let advertised =
            SocketAddr::new(config.advertise.first().copied().unwrap_or(address.ip()), address.port());

        let serving = Serving::new(&config, address.ip(), authority.clone(), pki);
        let clients = certificate::roots(authority.certificate_pem())?;
        let tls = Arc::new(TlsSetup::new(serving.load_or_issue()?, clients)?);
        let kubelet = certificate::kubelet_client(&authority, config.kubelet_ca_pem.as_deref())?;
        let (stop, force) = (CancellationToken::new(), CancellationToken::new());
        let access = Arc::new(Access::new(store.clone(), signer));
        let kubelet = KubeletClient::new(kubelet);
        let face = Face::new(store.clone(), access.clone(), kubelet, advertised, metrics, stop.clone());
        let face = Arc::new(face);

        bootstrap::run(&store, &config, advertised, authority.certificate_pem()).await?;
        access.refresh().await?;
        face.ready.store(true, Ordering::Relaxed);
        let (connections, background) = (TaskTracker::new(), TaskTracker::new());
        let followed_until = stop.clone();
        background.spawn(async move { access.follow(&followed_until).await });
        background.spawn(certificate::renew(serving, tls.clone(), stop.clone()));
        let accepting =
            serve(Listener { tcp, tls }, face.clone(), connections.clone(), stop.clone(), force.clone());
        background.spawn(async move {
            if let Err(error) = accepting.await {
                tracing::error!(%error, "the API server cannot accept connections");
            }
        });
        tracing::info!(%address, "the Kubernetes API is up");
        Ok(Self { store, authority, address, advertised, face, connections, background, stop, force })
    }

    /// The objects.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that clients are given.
    pub fn url(&self) -> String {
        format!("https://{}", self.advertised)
    }

    /// The authority's certificate: clients verify the server by it, and kubelets the server's calls.
    pub fn ca_certificate_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// Certificate and key of the authority, for the controller that signs certificate requests.
    pub fn ca_pair(&self) -> &Pair {
        self.authority.pair()
    }

    /// A kubeconfig for an administrator (`system:masters`), good for a year.
    pub fn admin_kubeconfig(&self) -> Result<String, ServeError> {
        self.kubeconfig_for("kubernetes-admin", &["system:masters"])
    }

    /// A kubeconfig with a new client certificate for a user in these groups (two at most), good for a
    /// year.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<String, ServeError> {
        let pair = self.authority.client(user, groups)?;
        Ok(kubeconfig::render(&self.url(), self.ca_certificate_pem(), user, &pair))
    }

    /// A client certificate for a user in these groups (two at most), good for a year.
    pub fn client_certificate(&self, user: &str, groups: &[&str]) -> Result<Pair, ServeError> {
        Ok(self.authority.client(user, groups)?)
    }

    /// Stops accepting, ends watches, gives requests `drain` to finish, then cuts what is left.
    pub async fn shutdown(self, drain: Duration) {
        self.stop.cancel();
        for tracker in [&self.background, &self.connections, &self.face.tasks] {
            tracker.close();
        }
        let finished = async {
            self.connections.wait().await;
            self.face.tasks.wait().await;
        };
        if tokio::time::timeout(drain, finished).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "requests were cut at shutdown");
            self.force.cancel();
            self.connections.wait().await;
            self.face.tasks.wait().await;
        }
        self.background.wait().await;
        self.store.shutdown().await;
    }
}

/// Opens the database on a thread for blocking work.
async fn open(config: &ServerConfig, registry: &prometheus::Registry) -> Result<Store, ServeError> {
    let mut store = StoreConfig::new(config.data_dir.join("objects.db"));
    store.service_cidrs.clone_from(&config.service_cidrs);
    store.metrics = Some(registry.clone());
    let opened = tokio::task::spawn_blocking(move || Store::open(&store)).await;
    let aborted = |error| crate::Error::internal(format_args!("opening the database was aborted: {error}"));
    Ok(opened.map_err(aborted)??)
}
