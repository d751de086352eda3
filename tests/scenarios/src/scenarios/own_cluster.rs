//! A cluster that is there already: its API server, controllers and scheduler in place of the embedded ones.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use edgeloom_lab::Lab;

use crate::command::{self, Done};
use crate::world::World;

const ROOT: &str = "/var/lib/edgeloom-lab";
/// A lab of this scenario's own.
const NAME: &str = "owncluster";
/// Where the control plane keeps its keys, as the cloud host sees it.
const DIRECTORY: &str = "/var/lib/cluster";
/// What bring-up may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// The same example on the same two sites, with logs and exec, and nothing in the YAML for it.
pub(crate) fn example(world: &mut World) -> Result<()> {
    let result = run(world);
    let down = quickstart(world, "down", None).and_then(|done| done.output("quickstart.sh down"));
    result.and(down.map(drop))
}

fn run(world: &World) -> Result<()> {
    quickstart(world, "lab", None)?.output("quickstart.sh lab")?;
    let lab = Lab::open(Path::new(ROOT), NAME)?;
    let cloud = lab.host("cloud")?;
    let script = world.file("tests/scenarios/control-plane.sh");
    let mut start = cloud.command("bash")?;
    start.arg(script).arg(DIRECTORY).arg(lab.machine_address("cloud")?.to_string());
    command::run(&mut start, "", PATIENCE)?.output("the control plane")?;
    let admin = cloud.path(&format!("{DIRECTORY}/admin.conf"))?;
    let up = quickstart(world, "up", Some(&admin))?.output("quickstart.sh up")?;
    ensure!(up.contains(r#""site":"site-b""#), "the call across sites: {up}");
    let kubectl = |arguments: &str| -> Result<String> {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(&admin).args(arguments.split_whitespace());
        command::run(&mut kubectl, "", PATIENCE)?.output(&format!("kubectl {arguments}"))
    };
    let logs = kubectl("-n shop logs deployment/orders")?;
    ensure!(logs.contains("responder: HTTP on 8080"), "logs: {logs:?}");
    let name = kubectl("-n shop exec deployment/orders -- hostname")?;
    ensure!(name.starts_with("orders-"), "exec: {name:?}");
    let mounts =
        kubectl("-n shop exec deployment/client -- ls /var/run/secrets/kubernetes.io/serviceaccount")?;
    ensure!(mounts.contains("token") && mounts.contains("ca.crt"), "the token volume: {mounts:?}");
    Ok(())
}

fn quickstart(world: &World, verb: &str, control_plane: Option<&Path>) -> Result<Done> {
    let mut script = Command::new(world.file("deploy/quickstart.sh"));
    script.arg(verb).env("LAB_NAME", NAME);
    if let Some(admin) = control_plane {
        script.env("CONTROL_PLANE", admin);
    }
    command::run(&mut script, "", PATIENCE)
}
