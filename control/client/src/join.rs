//! The first start of a node: from a token to a [`Membership`] on disk. Later starts load it, with the cloud
//! there or not.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use edgeloom_api::join::{JoinRequest, RefusalReason};
use edgeloom_api::names::OVERLAY_PORT;
use edgeloom_api::token::{JoinToken, TokenError};
use edgeloom_model::NodeName;
use edgeloom_tunnel::Carriers;
use edgeloom_tunnel::identity::Refusal;
use edgeloom_tunnel::join::{self as wire, Proof};
use ipnet::IpNet;
use rand::Rng as _;
use tokio::net::lookup_host;

use crate::membership::{Membership, MembershipError};
use crate::routes;

/// Longest time between tries while the control is away or busy, or the clock is wrong.
const RETRY: Duration = Duration::from_secs(5);

/// What a node is told to join with.
#[derive(Clone)]
pub struct JoinConfig {
    /// Where identity and membership are kept.
    pub state_dir: PathBuf,
    /// Name that the Node is to have.
    pub node: NodeName,
    /// Where the control is: `HOST` or `HOST:PORT`.
    pub control: Vec<String>,
    /// The join token; needed at the first start only.
    pub token: Option<String>,
    /// Give up on a control that does not answer after this long.
    pub patience: Duration,
    /// What is done where UDP is blocked.
    pub carriers: Carriers,
}

impl fmt::Debug for JoinConfig {
    /// Without the token, which lets anybody join who reads a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinConfig")
            .field("node", &self.node)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There is no state and no token.
    #[error(
        "this node has not joined yet and has no token: get one from `meshctl token create --site SITE`, and give it with the control's address"
    )]
    NoToken,
    /// There is no address.
    #[error("no address of the control is configured")]
    NoControl,
    /// The token is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The state on disk.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The node has joined under another name.
    #[error(
        "this node has joined as {joined} and is now to be called {configured}: restore the name, or `edgecore reset` and join again"
    )]
    Renamed {
        /// The name it has.
        joined: NodeName,
        /// The name in its configuration.
        configured: NodeName,
    },
    /// The control did not let it in.
    #[error(transparent)]
    Wire(#[from] wire::JoinError),
}

/// Loads the membership, or joins.
pub async fn join(config: &JoinConfig) -> Result<Membership, JoinError> {
    if let Some(mut membership) = Membership::load(&config.state_dir)? {
        if membership.node != config.node {
            let (joined, configured) = (membership.node, config.node.clone());
            return Err(JoinError::Renamed { joined, configured });
        }
        membership.carriers = config.carriers.clone();
        return Ok(membership);
    }
    let token: JoinToken = config.token.as_deref().ok_or(JoinError::NoToken)?.parse()?;
    if config.control.is_empty() {
        return Err(JoinError::NoControl);
    }
    let identity = Membership::identity(&config.state_dir)?;
    let request = describe_host(&config.node, token.secret(), routes::of_host());
    let deadline = tokio::time::Instant::now() + config.patience;
    loop {
        let addresses = resolve(&config.control).await;
        match wire::request(&identity, Proof::Token(&token), &addresses, &config.carriers, &request).await {
            Ok(joined) => {
                let mut membership = Membership::of(&config.state_dir, identity, joined)?;
                membership.carriers = config.carriers.clone();
                membership.save()?;
                tracing::info!(node = %membership.node, site = %membership.site, "joined");
                return Ok(membership);
            }
            Err(error) if worth_another_try(&error) && tokio::time::Instant::now() + RETRY < deadline => {
                // Hosts that were turned away together do not come again together.
                let pause = rand::rng().random_range(RETRY / 2..=RETRY);
                tracing::warn!(%error, "joining; trying again in {:.1} s", pause.as_secs_f32());
                tokio::time::sleep(pause).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Renews an expired credential at the control, by the credential itself.
pub(crate) async fn renew_expired(membership: &Membership) -> Result<Membership, JoinError> {
    let trust = membership.trust().map_err(MembershipError::from)?;
    let request = describe_host(&membership.node, "", Vec::new());
    let proof = Proof::Credential(&membership.credential, &trust);
    let Membership { identity, control, carriers, .. } = membership;
    let joined = wire::request(identity, proof, &control.addresses, carriers, &request).await?;
    let mut renewed = membership.clone();
    renewed.credential = joined.credential;
    renewed.save()?;
    Ok(renewed)
}

/// A clock that is wrong may be set yet, and a control that is away may come.
fn worth_another_try(error: &wire::JoinError) -> bool {
    match error {
        wire::JoinError::Unreachable(_) | wire::JoinError::Protocol { .. } => true,
        wire::JoinError::Control { refusal, .. } => {
            matches!(**refusal, Refusal::NotYetValid { .. } | Refusal::Expired { .. })
        }
        wire::JoinError::Refused(refused) => refused.reason == RefusalReason::Unavailable,
        _ => false,
    }
}

fn describe_host(node: &NodeName, secret: &str, routes: Vec<IpNet>) -> JoinRequest {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    JoinRequest {
        secret: secret.to_owned(),
        node: node.to_string(),
        hostname: hostname.trim().to_owned(),
        os: std::env::consts::OS.to_owned(),
        arch: arch.to_owned(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        routes,
    }
}

async fn resolve(control: &[String]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for host in control {
        let with_port = match host.parse::<std::net::IpAddr>() {
            Ok(address) => SocketAddr::new(address, OVERLAY_PORT).to_string(),
            Err(_) if host.contains(':') => host.clone(),
            Err(_) => format!("{host}:{OVERLAY_PORT}"),
        };
        match lookup_host(&with_port).await {
            Ok(found) => addresses.extend(found),
            Err(error) => tracing::warn!(control = host, %error, "cannot resolve the control's address"),
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_need_no_port() {
        let found = resolve(&["203.0.113.10".into(), "2001:db8::1".into(), "203.0.113.11:7".into()]).await;
        let expected = ["203.0.113.10:20006", "[2001:db8::1]:20006", "203.0.113.11:7"];
        assert_eq!(found, expected.map(|address| address.parse::<SocketAddr>().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_state_a_token_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = JoinConfig {
            state_dir: folder.path().to_owned(),
            node: NodeName::new("a").unwrap(),
            control: Vec::new(),
            token: None,
            patience: Duration::ZERO,
            carriers: Carriers::default(),
        };
        assert!(matches!(join(&config).await, Err(JoinError::NoToken)));
        config.token = Some("nonsense".into());
        assert!(matches!(join(&config).await, Err(JoinError::Token(_))));
        config.token = Some(JoinToken::new(b"ca", [1; 32]).expose());
        assert!(matches!(join(&config).await, Err(JoinError::NoControl)));
        config.control = vec!["127.0.0.1:9".into()];
        let error = join(&config).await.unwrap_err();
        assert!(matches!(&error, JoinError::Wire(wire::JoinError::Unreachable(_))), "{error}");
        // The identity stays for the next try.
        assert!(folder.path().join("identity.key").exists());
    }
}
