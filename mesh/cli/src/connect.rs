//! Where to ask: a daemon's socket, or the control by the kubeconfig.

use std::path::{Path, PathBuf};

use edgeloom_api::names::{ADMIN_PORT, RUN_DIR};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::args::Args;
use crate::http::Client;

/// Daemons whose sockets are looked for when nothing else says where to ask.
const DAEMONS: [&str; 2] = ["edgecore", "mesh-agent"];

/// Variable with the control's address. Not clap's to read: what that has from the environment it shows in every
/// usage line, as if it had to be given.
const CONTROL: &str = "MESHCTL_CONTROL";

/// What answers.
pub(crate) enum Source {
    /// One daemon.
    Daemon(Client),
    /// The control, which sees all nodes.
    Control(Client),
}

/// Nothing was found that could be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The kubeconfig is missing or wrong.
    #[error("{}; check --kubeconfig, $KUBECONFIG and --context", reason(.0))]
    Kubeconfig(#[from] KubeconfigError),
    /// The API server's address has no host.
    #[error("the API server's address {0} names no host; say where the control is with --control HOST")]
    NoHost(String),
    /// The control's address is none.
    #[error("--control or ${CONTROL} {0:?}: expected HOST or HOST:PORT")]
    Control(String),
    /// The client could not be built.
    #[error("credentials of the kubeconfig: {0}")]
    Credentials(#[from] kube::Error),
    /// Neither a kubeconfig nor a socket.
    #[error(
        "nobody to ask: no kubeconfig ($KUBECONFIG, ~/.kube/config) and no daemon's socket in {RUN_DIR}; \
         use --kubeconfig PATH from anywhere, or --socket PATH on a node"
    )]
    Nobody,
}

/// Follows the options; without any, the kubeconfig, then a socket of this machine.
pub(crate) async fn connect(args: &Args) -> Result<Source, ConnectError> {
    if let Some(path) = &args.socket {
        return Ok(Source::Daemon(Client::socket(path.clone())));
    }
    match kubeconfig(args.kubeconfig.as_deref()) {
        Ok(kubeconfig) => control(args, kubeconfig).await,
        Err(error) if args.kubeconfig.is_some() || is_set("KUBECONFIG") => Err(error.into()),
        Err(_) => local_socket().map(|path| Source::Daemon(Client::socket(path))).ok_or(ConnectError::Nobody),
    }
}

/// What is wrong with a kubeconfig; kube's own words quote paths twice.
fn reason(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(error, path) => {
            format!("the kubeconfig {} cannot be read: {error}", path.display())
        }
        other => other.to_string(),
    }
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

fn kubeconfig(path: Option<&Path>) -> Result<Kubeconfig, KubeconfigError> {
    path.map_or_else(Kubeconfig::read, Kubeconfig::read_from)
}

fn local_socket() -> Option<PathBuf> {
    let sockets = DAEMONS.map(|name| Path::new(RUN_DIR).join(format!("{name}.sock")));
    sockets.into_iter().find(|path| path.exists())
}

async fn control(args: &Args, kubeconfig: Kubeconfig) -> Result<Source, ConnectError> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let named =
        args.control.clone().or_else(|| std::env::var(CONTROL).ok().filter(|named| !named.is_empty()));
    let authority = match &named {
        Some(control) => with_port(control),
        None => {
            let host = config.cluster_url.host();
            let host = host.ok_or_else(|| ConnectError::NoHost(config.cluster_url.to_string()))?;
            with_port(host)
        }
    };
    let url = format!("https://{authority}/");
    config.cluster_url = url.parse().map_err(|_| ConnectError::Control(named.unwrap_or_default()))?;
    Ok(Source::Control(Client::control(authority, kube::Client::try_from(config)?)))
}

/// The address with the control's port where it has none. An IPv6 address stands in brackets.
fn with_port(address: &str) -> String {
    let bare_v6 = address.parse::<std::net::Ipv6Addr>().is_ok();
    let tail = address.rsplit(']').next().unwrap_or(address);
    if bare_v6 {
        format!("[{address}]:{ADMIN_PORT}")
    } else if tail.contains(':') {
        address.to_owned()
    } else {
        format!("{address}:{ADMIN_PORT}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_that_is_not_there_is_named_once() {
        let error = ConnectError::from(kubeconfig(Some(Path::new("/nope"))).unwrap_err()).to_string();
        assert!(error.starts_with("the kubeconfig /nope cannot be read: No such file"), "{error}");
    }

    #[test]
    fn the_control_stands_beside_the_api_server() {
        for (address, want) in [
            ("203.0.113.10", "203.0.113.10:20007"),
            ("control.example:443", "control.example:443"),
            ("fd00::1", "[fd00::1]:20007"),
            ("[fd00::1]", "[fd00::1]:20007"),
            ("[fd00::1]:443", "[fd00::1]:443"),
        ] {
            assert_eq!(with_port(address), want);
        }
    }
}
