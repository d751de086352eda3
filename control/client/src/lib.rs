//! The node's side of the control: joining, the hub session, and behind them what the node keeps on disk.
//!
//! ```text
//! control ──hub/1──> session ──> metastore ──> whoever subscribes (pods, mesh, …)
//!         <─hub/1──     ^──────── outbox <──── whoever reports (status, lease, events)
//! ```
//! [`Metastore`] and [`Outbox`] work without the cloud; [`Session`] brings both together with it whenever it is
//! there.

mod db;
mod join;
mod members;
mod membership;
pub mod metastore;
mod metrics;
mod outbox;
mod overlay;
pub mod routes;
mod session;

pub use db::StoreError;
pub use edgeloom_api::hub::{Request, Write};
pub use join::{JoinConfig, JoinError, join};
pub use membership::{Membership, MembershipError};
pub use metastore::{Change, Metastore, Subscription, Update};
pub use outbox::{MAX_EVENTS, Outbox};
pub use overlay::{Overlay, Pipe, TunnelOverlay};
pub use session::{Pace, RequestError, Session, SessionError};
