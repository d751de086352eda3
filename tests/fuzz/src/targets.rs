//! Every decoder that reads bytes of a stranger or a peer.
//!
//! A target takes an input and says whether it was accepted. What is accepted must survive being written and read
//! again; a decoder that panics, loses a field or takes memory for what was only announced is found out.
//!
//! | What comes | From whom | Target |
//! |---|---|---|
//! | a packet on the overlay's UDP port | anybody | `live`; by itself: `frame` |
//! | a sealed message, a hello | whoever has a key | `message`, `hello` |
//! | a credential, the certificate that carries it | anybody, in a handshake | `credential`, `certificate` |
//! | an upgrade to a WebSocket | anybody, at the WebSockets' port | `upgrade` |
//! | its answer; the frames behind it, both ways | what stands between | `upgraded`, `websocket` |
//! | a proxy's answer | the proxy | `proxy` |
//! | records of a carrier, the challenge and its answer | members, who joins, a relay | `records`, then as UDP |
//! | messages of `join/1` and `hub/1`, each behind its length | who joins, members | `framed`, then `join`, `hub` |
//! | the objects in them | the control | `object` |
//! | the preface of a stream of `mesh/1`, and of `mesh-lan/1` | members | `stream` |
//! | frames of UDP flows, datagrams | members | `udp-flow`, `datagram` |
//! | questions | pods, and who reaches the DNS server | `dns` |
//! | answers of upstream servers | anybody, with luck | `dns-answer` |
//! | a join token | an operator | `token` |
//!
//! What libraries decode by themselves is theirs: QUIC, TLS, HTTP (`kubelet/1`, the API), libp2p's protocols. Bodies
//! of the Kubernetes API have property tests in `edgeloom-store`.

mod corpus;
mod memory_stream;
mod names;
mod tcp;

use anyhow::Result;
use edgeloom_api::credential::SignedCredential;
use edgeloom_api::{hub, join, token::JoinToken};
use edgeloom_mesh::wire::{Datagram, Frame, Preface};
use edgeloom_tunnel::identity::Presented;
use edgeloom_tunnel::wire::frame::{Control, DATA_HEADER, DataHeader};
use edgeloom_tunnel::wire::message::{Hello, Message};
use rustls::pki_types::CertificateDer;

/// A decoder, and how it is fed.
pub(crate) struct Target {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// One input for so many of the whole: signatures are dear.
    pub(crate) one_in: u64,
    /// Longest input in bytes: somewhat above what the decoder takes.
    pub(crate) longest: usize,
    /// Valid inputs.
    pub(crate) corpus: fn() -> Result<Vec<Vec<u8>>>,
    /// Feeds it. Says whether the input was accepted.
    pub(crate) feed: fn(&[u8]) -> bool,
}

/// All targets.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "frame", one_in: 1, longest: 2048, corpus: corpus::frames, feed: frame },
    Target { name: "message", one_in: 4, longest: 2048, corpus: corpus::messages, feed: message },
    Target { name: "hello", one_in: 4, longest: 2048, corpus: corpus::hellos, feed: hello },
    Target { name: "stream", one_in: 4, longest: 4096, corpus: corpus::prefaces, feed: preface },
    Target { name: "udp-flow", one_in: 4, longest: 4096, corpus: corpus::udp_frames, feed: udp_frame },
    Target { name: "datagram", one_in: 4, longest: 2048, corpus: corpus::datagrams, feed: datagram },
    Target { name: "credential", one_in: 10, longest: 2048, corpus: corpus::credentials, feed: credential },
    Target {
        name: "certificate",
        one_in: 1000,
        longest: 4096,
        corpus: corpus::certificates,
        feed: certificate,
    },
    Target { name: "join", one_in: 20, longest: 4096, corpus: corpus::joins, feed: joining },
    Target { name: "hub", one_in: 20, longest: 4096, corpus: corpus::hubs, feed: hub },
    Target { name: "token", one_in: 20, longest: 256, corpus: corpus::tokens, feed: token },
    Target { name: "object", one_in: 100, longest: 4096, corpus: names::objects, feed: names::object },
    Target { name: "framed", one_in: 20, longest: 4096, corpus: tcp::messages, feed: tcp::message },
    Target { name: "records", one_in: 50, longest: 8192, corpus: tcp::records, feed: tcp::record },
    Target { name: "proxy", one_in: 500, longest: 10_000, corpus: tcp::answers, feed: tcp::answer },
    Target { name: "upgrade", one_in: 100, longest: 2048, corpus: tcp::requests, feed: tcp::request },
    Target { name: "upgraded", one_in: 200, longest: 2048, corpus: tcp::responses, feed: tcp::response },
    Target { name: "websocket", one_in: 200, longest: 4096, corpus: tcp::web_frames, feed: tcp::web_frame },
    Target { name: "dns", one_in: 100, longest: 1500, corpus: names::questions, feed: names::question },
    Target { name: "dns-answer", one_in: 100, longest: 4096, corpus: names::answers, feed: names::answer },
];

