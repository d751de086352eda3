//! Keeps the credential alive: renews it over the hub when two thirds of its life are over, and by `join/1` if
//! it ended while the node was away.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgeloom_api::hub::{Answer, Request};
use edgeloom_tunnel::identity::{Presented, SignedCredential};
use rand::Rng as _;

use super::{RequestError, Session};
use crate::join::{JoinError, renew_expired};
use crate::membership::{Membership, MembershipError};

/// Pause between tries.
const RETRY: Duration = Duration::from_secs(60);
/// Longest sleep: a clock that is set meanwhile must not make the node oversleep.
const NAP: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("the new credential: {0}")]
    Credential(String),
}

pub(super) async fn run(session: Session, mut membership: Membership) {
    loop {
        let claims = membership.credential.claims();
        session.0.metrics.credential_expiry.set(claims.expires.cast_signed());
        let wait = claims.renew_at().saturating_sub(now());
        if wait > 0 {
            // Nodes that joined together do not renew together.
            let spread = rand::rng().random_range(0..=wait / 20);
            tokio::time::sleep(Duration::from_secs(wait + spread).min(NAP)).await;
            continue;
        }
        match renew(&session, &membership).await {
            Ok(renewed) => {
                tracing::info!(serial = renewed.credential.claims().serial, "the credential was renewed");
                session.0.overlay.set_credential(renewed.credential.clone());
                membership = renewed;
            }
            Err(error) => {
                let ends = membership.credential.claims().expires;
                tracing::warn!(%error, ends_in_seconds = ends.saturating_sub(now()), "renewing the credential; trying again");
                let pause = rand::rng().random_range(RETRY / 2..=RETRY);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

async fn renew(session: &Session, membership: &Membership) -> Result<Membership, RenewalError> {
    match session.ask(Request::Renew).await {
        Ok(Answer::Credential(bytes)) => adopt(membership, &bytes),
        Ok(Answer::Object(_)) => Err(RenewalError::Credential("an object came instead".to_owned())),
        // Without a valid credential there is no session to ask over.
        Err(RequestError::Disconnected) if membership.credential.claims().expires <= now() => {
            Ok(renew_expired(membership).await?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Takes a credential only if it says what the old one did, for the same key and by a trusted CA.
fn adopt(membership: &Membership, bytes: &[u8]) -> Result<Membership, RenewalError> {
    let wrong = |reason: &dyn std::fmt::Display| RenewalError::Credential(reason.to_string());
    let credential = SignedCredential::decode(bytes).map_err(|error| wrong(&error))?;
    let presented = Presented {
        peer: membership.identity.peer_id(),
        credential: Some(credential.clone()),
        spki: Vec::new(),
    };
    let trust = membership.trust().map_err(|error| wrong(&error))?;
    let verified = trust.verify(&presented, SystemTime::now()).map_err(|refusal| wrong(&refusal))?;
    if verified.node != membership.node {
        return Err(wrong(&format!("it names node {}", verified.node)));
    }
    let mut renewed = membership.clone();
    renewed.credential = credential;
    renewed.save()?;
    Ok(renewed)
}
