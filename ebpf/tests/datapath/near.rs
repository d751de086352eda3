//! Near Services with real sockets: calls from pods and from the host end at a backend, and look to the
//! caller as if the Service itself had answered.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::host::{FAMILIES, Family, block_on, desired, frontend, isolated, near, runtime, service};
use crate::net::{ask, ask_connected, ask_with, call_tcp, serve_tcp, serve_udp, udp};
use edgeloom_ebpf::{Datapath, Steering as _, Target};
use edgeloom_model::Protocol::{Tcp, Udp};

#[test]
fn tcp_ends_at_a_backend_and_looks_like_the_service() {
    isolated("near::tcp_ends_at_a_backend_and_looks_like_the_service", |host| {
        block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            let mut services = Vec::new();
            for family in FAMILIES {
                let backend = SocketAddr::new(host.pods[0].address(family), 8080);
                serve_tcp(&host.pods[0], backend, "pod0");
                services.push((frontend(service(family, 10), 80, Tcp), near(&[backend])));
                // A NodePort on the node's own address.
                let node = if family == Family::V4 { host.node4 } else { host.node6 };
                services.push((frontend(node, 30080, Tcp), near(&[backend])));
            }
            let applied = datapath.apply(&desired(services)).await.unwrap();
            assert_eq!((applied.changed, applied.failed.len()), (4, 0));
            for family in FAMILIES {
                let to = SocketAddr::new(service(family, 10), 80);
                let client = host.pods[1].address(family);
                let (peer, said) = host.pods[1].run(|| call_tcp(to)).unwrap();
                assert_eq!((peer, said), (to, format!("pod0 {client}")));
                // The host's own process.
                assert_eq!(call_tcp(to).unwrap().0, to);
                let node = SocketAddr::new(if family == Family::V4 { host.node4 } else { host.node6 }, 30080);
                assert_eq!(host.pods[1].run(|| call_tcp(node)).unwrap().0, node);
            }
            // An IPv6 socket that calls an IPv4 Service by its mapped address.
            let IpAddr::V4(v4) = service(Family::V4, 10) else { unreachable!() };
            let mapped = SocketAddr::new(v4.to_ipv6_mapped().into(), 80);
            let (peer, said) = host.pods[1].run(|| call_tcp(mapped)).unwrap();
            assert_eq!(peer, mapped);
            assert!(said.starts_with("pod0"));
            let status = datapath.status();
            assert!(status.is_complete(), "{status:?}");
            let connects: u64 = status.services.iter().map(|(_, counters)| counters.connects).sum();
            assert_eq!(connects, 7);
            datapath.detach().await.unwrap();
        });
    });
}

#[test]
fn udp_answers_come_from_the_service() {
    isolated("near::udp_answers_come_from_the_service", |host| {
        block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            let mut services = Vec::new();
            for family in FAMILIES {
                let backends: Vec<_> =
                    host.pods.iter().map(|pod| SocketAddr::new(pod.address(family), 5353)).collect();
                serve_udp(&host.pods[0], backends[0], "pod0");
                serve_udp(&host.pods[1], backends[1], "pod1");
                services.push((frontend(service(family, 10), 53, Udp), near(&backends[..1])));
                services.push((frontend(service(family, 11), 53, Udp), near(&backends)));
            }
            datapath.apply(&desired(services)).await.unwrap();
            for family in FAMILIES {
                let to = SocketAddr::new(service(family, 10), 53);
                let want = (to, "pod0 hello".to_owned());
                host.pods[1].run(|| {
                    assert_eq!(ask_connected(to, "hello").unwrap(), want);
                    assert_eq!(ask(to, "hello").unwrap(), want);
                    // One socket that talks to two Services hears from each by its own name, and
                    // keeps its backend of the second.
                    let socket = udp(to).unwrap();
                    let other = SocketAddr::new(service(family, 11), 53);
                    let (from, first) = ask_with(&socket, other, "x").unwrap();
                    assert_eq!(from, other);
                    for _ in 0..20 {
                        assert_eq!(ask_with(&socket, to, "hello").unwrap(), want);
                        assert_eq!(ask_with(&socket, other, "x").unwrap(), (other, first.clone()));
                    }
                });
            }
            datapath.detach().await.unwrap();
        });
    });
}

#[test]
fn without_endpoints_a_call_is_refused_at_once() {
    isolated("near::without_endpoints_a_call_is_refused_at_once", |host| {
        block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            let services = FAMILIES.map(|family| {
                [Tcp, Udp].map(|protocol| (frontend(service(family, 10), 80, protocol), Target::Refuse))
            });
            datapath.apply(&desired(services.into_iter().flatten())).await.unwrap();
            for family in FAMILIES {
                let to = SocketAddr::new(service(family, 10), 80);
                host.pods[1].run(|| {
                    for error in [
                        call_tcp(to).unwrap_err(),
                        ask(to, "x").unwrap_err(),
                        ask_connected(to, "x").unwrap_err(),
                    ] {
                        assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{error}");
                    }
                });
            }
            let refused: u64 = datapath.status().services.iter().map(|(_, c)| c.refused).sum();
            assert_eq!(refused, 6);
            datapath.detach().await.unwrap();
        });
    });
}