/// What the socket gets: forwarder data and control frames.
fn frame(input: &[u8]) -> bool {
    if let Ok((header, payload)) = DataHeader::parse(input) {
        let mut again = [0; DATA_HEADER];
        header.write(&mut again);
        assert_eq!([&again[..], payload].concat(), input, "a data frame changed");
        return true;
    }
    let Ok(control) = Control::parse(input) else { return false };
    assert_eq!(control.encode(), input, "a control frame changed");
    true
}

fn message(input: &[u8]) -> bool {
    let Ok(message) = Message::parse(input) else { return false };
    let mut again = Vec::new();
    message.encode(&mut again);
    assert_eq!(Message::parse(&again).as_ref(), Ok(&message), "a message changed");
    true
}

fn hello(input: &[u8]) -> bool {
    let Ok(hello) = Hello::parse(input) else { return false };
    let again = hello.encode();
    let same = Hello::parse(&again).is_ok_and(|again| again.message == hello.message);
    assert!(same, "a hello changed");
    SignedCredential::decode(hello.credential).is_ok()
}

fn preface(input: &[u8]) -> bool {
    let Ok(Some((preface, read))) = Preface::decode(input) else { return false };
    assert!(read <= input.len(), "a preface took more than there was");
    let again = preface.encode();
    assert_eq!(Preface::decode(&again), Ok(Some((preface, again.len()))), "a preface changed");
    true
}

fn udp_frame(input: &[u8]) -> bool {
    let Ok(Some((frame, read))) = Frame::decode(input) else { return false };
    assert!(read <= input.len(), "a frame took more than there was");
    let mut again = Vec::new();
    frame.encode(&mut again);
    assert_eq!(Frame::decode(&again), Ok(Some((frame, again.len()))), "a frame changed");
    true
}

fn datagram(input: &[u8]) -> bool {
    let Ok(datagram) = Datagram::decode(input) else { return false };
    assert_eq!(datagram.encode(), input, "a datagram changed");
    true
}

fn credential(input: &[u8]) -> bool {
    let Ok(credential) = SignedCredential::decode(input) else { return false };
    assert_eq!(SignedCredential::decode(&credential.encode()).as_ref(), Ok(&credential));
    true
}

fn certificate(input: &[u8]) -> bool {
    Presented::read(&CertificateDer::from(input), &[]).is_ok()
}

fn joining(input: &[u8]) -> bool {
    let from_joiner = join::FromJoiner::decode(input);
    if let Ok(message) = &from_joiner {
        let again = message.encode().expect("what was decoded is small");
        assert_eq!(join::FromJoiner::decode(&again).as_ref(), Ok(message), "a message of join/1 changed");
    }
    join::FromServer::decode(input).is_ok() || from_joiner.is_ok()
}

fn hub(input: &[u8]) -> bool {
    let from_node = hub::FromNode::decode(input);
    if let Ok(message) = &from_node {
        let again = message.encode().expect("what was decoded is small");
        assert!(hub::FromNode::decode(&again).is_ok(), "a message of hub/1 cannot be read again");
    }
    hub::FromControl::decode(input).is_ok() || from_node.is_ok()
}

fn token(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(token) = text.parse::<JoinToken>() else { return false };
    assert!(token.expose().eq_ignore_ascii_case(text.trim()), "a token changed");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_valid_input_is_accepted() {
        for target in TARGETS {
            let corpus = (target.corpus)().unwrap();
            assert!(!corpus.is_empty(), "{}", target.name);
            for (number, input) in corpus.iter().enumerate() {
                assert!((target.feed)(input), "{}: input {number}", target.name);
                assert!(input.len() <= target.longest, "{}: input {number}", target.name);
            }
        }
    }

    #[test]
    fn noise_is_refused_without_a_word() {
        for target in TARGETS {
            let mut inputs = crate::mutate::Mutator::new(1, Vec::new(), target.longest);
            for _ in 0..200 {
                (target.feed)(inputs.next());
            }
        }
    }
}
