//! Rights, asked of the API server by SubjectAccessReview and remembered for a short while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};

use super::{Denied, User};

/// How long a yes is believed: a right taken away ends at most so much later.
const ALLOWED_FOR: Duration = Duration::from_secs(60);
/// How long a no is believed: short, since people try again after they granted it.
const DENIED_FOR: Duration = Duration::from_secs(5);
/// Answers remembered at most; beyond it all are forgotten and asked again.
const REMEMBERED: usize = 4096;

/// What a request wants to do, in the terms of a SubjectAccessReview.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// `get`, `create`, `list`, …
    pub verb: &'static str,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Plural name of the resource.
    pub resource: &'static str,
    /// Subresource; empty for none.
    pub subresource: &'static str,
    /// Name of the object; empty for all.
    pub name: String,
}

impl Attributes {
    /// `nodes/proxy "edge-a"`, for messages.
    fn describe(&self) -> String {
        let mut what = format!("resource \"{}", self.resource);
        if !self.subresource.is_empty() {
            what.push('/');
            what.push_str(self.subresource);
        }
        what.push_str(&format!("\" in API group \"{}\"", self.group));
        if !self.name.is_empty() {
            what.push_str(&format!(", name \"{}\"", self.name));
        }
        what
    }
}

type Answers = HashMap<(User, Attributes), (Result<(), String>, Instant)>;

/// Asks for rights and remembers the answers.
#[derive(Clone)]
pub struct Authorizer {
    reviews: Api<SubjectAccessReview>,
    answers: Arc<Mutex<Answers>>,
}

impl Authorizer {
    /// Asks the API server behind `client`.
    pub fn new(client: kube::Client) -> Self {
        Self { reviews: Api::all(client), answers: Arc::default() }
    }

    /// Whether `user` has the right, or why not.
    pub async fn check(&self, user: &User, wanted: Attributes) -> Result<(), Denied> {
        let key = (user.clone(), wanted);
        let answer = match self.remembered(&key) {
            Some(answer) => answer,
            None => {
                let answer = self.ask(user, &key.1).await?;
                self.remember(key.clone(), answer.clone());
                answer
            }
        };
        answer.map_err(|reason| Denied::Forbidden {
            user: user.name.clone(),
            verb: key.1.verb.to_owned(),
            what: key.1.describe(),
            reason,
        })
    }

    async fn ask(&self, user: &User, wanted: &Attributes) -> Result<Result<(), String>, kube::Error> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: some(wanted.verb),
                    group: some(wanted.group),
                    resource: some(wanted.resource),
                    subresource: some(wanted.subresource),
                    name: some(&wanted.name),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let status = self.reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        let reason = status.reason.filter(|reason| !reason.is_empty());
        Ok(if status.allowed {
            Ok(())
        } else {
            Err(reason.map_or(String::new(), |said| format!(": {said}")))
        })
    }

    fn remembered(&self, key: &(User, Attributes)) -> Option<Result<(), String>> {
        let answers = self.answers.lock().expect("no holder of this lock panics");
        let (answer, since) = answers.get(key)?;
        let life = if answer.is_ok() { ALLOWED_FOR } else { DENIED_FOR };
        (since.elapsed() < life).then(|| answer.clone())
    }

    fn remember(&self, key: (User, Attributes), answer: Result<(), String>) {
        let mut answers = self.answers.lock().expect("no holder of this lock panics");
        if answers.len() >= REMEMBERED {
            answers.clear();
        }
        answers.insert(key, (answer, Instant::now()));
    }
}
