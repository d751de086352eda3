//! Join tokens, each in a Secret: its hash, never the secret itself.
//!
//! A use is taken by an update that is held to the version read, so that two nodes cannot take the last
//! one; a node whose joining then fails for another reason gets it back. Within this control those who
//! take stand in line, so that only another replica can be faster; that is tried again after a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use edgeloom_api::admin::{NewToken, Token, TokenRequest};
use edgeloom_api::join::RefusalReason;
use edgeloom_api::names::SYSTEM_NAMESPACE;
use edgeloom_api::token::JoinToken;
use edgeloom_model::{NodeName, Site};
use edgeloom_tunnel::identity::{AuthorityError, random};
use http::StatusCode;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, ResourceExt};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Type of the Secrets.
const TYPE: &str = "edgeloom.io/join-token";
/// Label of the Secrets.
const LABEL: &str = "edgeloom.io/join-token";
/// Longest life of a token.
const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a use is tried to be written down while other replicas write theirs: longer than all the joiners that
/// one serves at a time take, and shorter than a joiner waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest pause before the second try; that before each later one is twice as long, up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(160));
/// Lines to stand in. Tokens that share one wait for each other, which costs them time and no more.
const LINES: usize = 32;

/// Why a request about tokens failed.
#[derive(Debug, thiserror::Error)]
pub enum TokenStoreError {
    /// The request cannot be met as it is.
    #[error("{field}: {reason}")]
    Invalid {
        /// Field of the request.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such token.
    #[error("there is no join token {0}; `meshctl token list` shows those that there are")]
    Unknown(String),
    /// The API server refused or did not answer.
    #[error("the Secrets of join tokens in {SYSTEM_NAMESPACE}: {0}")]
    Api(#[from] kube::Error),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] AuthorityError),
}

impl TokenStoreError {
    /// The HTTP status that says the same.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::Api(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Random(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Why a token does not admit a joiner.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefusal {
    /// No such token.
    #[error(
        "the join token is not known here: it was mistyped, revoked or removed; make a new one with `meshctl token create --site SITE`"
    )]
    Unknown,
    /// Its life is over.
    #[error(
        "the join token {id} expired at {expired}; make a new one with `meshctl token create --site {site}`"
    )]
    Expired {
        /// Its id.
        id: String,
        /// When it ended.
        expired: String,
        /// Its site.
        site: String,
    },
    /// It has no uses left.
    #[error(
        "the join token {id} has been used as often as it may be; make a new one with `meshctl token create --site {site}`"
    )]
    UsedUp {
        /// Its id.
        id: String,
        /// Its site.
        site: String,
    },
    /// It is for another node.
    #[error("the join token {id} is for node {wanted} only, and this node is {given}")]
    OtherNode {
        /// Its id.
        id: String,
        /// The node that it is for.
        wanted: String,
        /// The node that came.
        given: String,
    },
    /// Whether it does could not be found out.
    #[error(transparent)]
    Unavailable(#[from] UseError),
}

/// Why a use of a token could be neither taken nor given back.
#[derive(Debug, thiserror::Error)]
pub enum UseError {
    /// The API server refused or did not answer.
    #[error("the control cannot reach its Kubernetes API: {0}")]
    Api(#[from] kube::Error),
    /// Others were faster every time.
    #[error(
        "other replicas of the control wrote to the join token {0} whenever this one tried, for {PATIENCE:?}; try again"
    )]
    Contended(String),
}

impl TokenRefusal {
    /// The reason as the protocol names it.
    pub fn reason(&self) -> RefusalReason {
        match self {
            Self::Unknown | Self::OtherNode { .. } => RefusalReason::UnknownToken,
            Self::Expired { .. } => RefusalReason::ExpiredToken,
            Self::UsedUp { .. } => RefusalReason::UsedUpToken,
            Self::Unavailable(_) => RefusalReason::Unavailable,
        }
    }
}

/// The join tokens of the cluster.
#[derive(Clone)]
pub struct Tokens {
    secrets: Api<Secret>,
    ca: Arc<[u8]>,
    lines: Arc<[Mutex<()>; LINES]>,
}

impl Tokens {
    /// Tokens for the cluster whose CA certificate is `ca` (DER).
    pub fn new(client: Client, ca: &[u8]) -> Self {
        let secrets = Api::namespaced(client, SYSTEM_NAMESPACE);
        Self { secrets, ca: ca.into(), lines: Arc::new(std::array::from_fn(|_| Mutex::default())) }
    }

