//! Far traffic with real sockets: packets for Services and pods of other sites reach the agent's sockets
//! with the address called intact, and what is nobody's never reaches a listener of the host.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use std::thread;
use std::time::Duration;

use crate::host::{FAMILIES, Family, Host, block_on, desired, frontend, isolated, near, service};
use crate::net::{ask, ask_connected, call_tcp, greet};
use edgeloom_ebpf::sockets::{FarSockets, receive, reply_socket};
use edgeloom_ebpf::{AgentSockets, Datapath, Steering as _, Target};
use edgeloom_model::Protocol::{Tcp, Udp};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Stands for the agent: tells each caller the address that was called and the caller's.
fn act_as_agent(sockets: &FarSockets) {
    for listener in [Some(&sockets.tcp4), sockets.tcp6.as_ref()].into_iter().flatten() {
        let listener = listener.try_clone().unwrap();
        thread::spawn(move || answer_tcp(&listener));
    }
    for socket in [Some(&sockets.udp4), sockets.udp6.as_ref()].into_iter().flatten() {
        let socket = socket.try_clone().unwrap();
        thread::spawn(move || answer_udp(&socket));
    }
}

fn answer_tcp(listener: &TcpListener) {
    loop {
        wait(listener);
        let Ok((mut stream, from)) = listener.accept() else { return };
        write!(stream, "agent {} {}", stream.local_addr().unwrap(), from.ip()).unwrap();
    }
}

fn answer_udp(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        wait(socket);
        let Ok(got) = receive(socket, &mut buffer) else { return };
        let reply = reply_socket(got.to).unwrap();
        reply.send_to(format!("agent {} {}", got.to, got.from.ip()).as_bytes(), got.from).unwrap();
    }
}

fn wait(socket: &impl std::os::fd::AsFd) {
    poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
}

fn node(host: &Host, family: Family) -> IpAddr {
    if family == Family::V4 { host.node4 } else { host.node6 }
}

#[test]
fn far_calls_reach_the_agent_with_the_address_called() {
    isolated("far::far_calls_reach_the_agent_with_the_address_called", |host| {
        block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            let sockets = FarSockets::bind().unwrap();
            act_as_agent(&sockets);
            datapath.set_agent_sockets(sockets.borrow()).unwrap();
            let services = FAMILIES.map(|family| {
                [Tcp, Udp].map(|protocol| (frontend(service(family, 20), 7000, protocol), Target::Far))
            });
            datapath.apply(&desired(services.into_iter().flatten())).await.unwrap();
            let pods = ["10.244.2.9".parse().unwrap(), "fd00:10:244:2::9".parse().unwrap()];
            for (family, far_pod) in FAMILIES.into_iter().zip(pods) {
                // A Service port, and any port of a pod of another site.
                for to in [SocketAddr::new(service(family, 20), 7000), SocketAddr::new(far_pod, 8443)] {
                    let client = host.pods[0].address(family);
                    let want = (to, format!("agent {to} {client}"));
                    host.pods[0].run(|| {
                        assert_eq!(call_tcp(to).unwrap(), want);
                        assert_eq!(ask(to, "x").unwrap(), want);
                        assert_eq!(ask_connected(to, "x").unwrap(), want);
                    });
                    // The host's own processes come from the node's address, a machine of the LAN from its own.
                    let own = (to, format!("agent {to} {}", node(host, family)));
                    assert_eq!(call_tcp(to).unwrap(), own);
                    assert_eq!(ask(to, "x").unwrap(), own);
                    let lan = (to, format!("agent {to} {}", host.neighbour.address(family)));
                    assert_eq!(host.neighbour.run(|| call_tcp(to)).unwrap(), lan);
                    assert_eq!(host.neighbour.run(|| ask(to, "x")).unwrap(), lan);
                }
            }
            let status = datapath.status();
            assert!(status.services.iter().all(|(_, counters)| counters.steered >= 3), "{status:?}");
            assert!(status.other.steered >= 12, "{status:?}");
            datapath.detach().await.unwrap();
        });
    });
}

