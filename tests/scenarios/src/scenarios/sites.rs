//! What a site is told with kubectl, its nodes do at once, and unlearn as fast.

use anyhow::{Context as _, Result, ensure};

use super::across_sites::expect_path;
use crate::world::World;

/// Megabits a second that site A is told to send at most, and what little more a bench may count: what was sent before
/// its first second and arrived in it.
const RATE: f64 = 20.0;
const MARGIN: f64 = 1.25;

/// No direct paths, then no more than a rate, then as before.
pub(crate) fn told(world: &mut World) -> Result<()> {
    expect_path(world, "direct")?;
    world.apply(&site("{direct: false}"))?;
    expect_path(world, "relayed")?;
    let trace = world.meshctl_at("edge-a", "trace edge-b")?;
    let why = trace["why"].as_str().unwrap_or_default();
    ensure!(why.contains("site"), "trace does not say that the site was told so: {trace}");
    let seen = world.kubectl("get sites")?;
    ensure!(seen.contains("site-a") && seen.contains("false"), "kubectl get sites: {seen}");
    world.apply(&site(&format!("{{rateMbit: {RATE}}}")))?;
    expect_path(world, "direct")?;
    let [sent, received] = bench(world)?;
    ensure!(sent <= RATE * MARGIN, "site A sends {sent:.1} Mbit/s, and was told {RATE}");
    ensure!(received > RATE * MARGIN, "site B, which was told nothing, sends {received:.1} Mbit/s");
    world.kubectl("delete site site-a")?;
    let [sent, _] = bench(world)?;
    ensure!(sent > RATE * MARGIN, "site A, told no more, sends {sent:.1} Mbit/s");
    let bad = world.try_kubectl("apply -f -", &site("{rateMbit: 0}"))?;
    ensure!(!bad.good && bad.err.contains("rateMbit"), "a rate of 0 is taken: {}", bad.text());
    Ok(())
}

fn site(spec: &str) -> String {
    format!("apiVersion: edgeloom.io/v1alpha1\nkind: Site\nmetadata: {{name: site-a}}\nspec: {spec}\n")
}

/// Mbit/s from site A to site B, and back.
fn bench(world: &World) -> Result<[f64; 2]> {
    let measured = world.meshctl_at("edge-a", "bench edge-b --seconds 2")?;
    let rate = |phase: &str| -> Result<f64> {
        let phases = measured.as_array().context("`meshctl bench -o json` is no list")?;
        let found = phases.iter().find(|one| one["phase"] == phase).with_context(|| format!("no {phase}"))?;
        let value = |field: &str| found[field].as_f64().with_context(|| format!("no {field}: {found}"));
        Ok(value("bytes")? * 8.0 / value("seconds")? / 1e6)
    };
    Ok([rate("send")?, rate("receive")?])
}
