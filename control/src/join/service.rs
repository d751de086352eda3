//! The conversation with one joiner.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use edgeloom_api::credential::{Role, SignedCredential};
use edgeloom_api::hub::Failure;
use edgeloom_api::join::{
    Contact, FromJoiner, FromServer, JoinRefused, JoinRequest, JoinResponse, Offer, RefusalReason, VERSION,
};
use edgeloom_api::message::MessageError;
use edgeloom_api::overlap;
use edgeloom_model::NodeName;
use edgeloom_tunnel::Stream;
use edgeloom_tunnel::frames::{self, FrameError};
use edgeloom_tunnel::identity::{AuthorityError, Joiner, Trust, TrustError, Verified};
use edgeloom_tunnel::share::Shares;
use prometheus::{IntCounterVec, Registry};
use tokio::sync::Semaphore;

use super::issue::{Holder, Issuer};
use super::nodes::{NodeRefusal, Nodes, Standing};
use super::ranges::ServiceRanges;
use super::tokens::{TokenRefusal, Tokens};

/// Largest message of a joiner: a few names and the routes of a host.
const MAX_REQUEST: usize = 256 << 10;
/// How long a joiner may take over its part.
const PATIENCE: Duration = Duration::from_secs(15);
/// Joiners served at a time; others are told to come again.
const AT_A_TIME: usize = 128;
/// Of them, from one source: a site's NAT stands before many hosts, and none of them locks the door.
const PER_SOURCE: usize = 16;
/// How long one who is told to come again may take to read it.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the service needs to know.
pub struct JoinConfig {
    /// Signs credentials.
    pub issuer: Issuer,
    /// The control as a member of its own mesh.
    pub own: Holder,
    /// Where this control is reached.
    pub control: Contact,
    /// The relays that nodes register with.
    pub relays: Vec<Contact>,
    /// Ranges of Services, which no route of a host may overlap.
    pub services: ServiceRanges,
}

/// Admits nodes.
#[derive(Clone)]
pub struct JoinService {
    inner: Arc<Inner>,
}

struct Inner {
    config: JoinConfig,
    client: kube::Client,
    nodes: Nodes,
    tokens: Tokens,
    trust: Trust,
    own: Mutex<SignedCredential>,
    room: Semaphore,
    shares: Shares,
    joined: IntCounterVec,
}

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A metric stands already in the registry.
    #[error("metrics of joining: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The CA cannot be trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The CA cannot sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// Why a conversation ended without a node.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Write(#[from] std::io::Error),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("{0} where a request was due")]
    OutOfTurn(&'static str),
    #[error("the joiner took longer than {} s", PATIENCE.as_secs())]
    Slow,
}

/// Why a joiner is refused, as it is told.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    #[error(transparent)]
    Node(#[from] NodeRefusal),
    #[error("{0}")]
    Name(String),
    #[error(
        "the cluster's range {range} overlaps this host's route {route}: change the route, or the \
         cluster's pod and Service ranges"
    )]
    Overlap { range: ipnet::IpNet, route: ipnet::IpNet },
    #[error("the control cannot sign a credential: {0}")]
    Sign(#[from] AuthorityError),
}

impl Refused {
    fn reason(&self) -> RefusalReason {
        match self {
            Self::Token(refusal) => refusal.reason(),
            Self::Node(refusal) => refusal.reason(),
            Self::Name(_) => RefusalReason::NodeName,
            Self::Overlap { .. } => RefusalReason::Overlap,
            Self::Sign(_) => RefusalReason::Unavailable,
        }
    }
}

