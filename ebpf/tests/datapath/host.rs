//! A small network of its own for one test: a host with a bridge, pods behind it, and a neighbour on its
//! LAN, each a network namespace, and a cgroup for all processes of the test.
//!
//! Namespaces belong to a process, so each test runs in one of its own: [`isolated`] starts the test
//! binary again for that test alone. Everything is gone when that process ends, the bpf file system in
//! its mount namespace included; the cgroup is removed by its parent.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use edgeloom_ebpf::{Desired, Frontend, LoadConfig, Target};
use edgeloom_model::Protocol;
use nix::sched::{CloneFlags, setns, unshare};

pub(crate) const PIN: &str = "/sys/fs/bpf/edgeloom";

/// Set in the process that runs one test: its cgroup.
const CGROUP: &str = "DP_TEST_CGROUP";
/// Longer than any test takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `body`, the test of this name (with its module), in a process, network, mount tree and cgroup of its own; skips with a message where that
/// cannot be had.
pub(crate) fn isolated(name: &str, body: impl FnOnce(&Host)) {
    if let Some(cgroup) = std::env::var_os(CGROUP) {
        return body(&Host::build(cgroup.into()));
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED {name}: needs root");
        return;
    }
    let Some(root) = cgroup2() else {
        eprintln!("SKIPPED {name}: no cgroup2 file system is mounted");
        return;
    };
    let cgroup = root.join(format!("dp-{}-{}", name.replace("::", "-"), std::process::id()));
    fs::create_dir(&cgroup).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--include-ignored"])
        .env(CGROUP, &cgroup)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    remove(&cgroup);
    assert!(status.expect("the test took too long").success(), "see the output above");
}

/// Ends what is left in the test's cgroup, and removes it with its children.
fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().filter_map(Result::ok) {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    for _ in 0..200 {
        fs::write(cgroup.join("cgroup.kill"), "1").ok();
        if fs::remove_dir(cgroup).is_ok() || !cgroup.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} stays busy", cgroup.display());
}

fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| fields.split(' ').nth(4).unwrap().into())
    })
}

/// A network namespace that is not the host's.
pub(crate) struct Place {
    ns: File,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
}

pub(crate) struct Host {
    pub(crate) cgroup: PathBuf,
    pub(crate) pods: Vec<Place>,
    /// A machine on the host's LAN, with routes to the Service ranges through the host.
    pub(crate) neighbour: Place,
    pub(crate) node4: IpAddr,
    pub(crate) node6: IpAddr,
}

impl Host {
    fn build(cgroup: PathBuf) -> Self {
        fs::write(cgroup.join("cgroup.procs"), "0").unwrap();
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        run("mount --make-rprivate /");
        run("mount -t bpf bpf /sys/fs/bpf");
        run("ip link set lo up");
        run("ip link add br0 type bridge");
        run("ip addr add 10.244.1.1/24 dev br0");
        run("ip addr add fd00:10:244:1::1/64 dev br0 nodad");
        run("ip link set br0 up");
        let pods = (0..PODS)
            .map(|index| {
                let [v4, v6] = pod(index);
                place(&format!("pod{index}"), &v4, 24, &v6, ["10.244.1.1", "fd00:10:244:1::1"], Some("br0"))
            })
            .collect();
        let neighbour =
            place("lan", "192.0.2.20", 24, "2001:db8:2::20", ["192.0.2.10", "2001:db8:2::10"], None);
        run("ip addr add 192.0.2.10/24 dev h-lan");
        run("ip addr add 2001:db8:2::10/64 dev h-lan nodad");
        let (node4, node6) = ("192.0.2.10".parse().unwrap(), "2001:db8:2::10".parse().unwrap());
        Self { cgroup, pods, neighbour, node4, node6 }
    }

    /// The host that this process was started in, by [`Host::build`] of another: its addresses, and
    /// nothing to run in its places.
    pub(crate) fn inherited() -> Self {
        let place = |[v4, v6]: [String; 2]| Place {
            ns: File::open("/proc/thread-self/ns/net").unwrap(),
            v4: v4.parse().unwrap(),
            v6: v6.parse().unwrap(),
        };
        Self {
            cgroup: std::env::var_os(CGROUP).unwrap().into(),
            pods: (0..PODS).map(|index| place(pod(index))).collect(),
            neighbour: place(["192.0.2.20".into(), "2001:db8:2::20".into()]),
            node4: "192.0.2.10".parse().unwrap(),
            node6: "2001:db8:2::10".parse().unwrap(),
        }
    }

    pub(crate) fn config(&self) -> LoadConfig {
        LoadConfig {
            cgroup: Some(self.cgroup.clone()),
            pin: Some(PIN.into()),
            node_addresses: vec![self.node4, self.node6],
            ..LoadConfig::default()
        }
    }
}

impl Place {
    /// Runs a closure in this namespace.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.ns, CloneFlags::CLONE_NEWNET).unwrap();
                body()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A process that lives here for as long as what is returned.
    pub(crate) fn process(&self) -> Process {
        self.run(|| Process(Command::new("sleep").arg("60").spawn().unwrap()))
    }

    pub(crate) fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// A process that ends with its handle.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

const PODS: u8 = 2;

/// The addresses of a pod.
fn pod(index: u8) -> [String; 2] {
    let host = index + 2;
    [format!("10.244.1.{host}"), format!("fd00:10:244:1::{host}")]
}

fn place(name: &str, v4: &str, v4_prefix: u8, v6: &str, gateways: [&str; 2], bridge: Option<&str>) -> Place {
    let ns = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    let ns = ns.join().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), ns.as_raw_fd());
    run(&format!("ip link add h-{name} type veth peer name eth0 netns {path}"));
    if let Some(bridge) = bridge {
        run(&format!("ip link set h-{name} master {bridge}"));
    }
    run(&format!("ip link set h-{name} up"));
    let place = Place { ns, v4: v4.parse().unwrap(), v6: v6.parse().unwrap() };
    place.run(|| {
        run("ip link set lo up");
        run(&format!("ip addr add {v4}/{v4_prefix} dev eth0"));
        run(&format!("ip addr add {v6}/64 dev eth0 nodad"));
        run("ip link set eth0 up");
        run(&format!("ip route add default via {}", gateways[0]));
        run(&format!("ip route add default via {}", gateways[1]));
    });
    place
}

/// Runs a command in the namespace of this thread.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// An address of the Service ranges.
pub(crate) fn service(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => format!("10.96.0.{host}").parse().unwrap(),
        Family::V6 => format!("fd00:10:96::{host:x}").parse().unwrap(),
    }
}

pub(crate) fn frontend(addr: IpAddr, port: u16, protocol: Protocol) -> Frontend {
    Frontend { addr, port, protocol }
}

pub(crate) fn near(backends: &[SocketAddr]) -> Target {
    Target::Near { backends: backends.to_vec(), affinity: None }
}

/// These Services, with both Service ranges routed.
pub(crate) fn desired(services: impl IntoIterator<Item = (Frontend, Target)>) -> Desired {
    Desired {
        services: services.into_iter().collect(),
        service_ranges: ["10.96.0.0/12".parse().unwrap(), "fd00:10:96::/108".parse().unwrap()].into(),
        pod_ranges: ["10.244.2.0/24".parse().unwrap(), "fd00:10:244:2::/64".parse().unwrap()].into(),
    }
}

/// Runs a future on a runtime in this thread, and so in its network namespace.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
