//! The sandbox of a pod, as CRI wants it described.

use std::collections::HashMap;
use std::path::Path;

use super::dns::{self, Resolver};
use super::observed::{POD_NAME, POD_NAMESPACE, POD_UID};
use super::pod::{Pod, PodId};
use crate::cri::proto::{
    Int64Value, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, PortMapping, ProfileType, Protocol, SecurityProfile,
};

/// What of the node's configuration goes into a sandbox.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of all pods' logs.
    pub log_root: std::path::PathBuf,
    /// Cgroup under which all pods' cgroups are.
    pub cgroup_root: String,
    /// Names.
    pub resolver: Resolver,
}

/// Directory of a pod's log files: kubelet's name for it, which log collectors know.
pub fn log_directory(root: &Path, id: &PodId) -> std::path::PathBuf {
    root.join(format!("{}_{}_{}", id.namespace, id.name, id.uid))
}

/// The cgroup of a pod. A root that ends in `.slice` is systemd's, and wants slices below it.
pub fn cgroup_parent(root: &str, id: &PodId) -> String {
    let root = root.trim_end_matches('/');
    match root.rsplit('/').next().and_then(|last| last.strip_suffix(".slice")) {
        Some(slice) => format!("{root}/{slice}-pod{}.slice", id.uid.replace('-', "_")),
        None => format!("{root}/pod{}", id.uid),
    }
}

/// The labels by which edged finds what is the pod's.
pub fn labels(id: &PodId) -> HashMap<String, String> {
    [(POD_NAME, &id.name), (POD_NAMESPACE, &id.namespace), (POD_UID, &id.uid)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
}

/// The sandbox.
pub fn sandbox_config(pod: &Pod, attempt: u32, settings: &Settings) -> PodSandboxConfig {
    let id = &pod.id;
    let mut all_labels: HashMap<String, String> = pod.meta.labels.clone().into_iter().flatten().collect();
    all_labels.extend(labels(id));
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: id.name.clone(),
            uid: id.uid.clone(),
            namespace: id.namespace.clone(),
            attempt,
        }),
        hostname: if pod.host_network() { String::new() } else { dns::hostname(pod) },
        log_directory: log_directory(&settings.log_root, id).display().to_string(),
        dns_config: Some(dns::dns_config(pod, &settings.resolver)),
        port_mappings: if pod.host_network() { Vec::new() } else { port_mappings(pod) },
        labels: all_labels,
        annotations: pod.meta.annotations.clone().into_iter().flatten().collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent(&settings.cgroup_root, id),
            security_context: Some(security(pod)),
            sysctls: sysctls(pod),
            resources: None,
        }),
    }
}

/// Namespaces of the pod's containers and of its sandbox.
pub fn namespaces(pod: &Pod) -> NamespaceOption {
    let shared = |host: Option<bool>, own: NamespaceMode| {
        (if host.unwrap_or(false) { NamespaceMode::Node } else { own }) as i32
    };
    let pid = if pod.spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: shared(pod.spec.host_network, NamespaceMode::Pod),
        pid: shared(pod.spec.host_pid, pid),
        ipc: shared(pod.spec.host_ipc, NamespaceMode::Pod),
    }
}

fn security(pod: &Pod) -> LinuxSandboxSecurityContext {
    let context = pod.spec.security_context.clone().unwrap_or_default();
    let mut groups = context.supplemental_groups.unwrap_or_default();
    groups.extend(context.fs_group);
    let privileged = pod.containers().any(|(_, container)| {
        container.security_context.as_ref().and_then(|security| security.privileged).unwrap_or(false)
    });
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: context.run_as_user.map(|value| Int64Value { value }),
        run_as_group: context.run_as_user.and(context.run_as_group).map(|value| Int64Value { value }),
        supplemental_groups: groups,
        privileged,
        seccomp: Some(SecurityProfile {
            profile_type: ProfileType::RuntimeDefault as i32,
            localhost_ref: String::new(),
        }),
    }
}

fn sysctls(pod: &Pod) -> HashMap<String, String> {
    let context = pod.spec.security_context.as_ref();
    let list = context.and_then(|context| context.sysctls.as_deref()).unwrap_or_default();
    list.iter().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect()
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let ports = pod.containers().flat_map(|(_, container)| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0)?;
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            Some(PortMapping {
                protocol: protocol as i32,
                container_port: port.container_port,
                host_port,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edged::pod::tests::pod;
    use serde_json::json;

    fn settings() -> Settings {
        let host = dns::parse_resolv_conf("");
        let resolver = Resolver { cluster_servers: vec![], cluster_domain: "cluster.local".into(), host };
        Settings { log_root: "/var/log/pods".into(), cgroup_root: "/kubepods".into(), resolver }
    }

    #[test]
    fn cgroups_of_both_drivers() {
        let id = pod(json!({"containers": [{"name": "c"}]})).id;
        let id = PodId { uid: "a-b".into(), ..id };
        assert_eq!(cgroup_parent("/edge-a/kubepods/", &id), "/edge-a/kubepods/poda-b");
        assert_eq!(cgroup_parent("/kubepods.slice", &id), "/kubepods.slice/kubepods-poda_b.slice");
    }

    #[test]
    fn a_sandbox_carries_what_it_is_found_by() {
        let pod = pod(json!({"containers": [{"name": "c", "ports": [
            {"containerPort": 80}, {"containerPort": 53, "hostPort": 5353, "protocol": "UDP"}]}]}));
        let config = sandbox_config(&pod, 2, &settings());
        assert_eq!(config.labels[POD_UID], "u1");
        assert_eq!(config.labels["app"], "web");
        assert_eq!(config.log_directory, "/var/log/pods/shop_web_u1");
        assert_eq!(config.metadata.unwrap().attempt, 2);
        assert_eq!(config.port_mappings.len(), 1);
        assert_eq!(config.port_mappings[0].host_port, 5353);
        assert_eq!(config.hostname, "web");
    }

    #[test]
    fn the_hosts_namespaces() {
        let pod = pod(json!({"hostNetwork": true, "hostPID": true, "containers": [{"name": "c"}]}));
        let config = sandbox_config(&pod, 0, &settings());
        let options = config.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
        assert_eq!((options.network, options.pid, options.ipc), (2, 2, 0));
        assert_eq!(config.hostname, "");
    }
}
