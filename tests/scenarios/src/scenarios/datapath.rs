//! Near is in the kernel, far is steered by it.

use anyhow::{Context, Result, ensure};

use crate::world::World;

/// A Service whose pods run where its client does.
const NEAR: &str = include_str!("near.yaml");

/// With the agent stopped, TCP and UDP calls to a Service of the own node go on, over IPv4 and IPv6.
pub(crate) fn near_without_agent(world: &mut World) -> Result<()> {
    world.apply(NEAR)?;
    world.kubectl("-n near rollout status deployment/near --timeout=60s")?;
    let addresses = world.kubectl("-n near get service near -o jsonpath={.spec.clusterIPs[*]}")?;
    ensure!(addresses.split_whitespace().count() == 2, "near has not two addresses: {addresses}");
    // The client's container is looked up, and every call proved, while the agent still runs.
    for frozen in [false, true] {
        if frozen {
            world.freeze("edge-a", "edgecore")?;
        }
        for address in addresses.split_whitespace() {
            let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            for (protocol, port) in [("tcp", 7000), ("udp", 9000)] {
                let target = format!("{host}:{port}");
                let call = ["responder", "call", protocol, &target, "near"];
                let answer = world.in_client(&call)?.output(&format!("{protocol} to {target}"));
                let answer = answer.with_context(|| format!("agent stopped: {frozen}"))?;
                ensure!(answer.contains("at site-a: near"), "{protocol} to {target}: {answer:?}");
            }
        }
    }
    Ok(())
}

/// With sk_lookup detached, the call across sites fails.
pub(crate) fn far_by_sk_lookup(world: &mut World) -> Result<()> {
    world.expect_orders()?;
    world.detach_sk_lookup("edge-a")?;
    world.expect_no_orders("sk_lookup is detached")
}
