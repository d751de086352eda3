//! Two ends of TLS in memory, and every way in which one of them is not what it says.

use std::time::{Duration, UNIX_EPOCH};

use edgeloom_api::credential::{Claims, Roles};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::identity::authority::Authority;

const HUB: &[u8] = b"hub/1";

struct Cluster {
    name: &'static str,
    authority: Authority,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Cluster {
    fn new(name: &'static str) -> Self {
        Self { name, authority: Authority::generate(name, SystemTime::now()).unwrap() }
    }

    fn trust(&self) -> Trust {
        Trust::new(self.name, [self.authority.certificate()]).unwrap()
    }

    fn claims(&self, peer: PeerId, role: Role) -> Claims {
        Claims {
            cluster: self.name.into(),
            node: "edge-1".into(),
            node_uid: "uid".into(),
            peer: peer.to_bytes().into(),
            site: "berlin".into(),
            roles: Roles::from_iter([role]),
            not_before: now() - 60,
            expires: now() + 3600,
            serial: 1,
        }
    }

    fn guard_of(&self, change: impl FnOnce(&mut Claims)) -> Guard {
        let identity = Arc::new(Identity::generate().unwrap());
        let mut claims = self.claims(identity.peer_id(), Role::Edge);
        change(&mut claims);
        let credential = self.authority.sign(&claims).unwrap();
        Guard::new(identity, Some(credential), Some(self.trust())).unwrap()
    }

    fn member(&self) -> Guard {
        self.guard_of(|_| {})
    }

    fn control(&self) -> Guard {
        self.guard_of(|claims| claims.roles = Roles::from_iter([Role::Control]))
    }
}

fn stranger() -> Guard {
    Guard::new(Arc::new(Identity::generate().unwrap()), None, None).unwrap()
}

/// What each side says at the end of the handshake: the client what it thinks of the server, the server
/// what it admits.
struct Met {
    client: Result<(), Refusal>,
    server: Result<Admitted, Refusal>,
}

fn refusal(error: &rustls::Error) -> Option<Refusal> {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
        return None;
    };
    other.0.downcast_ref::<Refusal>().cloned()
}

fn meet(server: &Guard, alpns: &[&[u8]], client: rustls::ClientConfig) -> Met {
    let config = server.server_config(alpns).unwrap();
    let mut accepting = rustls::ServerConnection::new(Arc::new(config)).unwrap();
    let name = ServerName::try_from("peer.invalid").unwrap();
    let mut dialling = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
    let (mut on_client, mut on_server) = (None, None);
    for _ in 0..8 {
        let mut wire = Vec::new();
        while dialling.wants_write() {
            dialling.write_tls(&mut wire).unwrap();
        }
        feed(&mut accepting, &wire, &mut on_server);
        let mut wire = Vec::new();
        while accepting.wants_write() {
            accepting.write_tls(&mut wire).unwrap();
        }
        feed(&mut dialling, &wire, &mut on_client);
    }
    let refused = |error: Option<rustls::Error>| error.as_ref().and_then(refusal).map_or(Ok(()), Err);
    let server = refused(on_server).and_then(|()| {
        let certificates = accepting.peer_certificates().unwrap_or_default();
        server.admit_tls(accepting.alpn_protocol().unwrap_or_default(), certificates)
    });
    Met { client: refused(on_client), server }
}

fn feed<D>(
    end: &mut impl std::ops::DerefMut<Target = rustls::ConnectionCommon<D>>,
    mut wire: &[u8],
    failed: &mut Option<rustls::Error>,
) {
    while !wire.is_empty() && failed.is_none() {
        end.read_tls(&mut wire).unwrap();
        *failed = end.process_new_packets().err();
    }
}

/// Member dials `hub/1` at an endpoint that serves joining too.
fn dial(server: &Guard, client: &Guard) -> Met {
    meet(server, &[HUB, JOIN_ALPN], client.client_config(HUB, None).unwrap())
}

#[test]
fn members_meet_and_know_each_other() {
    let cluster = Cluster::new("c");
    let (server, client) = (cluster.control(), cluster.member());
    let met = meet(&server, &[HUB], client.client_config(HUB, Some(server.identity().peer_id())).unwrap());
    assert_eq!(met.client, Ok(()));
    let Ok(Admitted::Member(verified)) = met.server else { panic!("{:?}", met.server) };
    assert_eq!(verified.peer, client.identity().peer_id());
    assert_eq!((verified.node.as_str(), verified.site.as_str()), ("edge-1", "berlin"));
    assert!(verified.require(Role::Edge).is_ok());
    assert!(matches!(verified.require(Role::Relay), Err(Refusal::Role { .. })));
}

