//! A containerd of a host's own, of any packaging that the machine has.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::{Error, Host, Result, machine, shell};

/// Its socket, as the host sees it.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// Image of the container that holds a pod's namespaces.
pub const SANDBOX_IMAGE: &str = "edgeloom.io/pause:0.1";
/// Its configuration, as the host sees it.
const CONFIG: &str = "/etc/edgeloom/containerd.toml";
/// Where packages put the CNI plugins: Debian, upstream, Fedora.
const PLUGINS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];
/// How long it may take to answer on its socket.
const START: Duration = Duration::from_secs(60);

/// Starts containerd in a host unless it runs, and waits until it answers.
///
/// # Errors
/// Where containerd or the CNI plugins are not installed, or it does not answer in time.
pub fn start(host: &Host) -> Result<()> {
    if answers(host) {
        return Ok(());
    }
    let program = machine::find("containerd").ok_or_else(|| missing("containerd", "containerd"))?;
    let plugins = machine::first_with(&PLUGINS, "bridge")
        .ok_or_else(|| missing("the CNI plugin `bridge`", "containernetworking-plugins"))?;
    let config = host.path(CONFIG)?;
    fs::write(&config, configuration(&plugins)).map_err(Error::io("write", &config))?;
    let log = host.path("/var/log/containerd.log")?;
    let pid = match host.processes_named("containerd").first() {
        Some(process) => Pid::from_raw(process.pid),
        None => host.start(&[&program.to_string_lossy(), "--config", CONFIG], &log)?,
    };
    let deadline = Instant::now() + START;
    while !answers(host) {
        if kill(pid, None).is_err() || Instant::now() > deadline {
            let what = format!("{}: containerd does not answer", host.name());
            let seconds = START.as_secs();
            return Err(Error::Timeout { what, seconds, log: log.display().to_string() });
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Gives a host the images of an OCI layout, packed as tar at a path of the machine.
///
/// # Errors
/// Where the file is not one, or containerd does not run.
pub fn import(host: &Host, archive: &Path) -> Result<()> {
    let file = fs::File::open(archive).map_err(Error::io("open", archive))?;
    // By standard input: the host may see another directory at that path.
    let mut command = host.command("ctr")?;
    command.args(["-n", "k8s.io", "-a", SOCKET, "images", "import", "-"]).stdin(file);
    let output = command.output().map_err(Error::io("run", "ctr"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("ctr images import ({})", archive.display()),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn answers(host: &Host) -> bool {
    // Asked before there is a socket, ctr waits ten seconds for one.
    let listens = host.path(SOCKET).is_ok_and(|socket| socket.exists());
    listens
        && host.command("ctr").is_ok_and(|mut ctr| shell::run(ctr.args(["-a", SOCKET, "version"])).is_ok())
}

fn missing(what: &str, package: &str) -> Error {
    Error::Machine(format!("{what} is not installed: apt-get install {package}"))
}

/// Version 2 is read by containerd 1.3 to 2.x. The paths are the usual ones: each host has its own.
fn configuration(plugins: &Path) -> String {
    let plugins: PathBuf = plugins.to_owned();
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "{SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  # A lab may run in a container, whose own score is the floor.
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  stream_server_address = "127.0.0.1"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{}"
    conf_dir = "/etc/cni/net.d"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#,
        plugins.display()
    )
}
