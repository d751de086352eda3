//! What outlives the agent: programs, maps and links stay under their pins, and a successor takes over.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};

use edgeloom_ebpf::sockets::FarSockets;
use edgeloom_ebpf::{Capacity, Datapath, Desired, LoadConfig, State, Status, Steering as _, Target};
use edgeloom_model::Protocol::{Tcp, Udp};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{FAMILIES, Family, Host, PIN, block_on, desired, frontend, isolated, near, run, service};
use crate::net::{ask, call_tcp, serve_tcp, serve_udp};

/// Set in the process that plays the agent.
const AGENT: &str = "DP_TEST_AGENT";

/// A near TCP and UDP Service on pod 0 and a far one, in both families.
fn services(host: &Host) -> Desired {
    let mut services = Vec::new();
    for family in FAMILIES {
        let backend = |port| SocketAddr::new(host.pods[0].address(family), port);
        services.push((frontend(service(family, 10), 80, Tcp), near(&[backend(8080)])));
        services.push((frontend(service(family, 10), 53, Udp), near(&[backend(5353)])));
        services.push((frontend(service(family, 20), 80, Tcp), Target::Far));
    }
    desired(services)
}

fn serve(host: &Host) {
    for family in FAMILIES {
        serve_tcp(&host.pods[0], SocketAddr::new(host.pods[0].address(family), 8080), "pod0");
        serve_udp(&host.pods[0], SocketAddr::new(host.pods[0].address(family), 5353), "pod0");
    }
}

/// Near calls from pod 1 in both families and protocols.
fn near_calls_work(host: &Host) {
    for family in FAMILIES {
        host.pods[1].run(|| {
            let tcp = SocketAddr::new(service(family, 10), 80);
            assert_eq!(call_tcp(tcp).unwrap().0, tcp);
            let udp = SocketAddr::new(service(family, 10), 53);
            assert_eq!(ask(udp, "x").unwrap(), (udp, "pod0 x".to_owned()));
        });
    }
}

/// A process that loads the datapath for this host, and then does nothing until it is killed.
fn agent() -> Child {
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["lasting::an_agent", "--exact", "--nocapture", "--include-ignored"])
        .env(AGENT, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("agent is up")), "the agent did not come up");
    agent
}

#[test]
#[ignore = "a part of other tests: the agent that they kill"]
fn an_agent() {
    if std::env::var_os(AGENT).is_none() {
        return;
    }
    let host = Host::inherited();
    block_on(async {
        let mut datapath = Datapath::load(host.config()).unwrap();
        let sockets = FarSockets::bind().unwrap();
        datapath.set_agent_sockets(sockets.borrow()).unwrap();
        datapath.apply(&services(&host)).await.unwrap();
        println!("agent is up");
        std::future::pending::<()>().await;
    });
}

#[test]
fn near_calls_work_with_the_agent_stopped_and_killed() {
    isolated("lasting::near_calls_work_with_the_agent_stopped_and_killed", |host| {
        serve(host);
        let mut agent = agent();
        near_calls_work(host);
        let pid = Pid::from_raw(agent.id() as i32);
        kill(pid, Signal::SIGSTOP).unwrap();
        near_calls_work(host);
        kill(pid, Signal::SIGKILL).unwrap();
        assert_eq!(agent.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
        near_calls_work(host);
        // What is far needs the agent: refused, and not answered by anybody else.
        let far = SocketAddr::new(service(Family::V4, 20), 80);
        let refused = host.pods[1].run(|| call_tcp(far)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        // A successor takes over: the same picture is no change, and the counters went on.
        block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            near_calls_work(host);
            let applied = datapath.apply(&services(host)).await.unwrap();
            assert_eq!((applied.changed, applied.removed), (0, 0));
            let connects = |status: &Status| status.services.iter().map(|(_, c)| c.connects).sum::<u64>();
            assert_eq!(connects(&datapath.status()), 8);
            datapath.detach().await.unwrap();
        });
    });
}

#[test]
fn a_successor_swaps_programs_without_a_gap() {
    isolated("lasting::a_successor_swaps_programs_without_a_gap", |host| {
        serve(host);
        block_on(async {
            let mut first = Datapath::load(host.config()).unwrap();
            first.apply(&services(host)).await.unwrap();
            for _ in 0..5 {
                let next = Datapath::load(host.config()).unwrap();
                first.shutdown().await.unwrap();
                near_calls_work(host);
                first = next;
            }
            // One link a program, whatever happened before.
            assert_eq!(fs::read_dir(format!("{PIN}/v1")).unwrap().count(), 9 + 9);
            first.detach().await.unwrap();
        });
    });
}