#[test]
fn a_stranger_reaches_join_and_nothing_else() {
    let cluster = Cluster::new("c");
    let (server, client) = (cluster.control(), stranger());
    let config = client.client_config(JOIN_ALPN, None).unwrap();
    let met = meet(&server, &[HUB, JOIN_ALPN], config);
    assert_eq!(met.client, Ok(()));
    let joiner = Joiner { peer: client.identity().peer_id(), holder: None };
    assert_eq!(met.server, Ok(Admitted::Joiner(joiner)));

    // It would have to believe somebody first, so it borrows the cluster's trust.
    client.set_trust(cluster.trust());
    let met = dial(&server, &client);
    assert!(matches!(met.server, Err(Refusal::Stranger { .. })), "{:?}", met.server);
    let met = meet(&server, &[HUB], client.client_config(HUB, None).unwrap());
    assert!(matches!(met.server, Err(Refusal::Stranger { .. })), "{:?}", met.server);
    // Where joining is not served it ends in the handshake.
    let met = meet(&server, &[HUB], client.client_config(JOIN_ALPN, None).unwrap());
    assert!(met.server.is_err());
}

#[test]
fn a_node_that_has_not_joined_believes_nobody() {
    let cluster = Cluster::new("c");
    let met = dial(&cluster.control(), &stranger());
    assert_eq!(met.client, Err(Refusal::NotJoined));
    let met = dial(&stranger(), &cluster.member());
    assert!(met.server.is_err() || met.client.is_err());
}

#[test]
fn every_false_credential_is_refused_for_its_reason() {
    let (cluster, other) = (Cluster::new("c"), Cluster::new("other"));
    let impostor = Cluster::new("c");
    let server = cluster.control();
    let old = |claims: &mut Claims| (claims.not_before, claims.expires) = (now() - 7200, now() - 3600);
    let cases = [
        (other.member(), "other_cluster"),
        (impostor.member(), "signature"),
        (cluster.guard_of(old), "expired"),
        (cluster.guard_of(|claims| claims.not_before = now() + 600), "not_yet_valid"),
        (cluster.guard_of(|claims| claims.node = "Not A Name".into()), "names"),
        (cluster.guard_of(|claims| claims.peer = PeerId::random().to_bytes().into()), "replayed"),
    ];
    for (client, reason) in cases {
        client.set_trust(cluster.trust());
        for alpns in [&[HUB][..], &[HUB, JOIN_ALPN][..]] {
            let met = meet(&server, alpns, client.client_config(HUB, None).unwrap());
            assert_eq!(met.server.unwrap_err().reason(), reason);
        }
        // And the other way round: a server with such a credential gets no client.
        let met = meet(&client, &[HUB], server.client_config(HUB, None).unwrap());
        assert_eq!(met.client.unwrap_err().reason(), reason);
    }
}

#[test]
fn a_small_difference_of_clocks_is_no_reason() {
    let cluster = Cluster::new("c");
    let server = cluster.control();
    let early = cluster.guard_of(|claims| claims.not_before = now() + 200);
    let late = cluster.guard_of(|claims| claims.expires = now() - 10);
    assert!(dial(&server, &early).server.is_ok());
    assert!(dial(&server, &late).server.is_ok());
}

#[test]
fn revocation_works_from_the_next_handshake_on() {
    let cluster = Cluster::new("c");
    let (server, client) = (cluster.control(), cluster.member());
    let met = dial(&server, &client);
    let Ok(Admitted::Member(verified)) = met.server else { panic!("{:?}", met.server) };
    let trust = cluster.trust().with_revoked([client.identity().peer_id()]);
    server.set_trust(trust.clone());
    assert_eq!(dial(&server, &client).server, Err(Refusal::Revoked { node: "edge-1".into() }));
    assert!(matches!(trust.recheck(&verified, SystemTime::now()), Err(Refusal::Revoked { .. })));
    assert!(cluster.trust().recheck(&verified, SystemTime::now()).is_ok());
}

