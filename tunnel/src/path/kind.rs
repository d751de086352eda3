//! What kind of path a candidate is, and who told of it.

use crate::status::DirectKind;

/// What kind of path a candidate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Direct(DirectKind),
    Relayed,
}

impl Kind {
    /// Lower is preferred whatever the round trip time says within reason.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Kind::Direct(DirectKind::Lan) => 0,
            Kind::Direct(DirectKind::Public | DirectKind::Punched) => 1,
            Kind::Relayed => 2,
            Kind::Direct(DirectKind::Tcp) => 3,
            Kind::Direct(DirectKind::Wss) => 4,
        }
    }

    /// Whether packets go over TCP.
    pub(crate) fn is_carrier(self) -> bool {
        matches!(self, Kind::Direct(kind) if kind.is_carrier())
    }
}

/// Who told of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The membership: never given up.
    Configured,
    /// It worked before a restart.
    Remembered,
    /// A relay or the peer itself.
    Told,
    /// A probe came from there.
    Heard,
}