#[test]
fn a_client_keeps_its_backend_while_it_belongs_to_the_service() {
    isolated("near::a_client_keeps_its_backend_while_it_belongs_to_the_service", |host| {
        block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            let names = ["b0", "b1", "b2", "b3"];
            let backends: Vec<_> = (0..4).map(|i| SocketAddr::new(host.pods[0].v4, 8080 + i)).collect();
            for (backend, name) in backends.iter().zip(names) {
                serve_tcp(&host.pods[0], *backend, name);
            }
            let at = frontend(service(Family::V4, 10), 80, Tcp);
            let to = SocketAddr::new(at.addr, 80);
            let call = || call_tcp(to).unwrap().1.split(' ').next().unwrap().to_owned();
            let keep = |backends: &[SocketAddr]| Target::Near {
                backends: backends.to_vec(),
                affinity: Some(Duration::from_secs(2)),
            };
            datapath.apply(&desired([(at, keep(&backends))])).await.unwrap();
            let first = host.pods[1].run(call);
            for _ in 0..20 {
                assert_eq!(host.pods[1].run(call), first);
            }
            // It outlasts a change that does not concern it, and ends with its backend.
            let mut fewer = backends.clone();
            let kept = names.iter().position(|name| *name == first).unwrap();
            fewer.remove((kept + 1) % 4);
            datapath.apply(&desired([(at, keep(&fewer))])).await.unwrap();
            assert_eq!(host.pods[1].run(call), first);
            fewer.retain(|backend| *backend != backends[kept]);
            datapath.apply(&desired([(at, keep(&fewer))])).await.unwrap();
            assert_ne!(host.pods[1].run(call), first);
            // It ends with its time: another is met soon, one of four being the same by chance.
            let keep = Target::Near { backends: backends.clone(), affinity: Some(Duration::from_secs(1)) };
            datapath.apply(&desired([(at, keep)])).await.unwrap();
            let first = host.pods[1].run(call);
            let other = (0..12).find(|_| {
                thread::sleep(Duration::from_millis(1100));
                host.pods[1].run(call) != first
            });
            assert!(other.is_some(), "the backend was kept beyond its time");
            // Without affinity every backend is met.
            datapath.apply(&desired([(at, near(&backends))])).await.unwrap();
            let met: BTreeSet<_> = host.pods[1].run(|| (0..100).map(|_| call()).collect());
            assert_eq!(met.len(), 4);
            datapath.detach().await.unwrap();
        });
    });
}

#[test]
fn swapping_backends_under_load_fails_no_call() {
    isolated("near::swapping_backends_under_load_fails_no_call", |host| {
        let backends: Vec<_> = (0..4).map(|i| SocketAddr::new(host.pods[0].v4, 8080 + i)).collect();
        for backend in &backends {
            serve_tcp(&host.pods[0], *backend, "b");
        }
        let at = frontend(service(Family::V4, 10), 80, Tcp);
        let (done, calls) = (AtomicBool::new(false), AtomicU32::new(0));
        let runtime = runtime();
        let mut datapath = runtime.block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            datapath.apply(&desired([(at, near(&backends))])).await.unwrap();
            datapath
        });
        let client = || {
            host.pods[1].run(|| {
                while !done.load(Ordering::Relaxed) {
                    call_tcp(SocketAddr::new(at.addr, at.port)).unwrap();
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        };
        thread::scope(|scope| {
            let load = [scope.spawn(client), scope.spawn(client)];
            runtime.block_on(async {
                for step in 0..200 {
                    let set = &backends[step % 3..];
                    let applied = datapath.apply(&desired([(at, near(set))])).await.unwrap();
                    assert_eq!(applied.failed.len(), 0);
                }
            });
            done.store(true, Ordering::Relaxed);
            for client in load {
                client.join().unwrap();
            }
        });
        assert!(calls.load(Ordering::Relaxed) > 100, "too little load to tell");
        runtime.block_on(datapath.detach()).unwrap();
    });
}

#[test]
fn connections_to_a_backend_that_is_gone_end() {
    isolated("near::connections_to_a_backend_that_is_gone_end", |host| {
        block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            for family in FAMILIES {
                let gone = SocketAddr::new(host.pods[0].address(family), 9000);
                let stays = SocketAddr::new(host.pods[0].address(family), 9001);
                serve_udp(&host.pods[0], gone, "gone");
                serve_udp(&host.pods[0], stays, "stays");
                let listener = host.pods[0].run(|| std::net::TcpListener::bind(gone).unwrap());
                let at = SocketAddr::new(service(family, 10), 90);
                let to = |backend| [Udp, Tcp].map(|p| (frontend(at.ip(), 90, p), near(&[backend])));
                datapath.apply(&desired(to(gone))).await.unwrap();
                let connect = |to: SocketAddr| {
                    let socket = udp(to).unwrap();
                    socket.connect(to).unwrap();
                    socket
                };
                // From a pod that is its own process, so that its namespace is found by it.
                let _process = host.pods[1].process();
                let (ours, own, tcp) = host.pods[1]
                    .run(|| (connect(at), connect(gone), std::net::TcpStream::connect(at).unwrap()));
                let here = connect(at);
                let speak = |socket: &std::net::UdpSocket| -> io::Result<usize> {
                    socket.send(b"x")?;
                    socket.recv(&mut [0; 64])
                };
                for socket in [&ours, &own, &here] {
                    speak(socket).unwrap();
                }
                datapath.apply(&desired(to(stays))).await.unwrap();
                // Sockets that we pointed there end; one that went there by itself does not.
                for socket in [&ours, &here] {
                    let error = socket.recv(&mut [0; 64]).unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
                    speak(socket).unwrap_err();
                }
                speak(&own).unwrap();
                // TCP is kept while the backend terminates, and ended when it is gone.
                assert_eq!(tcp.take_error().unwrap().map(|e| e.to_string()), None);
                assert_eq!(datapath.end_connections(&[(gone, Tcp)].into()).await.unwrap(), 1);
                let error = tcp.take_error().unwrap().unwrap();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
                drop(listener);
            }
            datapath.detach().await.unwrap();
        });
    });
}