impl JoinService {
    /// A service on these tokens and nodes.
    pub fn new(
        client: kube::Client,
        config: JoinConfig,
        tokens: Tokens,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        let joined = IntCounterVec::new(
            prometheus::Opts::new(
                "edgeloom_control_joins_total",
                "Hosts that asked to join or to renew a credential, by result (admitted, or the reason of the refusal).",
            ),
            &["result"],
        )?;
        registry.register(Box::new(joined.clone()))?;
        let inner = Inner {
            nodes: Nodes::new(client.clone()),
            client,
            tokens,
            trust: config.issuer.trust()?,
            own: Mutex::new(config.issuer.issue(&config.own)?),
            room: Semaphore::new(AT_A_TIME),
            shares: Shares::new(PER_SOURCE),
            joined,
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What every node of the cluster trusts.
    pub fn trust(&self) -> Trust {
        self.inner.trust.clone()
    }

    /// The control's own credential.
    pub fn own_credential(&self) -> SignedCredential {
        self.inner.own.lock().expect("no holder of this lock panics").clone()
    }

    /// A new credential for the control itself, where two thirds of the old one's life are over.
    pub fn renew_own(&self) -> Result<Option<SignedCredential>, AuthorityError> {
        let mut own = self.inner.own.lock().expect("no holder of this lock panics");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if now.as_secs() < own.claims().renew_at() {
            return Ok(None);
        }
        *own = self.inner.config.issuer.issue(&self.inner.config.own)?;
        Ok(Some(own.clone()))
    }

    /// A new credential for a node whose old one was just verified.
    pub async fn renew(&self, node: &Verified) -> Result<Vec<u8>, Failure> {
        let failure = |code, message: String| Failure { code, message };
        let checked = self.inner.nodes.require_member(&node.node, &node.peer).await;
        let uid = checked.map_err(|refusal| {
            let code = if refusal.reason() == RefusalReason::Unavailable { 503 } else { 403 };
            failure(code, refusal.to_string())
        })?;
        let holder = Holder {
            peer: node.peer,
            node: node.node.to_string(),
            uid,
            site: node.site.to_string(),
            roles: vec![Role::Edge],
        };
        let signed = self.inner.config.issuer.issue(&holder);
        signed.map(|signed| signed.encode()).map_err(|error| failure(500, error.to_string()))
    }

    /// Makes the Node of a member anew where it was deleted, and returns its UID.
    pub(crate) async fn register(&self, node: &NodeName) -> Result<String, Failure> {
        self.inner.nodes.register(node).await.map_err(|refusal| {
            let code = if refusal.reason() == RefusalReason::Unavailable { 503 } else { 403 };
            Failure { code, message: refusal.to_string() }
        })
    }

    /// Serves one `join/1` stream, which came from `remote`, to its end.
    pub async fn serve(&self, from: Joiner, remote: SocketAddr, stream: Stream) {
        let share = self.inner.shares.take(remote.ip());
        let (Some(_share), Ok(_permit)) = (share, self.inner.room.try_acquire()) else {
            tracing::warn!(peer = %from.peer, %remote, "too many hosts join at a time; this one is to come again");
            // Who does not read it has left.
            let _ = tokio::time::timeout(FAREWELL, self.inner.turn_away(stream)).await;
            return;
        };
        if let Err(error) = self.inner.converse(&from, stream).await {
            tracing::info!(peer = %from.peer, %error, "a joiner broke off");
            self.inner.joined.with_label_values(&["broken"]).inc();
        }
    }
}

impl Inner {
    async fn turn_away(&self, mut stream: Stream) -> Result<(), Failed> {
        let reason = RefusalReason::Unavailable;
        self.joined.with_label_values(&[&label(reason)]).inc();
        let message =
            "too many hosts join at this moment, or too many from this host's address; try again".to_owned();
        send(&mut stream, JoinRefused { reason, message }.into()).await?;
        let _ = stream.send.finish();
        let _ = stream.send.stopped().await;
        Ok(())
    }

    async fn converse(&self, from: &Joiner, mut stream: Stream) -> Result<(), Failed> {
        match self.next(&mut stream).await? {
            FromJoiner::Ask(_) => {}
            _ => return Err(Failed::OutOfTurn("something else")),
        }
        let authorities = vec![Bytes::copy_from_slice(self.config.issuer.ca().authority.certificate())];
        let offer = Offer { version: VERSION, cluster: self.config.issuer.ca().cluster.clone(), authorities };
        send(&mut stream, offer.into()).await?;
        let FromJoiner::JoinRequest(request) = self.next(&mut stream).await? else {
            return Err(Failed::OutOfTurn("something else"));
        };
        let answer = match self.admit(from, &request).await {
            Ok(response) => {
                tracing::info!(node = request.node, peer = %from.peer, "admitted");
                self.joined.with_label_values(&["admitted"]).inc();
                response.into()
            }
            Err(refused) => {
                tracing::info!(node = request.node, peer = %from.peer, %refused, "refused");
                let reason = refused.reason();
                self.joined.with_label_values(&[&label(reason)]).inc();
                JoinRefused { reason, message: refused.to_string() }.into()
            }
        };
        send(&mut stream, answer).await?;
        // An error here means that the joiner has closed already: it has read what it came for.
        let _ = stream.send.finish();
        let _ = tokio::time::timeout(PATIENCE, stream.send.stopped()).await;
        Ok(())
    }

    async fn next(&self, stream: &mut Stream) -> Result<FromJoiner, Failed> {
        let read = tokio::time::timeout(PATIENCE, frames::read(&mut stream.recv, MAX_REQUEST)).await;
        let bytes = read.map_err(|_| Failed::Slow)??.ok_or(Failed::OutOfTurn("the end"))?;
        Ok(FromJoiner::decode(&bytes)?)
    }

    async fn admit(&self, from: &Joiner, request: &JoinRequest) -> Result<JoinResponse, Refused> {
        let node = NodeName::new(request.node.as_str()).map_err(|error| Refused::Name(error.to_string()))?;
        if let Some(holder) =
            from.holder.as_ref().filter(|holder| request.secret.is_empty() && holder.node == node)
        {
            self.nodes.require_member(&node, &from.peer).await?;
            return self.welcome(from, request, &node, holder.site.as_str(), true).await;
        }
        // Before all else: who has no token learns nothing of names and ranges.
        let token = self.tokens.take(&request.secret, &node).await?;
        let admitted = self.admit_at(from, request, &node, &token.site).await;
        if admitted.is_err()
            && let Err(error) = self.tokens.give_back(&token.id).await
        {
            tracing::warn!(token = token.id, %error, "a use of a token was lost");
        }
        admitted
    }

    /// Admits who has shown a token for this site.
    async fn admit_at(
        &self,
        from: &Joiner,
        request: &JoinRequest,
        node: &NodeName,
        site: &str,
    ) -> Result<JoinResponse, Refused> {
        let services = self.config.services.now(&self.client).await.map_err(NodeRefusal::from)?;
        if let Some((range, route)) = overlap::first(&services, &request.routes) {
            return Err(Refused::Overlap { range, route });
        }
        let standing = self.nodes.check(node, &from.peer).await?;
        let member = matches!(standing, Standing::Member(_));
        let welcome = self.welcome(from, request, node, site, member).await?;
        if let Standing::Free(removals) = standing {
            self.nodes.readmit(&removals).await?;
        }
        Ok(welcome)
    }

    async fn welcome(
        &self,
        from: &Joiner,
        request: &JoinRequest,
        node: &NodeName,
        site: &str,
        member: bool,
    ) -> Result<JoinResponse, Refused> {
        let claim = self.nodes.claim(node, &from.peer, site, request).await?;
        let settled = self.settle(from, request, node, site, member, &claim).await;
        if settled.is_err() && !member {
            // The name is free again; the refusal matters more than that this failed too.
            if let Err(error) = self.nodes.unmake(node).await {
                tracing::warn!(%node, %error, "a host that was refused left an EdgeNode or Node behind");
            }
        }
        settled
    }

    async fn settle(
        &self,
        from: &Joiner,
        request: &JoinRequest,
        node: &NodeName,
        site: &str,
        member: bool,
        claim: &str,
    ) -> Result<JoinResponse, Refused> {
        let made = self.nodes.make(node, site, request).await?;
        if let Some((range, route)) = overlap::first(&made.pod_cidrs, &request.routes)
            && !member
        {
            return Err(Refused::Overlap { range, route });
        }
        let holder = Holder {
            peer: from.peer,
            node: node.to_string(),
            uid: made.uid.clone(),
            site: site.to_owned(),
            roles: vec![Role::Edge],
        };
        let credential = self.config.issuer.issue(&holder)?;
        self.nodes.settle(node, claim, &holder, request, &made.pod_cidrs).await?;
        Ok(JoinResponse {
            credential: credential.encode().into(),
            node_uid: made.uid,
            pod_cidrs: made.pod_cidrs,
            control: self.config.control.clone(),
            relays: self.config.relays.clone(),
        })
    }
}

async fn send(stream: &mut Stream, message: FromServer) -> Result<(), Failed> {
    Ok(frames::write(&mut stream.send, &message.encode()?).await?)
}

/// The reason as a metric's label.
fn label(reason: RefusalReason) -> String {
    serde_json::to_value(reason).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
