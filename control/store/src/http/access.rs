//! Authentication and authorisation against the store: certificates and tokens become users, and the
//! roles that the store holds decide.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::auth::rbac::{Decision, Rules};
use crate::auth::token::{Claims, ISSUER, Signer, TokenError};
use crate::auth::{Attributes, User};
use crate::db::{ListOptions, Store, WatchEvent, WatchOptions};
use crate::error::{Error, Reason, Result};
use crate::kinds::KindDef;

const RBAC: &str = "rbac.authorization.k8s.io";

/// Who is who, and who may what.
pub(crate) struct Access {
    store: Store,
    signer: Signer,
    rules: ArcSwap<Rules>,
}

/// The sender of a connection, as TLS found it.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// No client certificate.
    Unknown,
    Certified(User),
    /// A certificate that the authority did not sign, or that has ended.
    Rejected,
}

impl Access {
    /// Over a store whose rules are not read yet.
    pub(crate) fn new(store: Store, signer: Signer) -> Self {
        Self { store, signer, rules: ArcSwap::default() }
    }

    /// The key of service-account tokens.
    pub(crate) fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The rules in force.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    fn kinds(&self) -> Vec<Arc<KindDef>> {
        self.store.registry().in_version(RBAC, "v1")
    }

    /// Reads the rules anew.
    pub(crate) async fn refresh(&self) -> Result<()> {
        let mut objects = Vec::new();
        for kind in self.kinds() {
            objects.extend(self.store.list(&kind, ListOptions::default()).await?.items);
        }
        self.rules.store(Arc::new(Rules::new(objects.iter().map(|object| &**object))));
        Ok(())
    }

    /// Keeps the rules as the store has them, until told to stop.
    pub(crate) async fn follow(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let followed = tokio::select! {
                followed = self.follow_once() => followed,
                () = stop.cancelled() => return,
            };
            if let Err(error) = followed {
                tracing::warn!(%error, "cannot follow roles and bindings; trying again");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }

    async fn follow_once(&self) -> Result<()> {
        let from = self.store.resource_version();
        self.refresh().await?;
        let options = WatchOptions { resource_version: Some(from.to_string()), ..WatchOptions::default() };
        let mut watches = Vec::new();
        for kind in self.kinds() {
            watches.push(self.store.watch(&kind, options.clone()).await?);
        }
        loop {
            let events = watches.iter_mut().map(|watch| Box::pin(watch.next()));
            let (event, _, _) = futures::future::select_all(events).await;
            match event {
                Some(WatchEvent::Error(error)) => return Err(error),
                None => return Ok(()),
                Some(WatchEvent::Bookmark { .. }) => {}
                Some(_) => self.refresh().await?,
            }
        }
    }

    /// Who sends the request: a bearer token counts before a certificate, nothing is anonymous.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap, peer: &Peer) -> Result<User> {
        let unauthorized = || Error::new(Reason::Unauthorized, "Unauthorized");
        match peer {
            Peer::Certified(user) => return Ok(user.clone()),
            Peer::Rejected => return Err(unauthorized()),
            Peer::Unknown => {}
        }
        let Some(header) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return Ok(User::anonymous());
        };
        let Some(token) = header.strip_prefix("Bearer ").or_else(|| header.strip_prefix("bearer ")) else {
            return Ok(User::anonymous());
        };
        match self.review(token.trim(), &[ISSUER.to_owned()]).await {
            Ok((user, _)) => Ok(user),
            Err(why) => {
                tracing::debug!(why, "a bearer token was refused");
                Err(unauthorized())
            }
        }
    }

    /// The user of a token that is good for one of the audiences, and which; else why not.
    pub(crate) async fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(User, Vec<String>), String> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let (claims, common) = self.signer.verify(token, audiences, now).map_err(|error| match error {
            TokenError::Malformed | TokenError::Signature => "invalid bearer token".to_owned(),
            other => format!("[invalid bearer token, {other}]"),
        })?;
        self.still_there(&claims).await?;
        let bound = &claims.bound;
        let mut user = User::service_account(&bound.namespace, &bound.serviceaccount.name);
        user.uid.clone_from(&bound.serviceaccount.uid);
        let mut extra = |name: &str, value: &str| {
            user.extra.insert(format!("authentication.kubernetes.io/{name}"), vec![value.to_owned()]);
        };
        extra("credential-id", &format!("JTI={}", claims.jti));
        if let Some(pod) = &bound.pod {
            extra("pod-name", &pod.name);
            extra("pod-uid", &pod.uid);
        }
        if let Some(node) = &bound.node {
            extra("node-name", &node.name);
            extra("node-uid", &node.uid);
        }
        Ok((user, common))
    }

    /// A token ends with its account and with the pod or secret it is bound to.
    async fn still_there(&self, claims: &Claims) -> Result<(), String> {
        let bound = &claims.bound;
        let mut needed = vec![("serviceaccounts", &bound.serviceaccount)];
        needed.extend(bound.pod.as_ref().map(|pod| ("pods", pod)));
        needed.extend(bound.secret.as_ref().map(|secret| ("secrets", secret)));
        for (plural, wanted) in needed {
            let Some(kind) = self.store.registry().find("", "v1", plural) else { continue };
            let found = self.store.get(&kind, &bound.namespace, &wanted.name).await;
            let uid = found.as_ref().ok().and_then(|object| object["metadata"]["uid"].as_str());
            if uid != Some(wanted.uid.as_str()) {
                return Err(format!("{plural} {}/{} is gone or another one", bound.namespace, wanted.name));
            }
        }
        Ok(())
    }

    /// Whether the user may.
    pub(crate) fn decide(&self, user: &User, asked: &Attributes) -> Decision {
        self.rules.load().authorize(user, asked)
    }

    /// Refuses what the user may not.
    pub(crate) fn authorize(&self, user: &User, asked: &Attributes) -> Result<()> {
        let decision = self.decide(user, asked);
        if decision.allowed { Ok(()) } else { Err(asked.forbidden(user, &decision.reason)) }
    }

    /// The user that `Impersonate-…` headers ask for, if the sender may act as that one.
    pub(crate) fn impersonate(&self, sender: User, headers: &HeaderMap) -> Result<User> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let Some(name) = text("impersonate-user") else {
            return if headers.contains_key("impersonate-group") {
                Err(Error::bad_request("requested impersonation of groups without impersonating a user"))
            } else {
                Ok(sender)
            };
        };
        let groups: Vec<String> = headers
            .get_all("impersonate-group")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect();
        let may = |resource: &str, namespace: &str, name: &str| {
            let asked = Attributes {
                verb: "impersonate".to_owned(),
                namespace: namespace.to_owned(),
                resource: resource.to_owned(),
                name: name.to_owned(),
                ..Attributes::default()
            };
            self.authorize(&sender, &asked)
        };
        for group in &groups {
            may("groups", "", group)?;
        }
        if let Some((namespace, account)) =
            name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
        {
            may("serviceaccounts", namespace, account)?;
            let mut user = User::service_account(namespace, account);
            if !groups.is_empty() {
                user.groups = groups;
            }
            return Ok(user);
        }
        may("users", "", &name)?;
        Ok(User::authenticated(name, groups))
    }
}

/// Namespace, name and uid of an object.
pub(crate) fn identity(object: &Value) -> (&str, &str, &str) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or("");
    (text("namespace"), text("name"), text("uid"))
}
