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
    /// kube-apiserver, etcd and the controllers in the folder that KUBEBUILDER_ASSETS names.
    ControlPlane,
}

impl Need {
    /// Why it is not there; `None` if it is.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Self::Root | Self::System if !nix::unistd::Uid::effective().is_root() => {
                Some("needs root (namespaces): sudo tests/run.sh".into())
            }
            Self::Capture if !in_path("tcpdump") => Some("needs tcpdump: apt-get install tcpdump".into()),
            Self::ControlPlane if !has_control_plane() => Some(
                "needs KUBEBUILDER_ASSETS: a folder with etcd, kube-apiserver, kube-controller-manager and \
                 kube-scheduler"
                    .into(),
            ),
            _ => None,
        }
    }
}

fn has_control_plane() -> bool {
    std::env::var_os("KUBEBUILDER_ASSETS").is_some_and(|folder| {
        ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
            .iter()
            .all(|program| std::path::Path::new(&folder).join(program).exists())
    })
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|directory| directory.join(program).exists())
}
