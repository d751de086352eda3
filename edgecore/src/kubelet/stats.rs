//! `/stats/summary` and `/metrics/resource`: what `kubectl top` and autoscalers read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{Context, Refusal};
use crate::cri::proto::{ContainerStats, ListContainerStatsRequest, UInt64Value};
use crate::edged::observed::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};
use crate::edged::status::nanos;
use crate::node::machine;

/// Use of one container.
#[derive(Clone, Debug, Default, PartialEq)]
struct Use {
    name: String,
    time: i64,
    cpu_nanos: u64,
    cpu_nano_cores: u64,
    working_set: u64,
    rss: u64,
    page_faults: u64,
    major_page_faults: u64,
    disk: u64,
}

/// Namespace, name and uid.
type PodKey = (String, String, String);

fn by_pod(stats: Vec<ContainerStats>) -> BTreeMap<PodKey, Vec<Use>> {
    let value = |value: Option<UInt64Value>| value.map_or(0, |value| value.value);
    let mut pods: BTreeMap<PodKey, Vec<Use>> = BTreeMap::new();
    for stats in stats {
        let labels = stats.attributes.unwrap_or_default().labels;
        let label = |key: &str| labels.get(key).cloned();
        let (Some(namespace), Some(pod), Some(uid), Some(name)) =
            (label(POD_NAMESPACE), label(POD_NAME), label(POD_UID), label(CONTAINER_NAME))
        else {
            continue;
        };
        let (cpu, memory) = (stats.cpu.unwrap_or_default(), stats.memory.unwrap_or_default());
        let container = Use {
            name,
            time: cpu.timestamp,
            cpu_nanos: value(cpu.usage_core_nano_seconds),
            cpu_nano_cores: value(cpu.usage_nano_cores),
            working_set: value(memory.working_set_bytes),
            rss: value(memory.rss_bytes),
            page_faults: value(memory.page_faults),
            major_page_faults: value(memory.major_page_faults),
            disk: value(stats.writable_layer.and_then(|layer| layer.used_bytes)),
        };
        pods.entry((namespace, pod, uid)).or_default().push(container);
    }
    pods
}

async fn collect(context: &Context) -> Result<BTreeMap<PodKey, Vec<Use>>, Refusal> {
    let request = ListContainerStatsRequest { filter: None };
    Ok(by_pod(context.node.runtime.cri.list_container_stats(request).await?.stats))
}

pub(super) async fn summary(State(context): State<Context>) -> Result<Response, Refusal> {
    let pods = collect(&context).await?;
    let node = machine::usage();
    let now = nanos(node.time);
    let summary = json!({
        "node": {
            "nodeName": context.node.facts.load().node,
            "cpu": { "time": now, "usageCoreNanoSeconds": node.cpu_nanos },
            "memory": {
                "time": now,
                "availableBytes": node.memory_available,
                "usageBytes": node.memory_total.saturating_sub(node.memory_free),
                "workingSetBytes": node.memory_total.saturating_sub(node.memory_available),
            },
        },
        "pods": pods.iter().map(|(key, containers)| pod_summary(key, containers)).collect::<Vec<_>>(),
    });
    Ok(axum::Json(summary).into_response())
}

fn pod_summary((namespace, name, uid): &PodKey, containers: &[Use]) -> Value {
    let time = nanos(containers.iter().map(|c| c.time).max().unwrap_or(0));
    json!({
        "podRef": { "name": name, "namespace": namespace, "uid": uid },
        "cpu": cpu(&time, sum(containers, |c| c.cpu_nanos), sum(containers, |c| c.cpu_nano_cores)),
        "memory": { "time": time, "workingSetBytes": sum(containers, |c| c.working_set) },
        "containers": containers.iter().map(|container| json!({
            "name": container.name,
            "cpu": cpu(&nanos(container.time), container.cpu_nanos, container.cpu_nano_cores),
            "memory": {
                "time": nanos(container.time),
                "workingSetBytes": container.working_set,
                "rssBytes": container.rss,
                "pageFaults": container.page_faults,
                "majorPageFaults": container.major_page_faults,
            },
            "rootfs": { "time": nanos(container.time), "usedBytes": container.disk },
        })).collect::<Vec<_>>(),
    })
}

fn cpu(time: &Value, total: u64, rate: u64) -> Value {
    let mut cpu = json!({ "time": time, "usageCoreNanoSeconds": total });
    if rate > 0 {
        cpu["usageNanoCores"] = json!(rate);
    }
    cpu
}

fn sum(containers: &[Use], of: impl Fn(&Use) -> u64) -> u64 {
    containers.iter().map(of).sum()
}

pub(super) async fn resource_metrics(State(context): State<Context>) -> Result<Response, Refusal> {
    let text = resource_text(&collect(&context).await?, &machine::usage());
    Ok(([("content-type", "text/plain; version=0.0.4")], text).into_response())
}

fn resource_text(pods: &BTreeMap<PodKey, Vec<Use>>, node: &machine::Usage) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, f64)>| {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
            .expect("writing to a String cannot fail");
        for (labels, value) in samples {
            writeln!(text, "{name}{labels} {value}").expect("writing to a String cannot fail");
        }
    };
    let containers = |of: fn(&Use) -> f64| -> Vec<(String, f64)> {
        let all = pods.iter().flat_map(|((namespace, pod, _), uses)| {
            uses.iter().map(move |one| {
                let labels = format!("{{container={:?},namespace={namespace:?},pod={pod:?}}}", one.name);
                (labels, of(one))
            })
        });
        all.collect()
    };
    let by_pod = |of: fn(&Use) -> f64| -> Vec<(String, f64)> {
        let all = pods.iter().map(|((namespace, pod, _), uses)| {
            (format!("{{namespace={namespace:?},pod={pod:?}}}"), uses.iter().map(of).sum())
        });
        all.collect()
    };
    let working = node.memory_total.saturating_sub(node.memory_available);
    let cpu = "Cumulative CPU time consumed, in core-seconds";
    let memory = "Current working set, in bytes";
    family("container_cpu_usage_seconds_total", "counter", cpu, containers(|c| seconds(c.cpu_nanos)));
    family("container_memory_working_set_bytes", "gauge", memory, containers(|c| float(c.working_set)));
    family("pod_cpu_usage_seconds_total", "counter", cpu, by_pod(|c| seconds(c.cpu_nanos)));
    family("pod_memory_working_set_bytes", "gauge", memory, by_pod(|c| float(c.working_set)));
    family("node_cpu_usage_seconds_total", "counter", cpu, vec![(String::new(), seconds(node.cpu_nanos))]);
    family("node_memory_working_set_bytes", "gauge", memory, vec![(String::new(), float(working))]);
    family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting metrics",
        vec![(String::new(), 0.0)],
    );
    text
}

#[expect(clippy::cast_precision_loss, reason = "samples are floats")]
fn float(value: u64) -> f64 {
    value as f64
}

fn seconds(nanos: u64) -> f64 {
    float(nanos) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposition() {
        let one = Use { name: "c".into(), cpu_nanos: 1_500_000_000, working_set: 7, ..Use::default() };
        let pods = BTreeMap::from([(("ns".into(), "p".into(), "u".into()), vec![one.clone(), one])]);
        let text = resource_text(&pods, &machine::Usage::default());
        assert!(
            text.contains(
                "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5\n"
            )
        );
        assert!(text.contains("pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 14\n"));
        assert!(text.lines().filter(|line| line.starts_with("# HELP")).count() == 7);
    }
}
