//! What can go wrong with a lab, said to whoever runs it.

use std::io;
use std::path::Path;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the lab could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a system call failed.
    #[error("{what}")]
    Io {
        /// What was tried, and on what.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program that the lab calls ended with an error.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its standard error, or its status where it wrote none.
        output: String,
    },
    /// The topology contradicts itself.
    #[error("topology: {0}")]
    Topology(String),
    /// A NAT kind that does not exist.
    #[error(
        "NAT kind {0:?}: expected MAPPING-FILTER[-PORT] of eim|adm, eif|adf|apdf, kept|remapped, or one of: cone, restricted, port-restricted, symmetric"
    )]
    NatKind(String),
    /// The lab is not up.
    #[error("no lab under {0}: bring one up with `lab up`")]
    NotUp(String),
    /// No host, NAT or segment of that name.
    #[error("the lab has no {what} named {name:?}; it has: {known}")]
    Unknown {
        /// Host, NAT or link.
        what: &'static str,
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The machine lacks something.
    #[error("{0}")]
    Machine(String),
    /// Something did not come up in time.
    #[error("{what} (waited up to {seconds} s); its log: {log}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// Where to look.
        log: String,
    },
}

impl Error {
    /// For `map_err`: an I/O error with what was tried on which path.
    pub(crate) fn io(action: &str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let what = format!("cannot {action} {}", path.as_ref().display());
        move |source| Self::Io { what, source }
    }
}
