//! The cells, and what is predicted of each: data, written down before anything is run.
//!
//! What two NATs let pass follows from RFC 4787. A packet for a node goes to the port that the relay saw it at. A
//! filter by address lets it in if that port has spoken to the sender's address, which it has if the mapping is
//! endpoint-independent; a filter by address and port wants the sender's port to be the one that the relay saw
//! as well, so both mappings must be. One direction is enough: the answer goes back by the same session.

use edgeloom_lab::NatKind;
use edgeloom_lab::nat::Egress;
use serde::Serialize;

/// Where two nodes end up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Path {
    /// On their LAN.
    Lan,
    /// At a public address.
    Public,
    /// Through holes in the NATs.
    Punched,
    /// By the relay.
    Relayed,
    /// Nowhere.
    None,
}

impl Path {
    /// As the tunnel calls it.
    pub(crate) fn from_kind(kind: &str) -> Self {
        match kind {
            "lan" => Self::Lan,
            "public" => Self::Public,
            "punched" => Self::Punched,
            "relayed" => Self::Relayed,
            _ => Self::None,
        }
    }

    /// Name, for tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Public => "public",
            Self::Punched => "punched",
            Self::Relayed => "relayed",
            Self::None => "none",
        }
    }

    /// Whether packets go straight to the peer.
    pub(crate) fn is_direct(self) -> bool {
        matches!(self, Self::Lan | Self::Public | Self::Punched)
    }
}

/// Where the two nodes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// Behind a NAT each; both LANs have the same range, and both nodes the same address in it.
    Pair,
    /// As [`Place::Pair`], and what is larger than 1280 bytes vanishes before the first NAT.
    SmallMtu,
    /// The first behind a NAT behind a carrier's NAT, the second behind one NAT.
    Cgn,
    /// Each behind a NAT of its own, both behind the same carrier's NAT.
    SharedCgn,
    /// As [`Place::SharedCgn`], where the carrier's NAT hairpins.
    Hairpin,
    /// On one LAN behind one NAT.
    OneLan,
    /// The first behind a NAT, the second on the internet.
    PublicPeer,
    /// Behind a router each, with IPv6 only.
    Ipv6,
    /// Behind a NAT each that routes IPv6 as well.
    DualStack,
    /// As [`Place::Pair`], and on the first LAN stands an HTTP proxy that reaches the internet.
    Proxy,
}

/// One cell.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cell {
    /// What it is about.
    pub(crate) name: String,
    pub(crate) place: Place,
    /// The NAT of the first node, and of the second.
    pub(crate) nats: [NatKind; 2],
    /// What the first node's site lets out.
    pub(crate) egress: Egress,
    /// Whether both nodes say that they are of one site.
    pub(crate) one_site: bool,
    /// What is predicted.
    pub(crate) predicted: Path,
    /// Over what the first node speaks to the relay, where it is not UDP.
    pub(crate) carrier: Option<&'static str>,
    /// The largest packet that passes, in bytes of UDP payload without the forwarder's header, where that is asked.
    pub(crate) datagram: Option<u16>,
}

/// UDP payload of an MTU of 1500 over IPv4 and over IPv6, of one of 1280 over IPv4, and what a relay's frames take of it.
const ETHERNET: u16 = 1500 - 28;
const ETHERNET6: u16 = 1500 - 48;
const SMALL: u16 = 1280 - 28;
const FORWARDER: u16 = 32;

/// Kinds of NAT without regard to whether the port is kept, which RFC 4787 gives no part in this.
const KINDS: [&str; 6] = ["eim-eif", "eim-adf", "eim-apdf", "adm-eif", "adm-adf", "adm-apdf"];

/// Whether two of [`KINDS`] find a direct path: `P`unched or `R`elayed.
const PREDICTED: [&str; 6] = [
    //  eim-eif, eim-adf, eim-apdf, adm-eif, adm-adf, adm-apdf
    "PPPPPP", // eim-eif
    "PPPPPP", // eim-adf
    "PPPPRR", // eim-apdf
    "PPPPPP", // adm-eif
    "PPRPRR", // adm-adf
    "PPRPRR", // adm-apdf
];

/// Every pair of NATs, the port kept or not, and every other place.
pub(crate) fn all() -> Vec<Cell> {
    let mut cells = pairs();
    cells.extend(places());
    cells
}

