//! Joining, the control's side: the cluster's CA, the tokens, and who becomes a node with them.
//!
//! A joiner's stream comes in from the tunnel; [`JoinService`] shows it the CA, takes its request, holds
//! it to the token ([`Tokens`]) and to the Nodes that there are, makes Node and EdgeNode, and signs its
//! credential with the CA ([`authority`]). Everything stands in Secrets and custom resources, so that any
//! replica can serve any joiner.

pub mod authority;
mod issue;
mod nodes;
mod ranges;
mod registration;
mod service;
mod tokens;

pub use issue::{Holder, Issuer};
pub use ranges::ServiceRanges;
pub use service::{JoinConfig, JoinService, StartError};
pub use tokens::{TokenStoreError, Tokens};