    /// Makes a token; what it returns is the only time that its secret is shown.
    pub async fn create(&self, wanted: &TokenRequest) -> Result<NewToken, TokenStoreError> {
        check(wanted)?;
        let token = JoinToken::new(&self.ca, random()?);
        let expires = OffsetDateTime::now_utc() + Duration::from_secs(wanted.ttl_seconds);
        let details = Token {
            id: id(token.secret()),
            site: wanted.site.clone(),
            node: wanted.node.clone(),
            uses_left: wanted.uses,
            expires: expires.replace_nanosecond(0).unwrap_or(expires),
        };
        self.secrets.create(&PostParams::default(), &write(&details)).await?;
        Ok(NewToken { token: token.expose(), details })
    }

    /// All tokens, those that have ended too.
    pub async fn list(&self) -> Result<Vec<Token>, TokenStoreError> {
        let all = self.secrets.list(&ListParams::default().labels(LABEL)).await?;
        let mut tokens: Vec<Token> = all.iter().filter_map(read).collect();
        tokens.sort_by_key(|token| token.expires);
        Ok(tokens)
    }

    /// Removes a token; nodes that joined with it stay.
    pub async fn revoke(&self, id: &str) -> Result<(), TokenStoreError> {
        match self.secrets.delete(&name(id), &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                Err(TokenStoreError::Unknown(id.to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes one use of the token with this secret for `node`; says for which site.
    pub async fn take(&self, secret: &str, node: &NodeName) -> Result<Token, TokenRefusal> {
        let id = id(secret);
        let _turn = self.turn(&id).await;
        let mut tries = Tries::new();
        while tries.next().await {
            let stored = self.secrets.get_opt(&name(&id)).await.map_err(UseError::from)?;
            let stored = stored.ok_or(TokenRefusal::Unknown)?;
            let mut token = read(&stored).ok_or(TokenRefusal::Unknown)?;
            admits(&token, node, OffsetDateTime::now_utc())?;
            token.uses_left -= 1;
            if self.write(stored, &token).await? {
                return Ok(token);
            }
        }
        Err(UseError::Contended(id).into())
    }

    /// Gives back a use that came to nothing.
    pub async fn give_back(&self, id: &str) -> Result<(), UseError> {
        let _turn = self.turn(id).await;
        let mut tries = Tries::new();
        while tries.next().await {
            // One that was revoked needs no uses.
            let Some(stored) = self.secrets.get_opt(&name(id)).await? else { return Ok(()) };
            let Some(mut token) = read(&stored) else { return Ok(()) };
            token.uses_left = token.uses_left.saturating_add(1);
            if self.write(stored, &token).await? {
                return Ok(());
            }
        }
        Err(UseError::Contended(id.to_owned()))
    }

    /// Stands in line for the token with this id.
    async fn turn(&self, id: &str) -> MutexGuard<'_, ()> {
        let line = id.bytes().fold(0, |line: usize, byte| line.wrapping_mul(31).wrapping_add(byte.into()));
        self.lines[line % LINES].lock().await
    }

    /// Writes the token back where nobody else has in the meantime.
    async fn write(&self, stored: Secret, token: &Token) -> Result<bool, UseError> {
        let mut secret = write(token);
        secret.metadata.resource_version = stored.metadata.resource_version;
        match self.secrets.replace(&name(&token.id), &PostParams::default(), &secret).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The tries of one who contends with other replicas.
struct Tries {
    since: Instant,
    pause: Option<Duration>,
}

impl Tries {
    fn new() -> Self {
        Self { since: Instant::now(), pause: None }
    }

    /// Waits for the next try, which comes at once at first and then after a while that is another's not; says
    /// whether there is one.
    async fn next(&mut self) -> bool {
        let (first, longest) = PAUSES;
        if let Some(pause) = self.pause {
            tokio::time::sleep(pause.mul_f64(rand::random())).await;
        }
        self.pause = Some(self.pause.map_or(first, |pause| longest.min(pause * 2)));
        self.since.elapsed() < PATIENCE
    }
}

/// What names a token and stands for its secret: the first half of its hash.
fn id(secret: &str) -> String {
    hex::encode(&Sha256::digest(secret.as_bytes())[..16])
}

fn name(id: &str) -> String {
    format!("join-token-{id}")
}

fn check(wanted: &TokenRequest) -> Result<(), TokenStoreError> {
    let invalid = |field, reason: String| Err(TokenStoreError::Invalid { field, reason });
    if let Err(error) = Site::new(wanted.site.as_str()) {
        return invalid("site", error.to_string());
    }
    if let Some(Err(error)) = wanted.node.as_deref().map(NodeName::new) {
        return invalid("node", error.to_string());
    }
    if wanted.uses == 0 {
        return invalid("uses", "a token that may be used 0 times admits nobody".to_owned());
    }
    if wanted.ttl_seconds == 0 || wanted.ttl_seconds > MAX_TTL.as_secs() {
        return invalid("ttlSeconds", format!("must be 1 to {} (a year)", MAX_TTL.as_secs()));
    }
    Ok(())
}

fn admits(token: &Token, node: &NodeName, now: OffsetDateTime) -> Result<(), TokenRefusal> {
    let (id, site) = (token.id.clone(), token.site.clone());
    if now >= token.expires {
        let expired = token.expires.format(&Rfc3339).unwrap_or_default();
        return Err(TokenRefusal::Expired { id, expired, site });
    }
    if token.uses_left == 0 {
        return Err(TokenRefusal::UsedUp { id, site });
    }
    match &token.node {
        Some(wanted) if wanted != node.as_str() => {
            Err(TokenRefusal::OtherNode { id, wanted: wanted.clone(), given: node.to_string() })
        }
        _ => Ok(()),
    }
}

fn write(token: &Token) -> Secret {
    let mut data = BTreeMap::from([
        ("id".to_owned(), token.id.clone()),
        ("site".to_owned(), token.site.clone()),
        ("usesLeft".to_owned(), token.uses_left.to_string()),
        ("expires".to_owned(), token.expires.format(&Rfc3339).unwrap_or_default()),
    ]);
    data.extend(token.node.clone().map(|node| ("node".to_owned(), node)));
    let mut secret = Secret::default();
    secret.metadata.name = Some(name(&token.id));
    secret.metadata.labels = Some(BTreeMap::from([(LABEL.to_owned(), String::new())]));
    secret.type_ = Some(TYPE.to_owned());
    secret.data = Some(data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect());
    secret
}

fn read(secret: &Secret) -> Option<Token> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    let token = Token {
        id: text("id")?,
        site: text("site")?,
        node: text("node"),
        uses_left: text("usesLeft")?.parse().ok()?,
        expires: OffsetDateTime::parse(&text("expires")?, &Rfc3339).ok()?,
    };
    (secret.name_any() == name(&token.id)).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            id: id("secret"),
            site: "site-a".to_owned(),
            node: None,
            uses_left: 1,
            expires: OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap(),
        }
    }

    #[test]
    fn a_token_survives_its_secret_object() {
        for token in [token(), Token { node: Some("edge-a".to_owned()), ..token() }] {
            assert_eq!(read(&write(&token)), Some(token));
        }
        let mut renamed = write(&token());
        renamed.metadata.name = Some("join-token-other".to_owned());
        assert_eq!(read(&renamed), None);
    }

    #[test]
    fn each_refusal_has_its_own_words() {
        let node = NodeName::new("edge-a").unwrap();
        let early = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        let late = OffsetDateTime::from_unix_timestamp(1_900_000_000).unwrap();
        assert!(admits(&token(), &node, early).is_ok());
        let said = |token: &Token, now| admits(token, &node, now).unwrap_err().to_string();
        assert!(said(&token(), late).contains("expired at 2027-01-15T08:00:00Z"));
        assert!(said(&Token { uses_left: 0, ..token() }, early).contains("as often as it may"));
        assert!(said(&Token { node: Some("edge-b".to_owned()), ..token() }, early).contains("edge-b only"));
    }

    #[test]
    fn requests_are_checked_by_field() {
        let good = TokenRequest { site: "site-a".to_owned(), ttl_seconds: 60, uses: 1, node: None };
        assert!(check(&good).is_ok());
        for (bad, field) in [
            (TokenRequest { site: "Site A".to_owned(), ..good.clone() }, "site"),
            (TokenRequest { uses: 0, ..good.clone() }, "uses"),
            (TokenRequest { ttl_seconds: 0, ..good.clone() }, "ttlSeconds"),
            (TokenRequest { node: Some("UPPER".to_owned()), ..good.clone() }, "node"),
        ] {
            let error = check(&bad).unwrap_err();
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }
}
