//! Who a node is: its key, its credential, and what it takes to be believed by a peer.
//!
//! [`Identity`] is the node's key. [`Authority`] (the control has it) signs a credential for it; [`Trust`] (every
//! node has it) verifies credentials, offline. [`Guard`] stands in every TLS handshake, shows this node's
//! certificate with its credential and judges the peer's, and [`Guard::admit`] lets a connection out of the
//! transport only when protocol and credential fit. What it lets out says [`Verified`]; nothing behind it ever
//! sees a stranger.

mod authority;
mod certificate;
mod disguise;
mod guard;
mod key;
mod refusal;
mod trust;

pub use authority::{Authority, AuthorityError, random};
pub use certificate::{CertificateError, Presented};
pub use disguise::disguised_client_config;
pub use edgeloom_api::credential::{Claims, Role, Roles, SignedCredential};
pub use guard::{Admitted, Guard, JOIN_ALPN, Joiner};
pub use key::{Identity, IdentityError, write_private};
pub use refusal::Refusal;
pub use trust::{CLOCK_SKEW, Trust, TrustError, Verified};
