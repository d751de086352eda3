//! Mistakes get an error that names the cause, and lose nothing.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::{self, Done, eventually};
use crate::world::World;

/// How long a daemon may take to find out that it cannot start.
const REFUSAL: Duration = Duration::from_secs(20);

/// The done thing must have failed, and said each of `words` (any case).
fn refused(done: &Done, words: &[&str], what: &str) -> Result<()> {
    ensure!(!done.good, "{what} was accepted: {}", done.text());
    let text = done.text().to_lowercase();
    for word in words {
        ensure!(
            text.contains(&word.to_lowercase()),
            "{what}: the error does not name {word:?}: {}",
            done.text()
        );
    }
    Ok(())
}

/// Every daemon refuses a field that it does not know, and names it.
pub(crate) fn unknown_field(world: &mut World) -> Result<()> {
    let file = std::env::temp_dir().join(format!("edgeloom-{}.yaml", std::process::id()));
    fs::write(&file, "surplus: true\n")?;
    let result = ["edgeloom-control", "edgecore"].iter().try_for_each(|daemon| {
        let mut command = Command::new(world.program(daemon));
        let done = command::run(command.arg("--config").arg(&file), "", REFUSAL)?;
        refused(&done, &["surplus"], &format!("{daemon} with an unknown field"))
    });
    fs::remove_file(&file)?;
    result
}

/// An edge node that should not get in, tried on the cloud host, where no other edgecore runs.
fn join(world: &World, node: &str, token: &str) -> Result<Done> {
    let host = world.host("cloud")?;
    let config = format!(
        "node: {node}\nstateDir: /var/lib/edgeloom/stranger\nrunDir: /run/edgeloom/stranger\n\
         overlay:\n  listen: \"0.0.0.0:0\"\nops:\n  listen: \"127.0.0.1:0\"\n\
         control:\n  addresses: [\"203.0.113.10:20006\"]\n  token: \"{token}\"\n"
    );
    fs::write(host.path("/etc/edgeloom/stranger.yaml")?, config)?;
    let mut command = host.command("timeout")?;
    command.arg("15").arg(world.program("edgecore")).args(["--config", "/etc/edgeloom/stranger.yaml"]);
    let done = command::run(&mut command, "", REFUSAL);
    let _ = fs::remove_dir_all(host.path("/var/lib/edgeloom/stranger")?);
    done
}

fn token(world: &World, arguments: &str) -> Result<String> {
    let token = world.meshctl(&format!("token create --site site-a {arguments}"))?;
    Ok(token["token"].as_str().context("`meshctl token create -o json` has no token")?.to_owned())
}

/// The token that `edge` joined with, which was good for one node.
fn token_of(world: &World, edge: &str) -> Result<String> {
    let path = world.host(edge)?.path("/etc/edgeloom/edgecore.yaml")?;
    let config = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let line = config.lines().find_map(|line| line.trim().strip_prefix("token: "));
    let token = line.with_context(|| format!("{} has no token", path.display()))?;
    Ok(token.trim_matches('"').to_owned())
}

/// A wrong, a used and an expired token: each refused for what it is.
pub(crate) fn tokens(world: &mut World) -> Result<()> {
    refused(&join(world, "stranger", "nonsense")?, &["token"], "a token that is none")?;
    let good = token(world, "")?;
    let (hash, secret) = good.split_once('.').context("a token has no dot")?;
    let other_ca = format!("{}.{secret}", "0".repeat(hash.len()));
    refused(&join(world, "stranger", &other_ca)?, &["CA"], "a token of another cluster")?;
    let reserved = token(world, "--node nobody")?;
    refused(&join(world, "stranger", &reserved)?, &["token"], "a token for another node")?;
    let spent = token_of(world, "edge-a")?;
    refused(&join(world, "stranger", &spent)?, &["token", "used"], "a token that a node has joined with")?;
    let brief = token(world, "--ttl 1s")?;
    std::thread::sleep(Duration::from_millis(1500));
    refused(&join(world, "stranger", &brief)?, &["token", "expired"], "an expired token")?;
    let nodes = world.kubectl("get nodes -o name")?;
    ensure!(!nodes.contains("stranger"), "a refused node was registered: {nodes}");
    Ok(())
}

/// A second node of a name that is in use.
pub(crate) fn name_taken(world: &mut World) -> Result<()> {
    let good = token(world, "")?;
    refused(&join(world, "edge-a", &good)?, &["edge-a"], "a node name that is taken")?;
    world.expect_orders()
}

/// A node whose host has a route that its pods' range would overlap.
pub(crate) fn range_overlaps(world: &mut World) -> Result<()> {
    let route = "10.244.0.0/16";
    world.in_host("cloud", &["ip", "route", "add", route, "dev", "eth0"])?.output("ip route add")?;
    world.afterwards(move |world| {
        world.in_host("cloud", &["ip", "route", "del", route, "dev", "eth0"])?.output("ip route del")?;
        world.kubectl("delete node overlap --ignore-not-found").map(drop)
    });
    let good = token(world, "")?;
    refused(&join(world, "overlap", &good)?, &["10.244"], "a pod range that overlaps a route")
}

/// Manifests with mistakes: the answer names the field.
pub(crate) fn manifests(world: &mut World) -> Result<()> {
    let object = |kind: &str, rest: &str| {
        format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: bad, namespace: default}}\n{rest}")
    };
    for (manifest, words, what) in [
        (object("Pod", "spec: {containers: []}"), vec!["spec.containers"], "a pod without containers"),
        (
            object("Pod", "spec: {containers: [{name: a, image: b, imagee: c}]}"),
            vec!["imagee"],
            "an unknown field",
        ),
        (object("Service", "spec: {ports: [{port: 70000}]}"), vec!["port"], "a port that is none"),
        (object("Service", "spec: {ports: [{port: \"x\"}]}"), vec!["port"], "a port of the wrong type"),
        (object("ConfigMap", "data: [a]"), vec!["data"], "data that is no mapping"),
        (object("Nonsense", ""), vec!["Nonsense"], "an unknown kind"),
    ] {
        refused(&world.try_kubectl("apply -f -", &manifest)?, &words, what)?;
    }
    Ok(())
}

/// A pod whose image nobody has: its status says so, and it can be deleted.
pub(crate) fn image_not_there(world: &mut World) -> Result<()> {
    world.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: no-image, namespace: default}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  nodeSelector: {topology.kubernetes.io/zone: site-a}\n  \
         containers: [{name: a, image: \"edgeloom.io/nobody/has-this:1\", imagePullPolicy: IfNotPresent}]\n",
    )?;
    eventually(Duration::from_secs(60), || {
        let path = "{.status.containerStatuses[0].state.waiting.reason}";
        let reason = world.kubectl(&format!("get pod no-image -o jsonpath={path}"))?;
        let known = reason == "ErrImagePull" || reason == "ImagePullBackOff";
        ensure!(
            known,
            "the reason is {reason:?}: {}",
            world.kubectl("get pod no-image -o jsonpath={.status}")?
        );
        Ok(())
    })
}
