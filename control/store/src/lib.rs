//! The embedded Kubernetes API: objects in SQLite, and what a kind is in one declaration.
//!
//! ```text
//!  http, auth, table, patch, apply ─> db::Store ─> SQLite
//!                 │                      │
//!                 └──> kinds::Registry <─┘   (schema, defaults, validation, columns of every kind)
//! ```

mod admission;
mod alloc;
pub mod apply;
pub mod auth;
pub mod crd;
pub mod db;
mod defaults;
pub mod error;
mod http;
pub mod jsonpath;
pub mod kinds;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod selector;
mod serve;
pub mod table;
pub mod validate;

pub use db::{Store, StoreConfig};
pub use error::{Error, FieldError, Reason, Result};
pub use kinds::{KindDef, Registry};
pub use serve::{ApiServer, ServeError, ServerConfig};