#[test]
fn detaching_leaves_nothing_behind() {
    isolated("lasting::detaching_leaves_nothing_behind", |host| {
        serve(host);
        let ours =
            || [run("ip route show table local proto 94"), run("ip -6 route show table local proto 94")];
        block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            datapath.apply(&services(host)).await.unwrap();
            let routes = ours();
            assert!(routes[0].contains("10.96.0.0/12") && routes[0].contains("src 192.0.2.10"), "{routes:?}");
            assert!(routes[1].contains("fd00:10:96::/108"), "{routes:?}");
            // Ranges that are no longer wanted go one by one.
            let mut fewer = services(host);
            fewer.pod_ranges.clear();
            datapath.apply(&fewer).await.unwrap();
            assert!(!ours().concat().contains("244:2"));
            datapath.shutdown().await.unwrap();
            assert!(ours()[0].contains("10.96.0.0/12"), "pinned: the routes stay");
            let datapath = Datapath::load(host.config()).unwrap();
            datapath.detach().await.unwrap();
            assert_eq!(ours().concat(), "");
            assert!(!fs::exists(PIN).unwrap());
            // The hooks are off: a call goes where it is sent, which is nowhere.
            let to = SocketAddr::new(service(Family::V4, 10), 80);
            host.pods[1].run(|| call_tcp(to)).unwrap_err();
        });
    });
}

#[test]
fn without_pins_everything_ends_with_the_agent() {
    isolated("lasting::without_pins_everything_ends_with_the_agent", |host| {
        serve(host);
        block_on(async {
            let config = LoadConfig { pin: None, ..host.config() };
            let mut datapath = Datapath::load(config).unwrap();
            datapath.apply(&services(host)).await.unwrap();
            near_calls_work(host);
            let features = datapath.status().features;
            let pinned = features.iter().find(|feature| feature.name == "pinned").unwrap();
            assert!(matches!(&pinned.state, State::Off(why) if why.contains("not configured")));
            datapath.shutdown().await.unwrap();
            assert_eq!(run("ip route show table local proto 94"), "");
            let to = SocketAddr::new(service(Family::V4, 10), 80);
            host.pods[1].run(|| call_tcp(to)).unwrap_err();
        });
    });
}

#[test]
fn pins_of_another_shape_or_schema_are_replaced() {
    isolated("lasting::pins_of_another_shape_or_schema_are_replaced", |host| {
        serve(host);
        block_on(async {
            let mut first = Datapath::load(host.config()).unwrap();
            first.apply(&services(host)).await.unwrap();
            first.shutdown().await.unwrap();
            // As if an older version had left its own beside ours.
            fs::create_dir(format!("{PIN}/v0")).unwrap();
            let capacity = Capacity { frontends: 1024, ..Capacity::default() };
            let mut second = Datapath::load(LoadConfig { capacity, ..host.config() }).unwrap();
            assert!(!fs::exists(format!("{PIN}/v0")).unwrap());
            assert_eq!(second.apply(&services(host)).await.unwrap().changed, 6);
            near_calls_work(host);
            second.detach().await.unwrap();
        });
    });
}

#[test]
fn another_host_that_shares_the_pins_leaves_them_alone() {
    isolated("lasting::another_host_that_shares_the_pins_leaves_them_alone", |host| {
        serve(host);
        block_on(async {
            let mut first = Datapath::load(host.config()).unwrap();
            first.apply(&services(host)).await.unwrap();
            host.neighbour.run(|| {
                block_on(async {
                    let mut second = Datapath::load(host.config()).unwrap();
                    second.apply(&Desired::default()).await.unwrap();
                    let off = |state: &State| matches!(state, State::Off(why) if why.contains("another"));
                    assert!(second.status().features.iter().any(|f| f.name == "pinned" && off(&f.state)));
                    second.detach().await.unwrap();
                });
            });
            near_calls_work(host);
            assert_eq!(first.apply(&services(host)).await.unwrap().changed, 0);
            first.detach().await.unwrap();
        });
    });
}

#[test]
fn a_cgroup_that_was_made_anew_is_attached_again() {
    isolated("lasting::a_cgroup_that_was_made_anew_is_attached_again", |host| {
        serve(host);
        let inner = host.cgroup.join("inner");
        let enter = || fs::write(inner.join("cgroup.procs"), "0").unwrap();
        fs::create_dir(&inner).unwrap();
        block_on(async {
            let config = LoadConfig { cgroup: Some(inner.clone()), ..host.config() };
            let mut datapath = Datapath::load(config.clone()).unwrap();
            datapath.apply(&services(host)).await.unwrap();
            enter();
            near_calls_work(host);
            // While the agent runs, and while it does not.
            for restart in [false, true] {
                fs::write(host.cgroup.join("cgroup.procs"), "0").unwrap();
                fs::remove_dir(&inner).unwrap();
                fs::create_dir(&inner).unwrap();
                enter();
                if restart {
                    datapath.shutdown().await.unwrap();
                    datapath = Datapath::load(config.clone()).unwrap();
                } else {
                    datapath.apply(&services(host)).await.unwrap();
                }
                near_calls_work(host);
            }
            datapath.detach().await.unwrap();
        });
        fs::write(host.cgroup.join("cgroup.procs"), "0").unwrap();
    });
}

#[test]
fn a_cgroup_that_is_not_there_is_named() {
    isolated("lasting::a_cgroup_that_is_not_there_is_named", |host| {
        block_on(async {
            let config = LoadConfig { cgroup: Some("/sys/fs/cgroup/dp-none".into()), ..host.config() };
            let error = Datapath::load(config).unwrap_err().to_string();
            assert!(error.contains("/sys/fs/cgroup/dp-none"), "{error}");
        });
    });
}
