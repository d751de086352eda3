//! Two ends on the loopback interface.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use edgeloom_api::credential::{Claims, Role, Roles};
use tokio::net::TcpListener;

use super::*;
use crate::identity::{Authority, Guard, Identity, Trust};

/// Bound of everything that a test waits for, far above what it takes.
const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it takes too long")
}

fn member(authority: &Authority) -> Guard {
    guard(Some(authority), authority)
}

/// Somebody with a credential of `signed_by`, who believes `believes`.
fn guard(signed_by: Option<&Authority>, believes: &Authority) -> Guard {
    let identity = Arc::new(Identity::generate().unwrap());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = Claims {
        cluster: "c".into(),
        node: "edge-1".into(),
        node_uid: "uid".into(),
        peer: identity.peer_id().to_bytes().into(),
        site: "a".into(),
        roles: Roles::from_iter([Role::Edge]),
        not_before: now - 60,
        expires: now + 3600,
        serial: 1,
    };
    let credential = signed_by.map(|authority| authority.sign(&claims).unwrap());
    Guard::new(identity, credential, Some(Trust::new("c", [believes.certificate()]).unwrap())).unwrap()
}

/// What both ends made of a connection that `dialling` made to `accepting`.
async fn meet(dialling: &Guard, accepting: &Guard) -> (Result<LanStream, LanError>, io::Result<LanStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = async {
        let (tcp, _) = listener.accept().await.unwrap();
        accept(accepting, tcp).await.map(|(_, stream)| stream)
    };
    soon(async { tokio::join!(dial(dialling, accepting.identity().peer_id(), address), accepted) }).await
}

/// Both ends of a connection between two members.
async fn pair() -> (LanStream, LanStream) {
    let authority = Authority::generate("c", SystemTime::now()).unwrap();
    let (dialled, accepted) = meet(&member(&authority), &member(&authority)).await;
    (dialled.unwrap(), accepted.unwrap())
}

async fn read_all(half: &mut LanRecv) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        match soon(half.read(64 << 10)).await? {
            read if read.is_empty() => return Ok(all),
            read => all.extend_from_slice(&read),
        }
    }
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let (a, b) = pair().await;
    let ((mut to_b, mut from_b), (mut to_a, mut from_a)) = (a.split(), b.split());
    let data: Vec<u8> = (0..4u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let send = async {
        to_b.write_all(&data).await.unwrap();
        to_b.finish().await.unwrap();
    };
    let (_, got) = soon(async { tokio::join!(send, read_all(&mut from_a)) }).await;
    assert!(got.unwrap() == data, "4 MiB arrive as they were sent");
    // The other direction goes on.
    to_a.write_all(b"still here").await.unwrap();
    to_a.finish().await.unwrap();
    assert_eq!(read_all(&mut from_b).await.unwrap(), b"still here");
}

#[tokio::test]
async fn what_is_dropped_before_both_ended_is_a_reset() {
    for finish in [false, true] {
        let (a, b) = pair().await;
        let ((mut to_b, from_b), (to_a, mut from_a)) = (a.split(), b.split());
        to_b.write_all(b"some").await.unwrap();
        if finish {
            to_b.finish().await.unwrap();
            assert_eq!(read_all(&mut from_a).await.unwrap(), b"some");
        }
        drop((to_b, from_b));
        if finish {
            // Nobody reads there any more: whoever only waits learns it.
            let kind = soon(to_a.broken()).await.kind();
            assert!(matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{kind}");
        } else {
            assert!(read_all(&mut from_a).await.is_err());
        }
    }
}

#[tokio::test]
async fn a_connection_that_the_other_end_closed_is_not_alive() {
    let (a, b) = pair().await;
    assert!(a.is_alive() && b.is_alive());
    drop(b);
    let gone = async {
        while a.is_alive() {
            tokio::task::yield_now().await;
        }
    };
    soon(gone).await;
}

#[tokio::test]
async fn members_of_the_cluster_alone_are_let_in() {
    let authority = Authority::generate("c", SystemTime::now()).unwrap();
    let other = Authority::generate("c", SystemTime::now()).unwrap();
    let b = member(&authority);
    let revoked = member(&authority);
    let trust = b.trust().unwrap();
    b.set_trust((*trust).clone().with_revoked([revoked.identity().peer_id()]));
    for (who, what) in [
        (guard(None, &authority), "no credential"),
        (guard(Some(&other), &authority), "another CA's"),
        (revoked, "a revoked one"),
    ] {
        let (dialled, accepted) = meet(&who, &b).await;
        assert!(accepted.is_err(), "{what}");
        // A client may believe that it is in before the other side has looked at it: what follows tells.
        let Ok(dialled) = dialled else { continue };
        let refused = async {
            while dialled.is_alive() {
                tokio::task::yield_now().await;
            }
        };
        soon(refused).await;
        assert!(read_all(&mut dialled.split().1).await.is_err(), "{what}");
    }
}

#[tokio::test]
async fn only_the_peer_that_was_meant_is_spoken_with() {
    let authority = Authority::generate("c", SystemTime::now()).unwrap();
    let (a, b) = (member(&authority), member(&authority));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = async { accept(&b, listener.accept().await.unwrap().0).await };
    let wrong = a.identity().peer_id();
    let (dialled, accepted) = soon(async { tokio::join!(dial(&a, wrong, address), accepted) }).await;
    assert!(dialled.is_err() && accepted.is_err());
}

#[tokio::test]
async fn a_register_bounds_cuts_and_forgets() {
    let authority = Authority::generate("c", SystemTime::now()).unwrap();
    let (a, b) = (member(&authority), member(&authority));
    let gauge = prometheus::IntGauge::new("open", "Open.").unwrap();
    let register = Register::new(gauge.clone(), 1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = async { accept(&b, listener.accept().await.unwrap().0).await };
    let (dialled, accepted) =
        soon(async { tokio::join!(dial(&a, b.identity().peer_id(), address), accepted) }).await;
    let (dialled, (from, accepted)) = (dialled.unwrap(), accepted.unwrap());
    let from = Arc::new(from);
    let place = register.place(&from, &accepted.link.socket, true).unwrap();
    assert!(register.place(&from, &accepted.link.socket, true).is_none(), "as many as it may");
    assert_eq!((gauge.get(), register.most()), (1, 1));
    let none = Register::new(gauge.clone(), 0);
    assert!(none.place(&from, &accepted.link.socket, true).is_none() && none.peers() == 0);
    register.recheck(|_| true);
    register.cut_peer(&a.identity().peer_id(), Instant::now() - SOON);
    assert!(dialled.is_alive(), "trusted, and newer");
    register.recheck(|peer| peer.peer != from.peer);
    assert!(read_all(&mut dialled.split().1).await.is_err(), "cut is no orderly end");
    drop(place);
    assert_eq!((gauge.get(), register.most()), (0, 0));
    assert!(register.place(&from, &accepted.link.socket, true).is_some());
}