#[test]
fn what_is_no_service_never_reaches_a_listener_of_the_host() {
    isolated("far::what_is_no_service_never_reaches_a_listener_of_the_host", |host| {
        block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            // As sshd: on every address of the host.
            let wildcard = TcpListener::bind("[::]:22").unwrap();
            thread::spawn(move || greet(&wildcard, "host"));
            let datagrams = UdpSocket::bind("[::]:22").unwrap();
            let far = FAMILIES.map(|family| (frontend(service(family, 20), 22, Tcp), Target::Far));
            datapath.apply(&desired(far)).await.unwrap();
            for family in FAMILIES {
                assert!(call_tcp(SocketAddr::new(node(host, family), 22)).unwrap().1.starts_with("host"));
                // A known Service without an agent, an unknown one, a pod of another site.
                let far_pod = if family == Family::V4 { "10.244.2.9" } else { "fd00:10:244:2::9" };
                for addr in [service(family, 20), service(family, 99), far_pod.parse().unwrap()] {
                    let to = SocketAddr::new(addr, 22);
                    for error in [host.pods[0].run(|| call_tcp(to)), call_tcp(to)].map(Result::unwrap_err) {
                        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{to}: {error}");
                    }
                    host.pods[0].run(|| ask_connected(to, "x")).unwrap_err();
                }
            }
            datagrams.set_nonblocking(true).unwrap();
            assert_eq!(datagrams.recv(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            // With an agent, the Service's other ports still refuse.
            let sockets = FarSockets::bind().unwrap();
            act_as_agent(&sockets);
            datapath.set_agent_sockets(sockets.borrow()).unwrap();
            let to = SocketAddr::new(service(Family::V4, 20), 22);
            assert!(host.pods[0].run(|| call_tcp(to)).unwrap().1.starts_with("agent"));
            let other = SocketAddr::new(service(Family::V4, 20), 23);
            host.pods[0].run(|| call_tcp(other)).unwrap_err();
            // When the agent's sockets are taken back, it refuses again.
            datapath.set_agent_sockets(AgentSockets::default()).unwrap();
            host.pods[0].run(|| call_tcp(to)).unwrap_err();
            datapath.detach().await.unwrap();
        });
    });
}

#[test]
fn a_neighbours_call_to_a_near_service_reaches_the_agent() {
    isolated("far::a_neighbours_call_to_a_near_service_reaches_the_agent", |host| {
        block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            let sockets = FarSockets::bind().unwrap();
            act_as_agent(&sockets);
            datapath.set_agent_sockets(sockets.borrow()).unwrap();
            let mut services = Vec::new();
            for family in FAMILIES {
                let backend = SocketAddr::new(host.pods[0].address(family), 8080);
                services.push((frontend(service(family, 10), 80, Tcp), near(&[backend])));
                services.push((frontend(node(host, family), 30080, Tcp), near(&[backend])));
            }
            datapath.apply(&desired(services)).await.unwrap();
            for family in FAMILIES {
                for (addr, port) in [(service(family, 10), 80), (node(host, family), 30080)] {
                    let to = SocketAddr::new(addr, port);
                    // A machine without our hooks: leave the test's cgroup for the call.
                    let said = outside(host, || host.neighbour.run(|| call_tcp(to))).unwrap().1;
                    assert_eq!(said, format!("agent {to} {}", host.neighbour.address(family)));
                }
            }
            datapath.detach().await.unwrap();
        });
    });
}

/// Runs a closure with this process out of the cgroup that the hooks are on.
pub(crate) fn outside<T>(host: &Host, body: impl FnOnce() -> T) -> T {
    let root = host.cgroup.parent().unwrap();
    std::fs::write(root.join("cgroup.procs"), "0").unwrap();
    let result = body();
    std::fs::write(host.cgroup.join("cgroup.procs"), "0").unwrap();
    result
}

#[test]
fn bytes_pass_both_ways_through_a_steered_connection() {
    isolated("far::bytes_pass_both_ways_through_a_steered_connection", |host| {
        block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            let sockets = FarSockets::bind().unwrap();
            datapath.set_agent_sockets(sockets.borrow()).unwrap();
            let at = frontend(service(Family::V4, 20), 7000, Tcp);
            datapath.apply(&desired([(at, Target::Far)])).await.unwrap();
            let listener = sockets.tcp4.try_clone().unwrap();
            let echo = thread::spawn(move || {
                wait(&listener);
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_nonblocking(false).unwrap();
                let mut reader = stream.try_clone().unwrap();
                io::copy(&mut reader, &mut stream).unwrap()
            });
            let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
            let got = host.pods[0].run(|| {
                let mut stream = std::net::TcpStream::connect((at.addr, at.port)).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut writer = stream.try_clone().unwrap();
                let sent = &sent;
                thread::scope(|scope| {
                    scope.spawn(move || {
                        writer.write_all(sent).unwrap();
                        writer.shutdown(std::net::Shutdown::Write).unwrap();
                    });
                    let mut got = Vec::new();
                    stream.read_to_end(&mut got).unwrap();
                    got
                })
            });
            assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
            assert_eq!(echo.join().unwrap(), 1_000_000);
            datapath.detach().await.unwrap();
        });
    });
}