#[test]
fn a_lapsed_member_may_renew_within_the_grace_and_do_nothing_else() {
    let cluster = Cluster::new("c");
    let server = cluster.control();
    server.set_trust(cluster.trust().with_grace(Duration::from_secs(7200)));
    let client =
        cluster.guard_of(|claims| (claims.not_before, claims.expires) = (now() - 7200, now() - 3600));
    assert!(matches!(dial(&server, &client).server, Err(Refusal::Expired { .. })));
    let config = client.client_config(JOIN_ALPN, None).unwrap();
    let Ok(Admitted::Joiner(joiner)) = meet(&server, &[HUB, JOIN_ALPN], config).server else { panic!() };
    assert_eq!(joiner.holder.unwrap().node.as_str(), "edge-1");
    server.set_trust(cluster.trust().with_grace(Duration::from_secs(600)));
    let config = client.client_config(JOIN_ALPN, None).unwrap();
    assert!(matches!(meet(&server, &[HUB, JOIN_ALPN], config).server, Err(Refusal::Expired { .. })));
}

#[test]
fn who_answers_in_anothers_place_is_refused() {
    let cluster = Cluster::new("c");
    let (server, client) = (cluster.control(), cluster.member());
    let config = client.client_config(HUB, Some(client.identity().peer_id())).unwrap();
    let met = meet(&server, &[HUB], config);
    assert!(
        matches!(met.client, Err(Refusal::WrongPeer { found, .. }) if found == server.identity().peer_id())
    );
}

#[test]
fn a_joined_node_joins_only_at_a_control() {
    let cluster = Cluster::new("c");
    let (control, edge) = (cluster.control(), cluster.member());
    let client = cluster.member();
    let config = || client.client_config(JOIN_ALPN, None).unwrap();
    assert_eq!(meet(&control, &[JOIN_ALPN], config()).client, Ok(()));
    assert!(matches!(meet(&edge, &[JOIN_ALPN], config()).client, Err(Refusal::Role { .. })));
}

/// A certificate is no secret: whoever copied one lacks its key.
#[test]
fn a_copied_certificate_is_worth_nothing_without_its_key() {
    #[derive(Debug)]
    struct Copied(Arc<CertifiedKey>);
    impl ResolvesClientCert for Copied {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let cluster = Cluster::new("c");
    let (server, victim) = (cluster.control(), cluster.member());
    let own_key = rcgen::KeyPair::generate().unwrap();
    let own_key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own_key.serialize_der()));
    let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&own_key).unwrap();
    let stolen: Vec<CertificateDer<'static>> = victim.0.certified.load().cert.clone();
    let mut config = victim.client_config(HUB, None).unwrap();
    config.client_auth_cert_resolver = Arc::new(Copied(Arc::new(CertifiedKey::new(stolen, signer))));

    let accept = server.server_config(&[HUB, JOIN_ALPN]).unwrap();
    let mut accepting = rustls::ServerConnection::new(Arc::new(accept)).unwrap();
    let name = ServerName::try_from("peer.invalid").unwrap();
    let mut dialling = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut failed = None;
    for _ in 0..4 {
        let mut wire = Vec::new();
        while dialling.wants_write() {
            dialling.write_tls(&mut wire).unwrap();
        }
        feed(&mut accepting, &wire, &mut failed);
        let mut wire = Vec::new();
        while accepting.wants_write() {
            accepting.write_tls(&mut wire).unwrap();
        }
        feed(&mut dialling, &wire, &mut None);
    }
    let failed = failed.expect("the handshake's signature is by another key");
    assert!(failed.to_string().contains("BadSignature"), "{failed}");
    assert!(accepting.is_handshaking());
}

#[test]
fn a_new_credential_is_shown_by_configurations_made_before() {
    let cluster = Cluster::new("c");
    let (server, client) = (cluster.control(), stranger());
    client.set_trust(cluster.trust());
    let config = client.client_config(HUB, None).unwrap();
    let claims = cluster.claims(client.identity().peer_id(), Role::Edge);
    client.set_credential(cluster.authority.sign(&claims).unwrap()).unwrap();
    assert!(meet(&server, &[HUB], config).server.is_ok());
}

#[test]
fn overlapping_authorities_are_both_trusted() {
    let (old, new) = (Cluster::new("c"), Cluster::new("c"));
    let server = new.control();
    let both = Trust::new("c", [old.authority.certificate(), new.authority.certificate()]).unwrap();
    server.set_trust(both.clone());
    let client = old.member();
    client.set_trust(both);
    assert!(dial(&server, &client).server.is_ok());
}

#[test]
fn what_is_no_authority_is_not_trusted() {
    let leaf = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    assert!(matches!(
        Trust::new("c", [leaf.cert.der().to_vec()]),
        Err(crate::identity::TrustError::Certificate(_))
    ));
    assert!(Trust::new("c", [b"junk"]).is_err());
    assert!(Trust::new("c", Vec::<Vec<u8>>::new()).is_err());
}
