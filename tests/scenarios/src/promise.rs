//! What a promise is.

use crate::mechanism::Mechanism;
use crate::world::World;

/// A sentence that the project stands by, and the scenario that shows it.
#[derive(Clone, Copy)]
pub(crate) struct Promise {
    /// Short name, for `--only`.
    pub(crate) name: &'static str,
    /// The promise.
    pub(crate) sentence: &'static str,
    /// What it cannot be shown without.
    pub(crate) needs: &'static [Need],
    /// Mechanisms without which the scenario must fail.
    pub(crate) rests_on: &'static [Mechanism],
    /// The scenario.
    pub(crate) scenario: fn(&mut World) -> anyhow::Result<()>,
}

/// Something that a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Rights to make namespaces.
    Root,
    /// The system of the quickstart, up.
    System,
    /// tcpdump.
    Capture,
}

impl Need {
    /// Why it is not there; `None` if it is.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Self::Root | Self::System if !nix::unistd::Uid::effective().is_root() => {
                Some("needs root (namespaces): sudo tests/run.sh".into())
            }
            Self::Capture if !in_path("tcpdump") => Some("needs tcpdump: apt-get install tcpdump".into()),
            _ => None,
        }
    }
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|directory| directory.join(program).exists())
}
