//! What the promises rest on, and how each of it is broken on purpose.

use anyhow::Result;
use edgeloom_lab::{Fault, NatKind};
use nix::sys::signal::Signal;

use crate::world::{World, fault};

/// Something that can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// The program that steers far connections to the agent.
    SkLookup,
    /// The holes in the NATs.
    Punching,
    /// The relay.
    Relay,
    /// The agent at the client's site.
    ClientAgent,
    /// The agent at the server's site.
    ServerAgent,
    /// The node's DNS server.
    Dns,
    /// The pods that serve.
    Server,
    /// The CA that the node at the server's site trusts.
    Authority,
}

impl Mechanism {
    /// All of them.
    pub(crate) const ALL: &[Self] = &[
        Self::SkLookup,
        Self::Punching,
        Self::Relay,
        Self::ClientAgent,
        Self::ServerAgent,
        Self::Dns,
        Self::Server,
        Self::Authority,
    ];

    /// For the list.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SkLookup => "sk_lookup",
            Self::Punching => "punching",
            Self::Relay => "relay",
            Self::ClientAgent => "client's agent",
            Self::ServerAgent => "server's agent",
            Self::Dns => "DNS",
            Self::Server => "server",
            Self::Authority => "CA",
        }
    }

    /// What has been done to it.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::SkLookup => "sk_lookup is detached at site A",
            Self::Punching => "both NATs are symmetric",
            Self::Relay => "the cloud host is unplugged",
            Self::ClientAgent => "the agent at site A is stopped",
            Self::ServerAgent => "the agent at site B is stopped",
            Self::Dns => "packets to the DNS server at site A are dropped",
            Self::Server => "the pods of the Service are frozen",
            Self::Authority => "the node at site B trusts another CA",
        }
    }

    /// Breaks it; [`World::undo`] mends it.
    pub(crate) fn break_it(self, world: &mut World) -> Result<()> {
        match self {
            Self::SkLookup => world.detach_sk_lookup("edge-a"),
            Self::Punching => world.set_nats(NatKind::SYMMETRIC),
            Self::Relay => world.inject(fault::cut("cloud"), fault::restore("cloud")),
            Self::ClientAgent => world.freeze("edge-a", "edgecore"),
            Self::ServerAgent => world.freeze("edge-b", "edgecore"),
            Self::Dns => world.drop_dns("edge-a"),
            Self::Server => world.freeze_pods("edge-b", "responder"),
            Self::Authority => world.exchange_authority("edge-b"),
        }
    }
}

/// A signal to a program, as a fault.
pub(crate) fn signal(host: &str, program: &str, signal: Signal) -> Fault {
    Fault::Signal { name: host.into(), program: program.into(), signal }
}
