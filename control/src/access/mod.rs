//! Who is calling one of the control's HTTPS ports, and may they.
//!
//! The kubelet ports and the admin port ask the cluster and keep no users of their own: a client
//! certificate is held to the cluster's client CA, a bearer token to TokenReview, and the right to a
//! SubjectAccessReview, whose answers are remembered for a short while.

mod authenticate;
mod authorize;

pub use authenticate::{Authenticator, User};
pub use authorize::{Attributes, Authorizer};

/// Why a request was turned away, with what the caller is told.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// No certificate and no token, or one that the cluster does not know.
    #[error(
        "Unauthorized: present a client certificate of the cluster or a bearer token, as in your kubeconfig"
    )]
    Unauthenticated,
    /// Known, but without the right.
    #[error(
        "forbidden: User \"{user}\" cannot {verb} {what}{reason}; grant it by a ClusterRole and a ClusterRoleBinding"
    )]
    Forbidden {
        /// Who called.
        user: String,
        /// Verb of the review.
        verb: String,
        /// Resource of the review, as kubectl writes it.
        what: String,
        /// What the API server's authorizer said, with a leading colon; often empty.
        reason: String,
    },
    /// The API server did not answer the review.
    #[error("the API server could not be asked: {0}; check that it runs and that this control can reach it")]
    Unavailable(#[from] kube::Error),
}

impl Denied {
    /// The HTTP status that says the same.
    pub fn status(&self) -> http::StatusCode {
        match self {
            Self::Unauthenticated => http::StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } => http::StatusCode::FORBIDDEN,
            Self::Unavailable(_) => http::StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}