fn pairs() -> Vec<Cell> {
    let kinds: Vec<(usize, NatKind)> = (0..KINDS.len())
        .flat_map(|index| ["kept", "remapped"].map(|port| (index, kind(&format!("{}-{port}", KINDS[index])))))
        .collect();
    let mut cells = Vec::new();
    for (first, (row, a)) in kinds.iter().enumerate() {
        for (column, b) in &kinds[first..] {
            let predicted =
                if PREDICTED[*row].as_bytes()[*column] == b'P' { Path::Punched } else { Path::Relayed };
            cells.push(Cell { nats: [*a, *b], ..cell(&format!("{a} / {b}"), Place::Pair, predicted) });
        }
    }
    cells
}

fn places() -> Vec<Cell> {
    let symmetric = [NatKind::SYMMETRIC; 2];
    let lax = [kind("eim-eif-kept"); 2];
    let closed = |name, place, egress, carrier| {
        // The first node speaks to the relay over TCP, so the relay carries whatever the two say.
        let datagram = Some(ETHERNET - FORWARDER);
        Cell { egress, carrier: Some(carrier), datagram, ..cell(name, place, Path::Relayed) }
    };
    vec![
        Cell { one_site: true, ..cell("one site's name, two LANs of one range", Place::Pair, Path::Punched) },
        Cell { datagram: Some(SMALL), ..cell("MTU 1280 on the way", Place::SmallMtu, Path::Punched) },
        Cell {
            nats: symmetric,
            datagram: Some(SMALL - FORWARDER),
            ..cell("MTU 1280 on the way, symmetric", Place::SmallMtu, Path::Relayed)
        },
        cell("two NATs in a row", Place::Cgn, Path::Punched),
        Cell { nats: symmetric, ..cell("two NATs in a row, symmetric", Place::Cgn, Path::Relayed) },
        cell("one carrier's NAT, no hairpin", Place::SharedCgn, Path::Relayed),
        Cell { nats: lax, ..cell("one carrier's NAT, hairpin", Place::Hairpin, Path::Punched) },
        Cell {
            one_site: true,
            datagram: Some(ETHERNET),
            ..cell("one LAN, one site", Place::OneLan, Path::Lan)
        },
        cell("one LAN, two sites' names", Place::OneLan, Path::Lan),
        Cell {
            nats: symmetric,
            ..cell("symmetric NAT to a public address", Place::PublicPeer, Path::Public)
        },
        Cell { datagram: Some(ETHERNET6), ..cell("IPv6 only", Place::Ipv6, Path::Punched) },
        Cell { nats: symmetric, ..cell("IPv4 and IPv6, symmetric on IPv4", Place::DualStack, Path::Punched) },
        closed("UDP blocked", Place::Pair, Egress::NoUdp, "tcp"),
        closed("only TCP 443", Place::Pair, Egress::Https, "wss"),
        closed("only through a proxy", Place::Proxy, Egress::None, "wss"),
    ]
}

fn cell(name: &str, place: Place, predicted: Path) -> Cell {
    Cell {
        name: name.into(),
        place,
        nats: [NatKind::PORT_RESTRICTED; 2],
        egress: Egress::All,
        one_site: false,
        predicted,
        carrier: None,
        datagram: None,
    }
}

fn kind(text: &str) -> NatKind {
    text.parse().expect("the kinds written here exist")
}

#[cfg(test)]
mod tests {
    use edgeloom_lab::nat::{Filter, Mapping};

    use super::*;

    /// RFC 4787: whether `receiver`, at the port that the relay saw, lets in what `sender` sends there.
    fn admits(receiver: NatKind, sender: NatKind) -> bool {
        let independent = |kind: NatKind| kind.mapping == Mapping::EndpointIndependent;
        match receiver.filter {
            Filter::EndpointIndependent => true,
            Filter::AddressDependent => independent(receiver),
            Filter::AddressAndPortDependent => independent(receiver) && independent(sender),
        }
    }

    #[test]
    fn predictions_of_pairs_follow_from_mapping_and_filter() {
        let cells = pairs();
        assert_eq!(cells.len(), 12 * 13 / 2);
        for cell in cells {
            let [a, b] = cell.nats;
            let direct = admits(a, b) || admits(b, a);
            assert_eq!(cell.predicted.is_direct(), direct, "{}", cell.name);
        }
    }

    #[test]
    fn the_table_is_symmetric_and_names_are_not_used_twice() {
        let letter = |row: usize, column: usize| PREDICTED[row].as_bytes()[column];
        assert!((0..36).all(|cell| letter(cell / 6, cell % 6) == letter(cell % 6, cell / 6)));
        let names: std::collections::BTreeSet<_> = all().into_iter().map(|cell| cell.name).collect();
        assert_eq!(names.len(), all().len());
    }
}
