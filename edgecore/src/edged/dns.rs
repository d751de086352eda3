//! A pod's resolver configuration and its hosts file: pure, from the pod and the node's settings.

use k8s_openapi::api::core::v1::PodDNSConfig;

use super::pod::Pod;
use crate::cri::proto::DnsConfig;

/// glibc reads no more.
const MAX_NAMESERVERS: usize = 3;
/// Kubernetes allows no more.
const MAX_SEARCHES: usize = 32;

/// The node's settings for pods' names.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolver {
    /// Name servers of the cluster.
    pub cluster_servers: Vec<String>,
    /// Domain of the cluster, such as `cluster.local`.
    pub cluster_domain: String,
    /// The host's own resolv.conf.
    pub host: DnsConfig,
}

/// Reads a resolv.conf.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            // The last of these counts.
            Some("search" | "domain") => config.searches = words.map(str::to_owned).collect(),
            Some("options") => config.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    config
}

/// What the pod's `dnsPolicy` and `dnsConfig` ask for.
pub fn dns_config(pod: &Pod, resolver: &Resolver) -> DnsConfig {
    let policy = pod.spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pod.host_network(),
        _ => false,
    };
    let mut config = match policy {
        "None" => DnsConfig::default(),
        _ if cluster => cluster_first(pod, resolver),
        _ => resolver.host.clone(),
    };
    if let Some(extra) = &pod.spec.dns_config {
        merge(&mut config, extra);
    }
    config.servers.truncate(MAX_NAMESERVERS);
    config.searches.truncate(MAX_SEARCHES);
    config
}

fn cluster_first(pod: &Pod, resolver: &Resolver) -> DnsConfig {
    let domain = &resolver.cluster_domain;
    let mut searches =
        vec![format!("{}.svc.{domain}", pod.id.namespace), format!("svc.{domain}"), domain.clone()];
    add_new(&mut searches, &resolver.host.searches);
    DnsConfig { servers: resolver.cluster_servers.clone(), searches, options: vec!["ndots:5".to_owned()] }
}

fn merge(config: &mut DnsConfig, extra: &PodDNSConfig) {
    add_new(&mut config.servers, extra.nameservers.as_deref().unwrap_or_default());
    add_new(&mut config.searches, extra.searches.as_deref().unwrap_or_default());
    for option in extra.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        let text = match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        };
        config.options.retain(|known| known.split(':').next() != Some(name));
        config.options.push(text);
    }
}

fn add_new(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// The pod's host name: at most 63 characters, as the kernel and DNS allow.
pub fn hostname(pod: &Pod) -> String {
    let name =
        pod.spec.hostname.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| pod.id.name.clone());
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The pod's name within its subdomain, where it has one.
fn fqdn(pod: &Pod, domain: &str) -> Option<String> {
    let subdomain = pod.spec.subdomain.as_deref().filter(|name| !name.is_empty())?;
    Some(format!("{}.{subdomain}.{}.svc.{domain}", hostname(pod), pod.id.namespace))
}

/// Content of the pod's /etc/hosts. `host_file` is the host's own, for pods that use its network.
pub fn hosts_file(pod: &Pod, domain: &str, pod_ips: &[String], host_file: &str) -> String {
    let mut text = String::new();
    if pod.host_network() {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(host_file);
        if !host_file.is_empty() && !host_file.ends_with('\n') {
            text.push('\n');
        }
    } else {
        text.push_str("# Kubernetes-managed hosts file.\n");
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        text.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n");
        text.push_str("fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let name = hostname(pod);
        for ip in pod_ips {
            let names = fqdn(pod, domain).map_or_else(|| name.clone(), |fqdn| format!("{fqdn}\t{name}"));
            text.extend([ip.as_str(), "\t", &names, "\n"]);
        }
    }
    let aliases = pod.spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.extend([alias.ip.as_str(), "\t", &names, "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edged::pod::tests::pod;
    use serde_json::json;

    fn resolver() -> Resolver {
        Resolver {
            cluster_servers: vec!["169.254.96.16".into()],
            cluster_domain: "cluster.local".into(),
            host: parse_resolv_conf("# x\nnameserver 9.9.9.9\nsearch a.example\noptions timeout:1\n"),
        }
    }

    #[test]
    fn policies() {
        let cluster = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "a.example"];
        for (policy, host_network, servers, searches) in [
            ("ClusterFirst", false, vec!["169.254.96.16"], cluster.to_vec()),
            ("ClusterFirst", true, vec!["9.9.9.9"], vec!["a.example"]),
            ("ClusterFirstWithHostNet", true, vec!["169.254.96.16"], cluster.to_vec()),
            ("Default", false, vec!["9.9.9.9"], vec!["a.example"]),
            ("None", false, vec![], vec![]),
        ] {
            let pod = pod(json!({
                "dnsPolicy": policy, "hostNetwork": host_network, "containers": [{"name": "c"}]}));
            let config = dns_config(&pod, &resolver());
            assert_eq!(config.servers, servers, "{policy} {host_network}");
            assert_eq!(config.searches, searches, "{policy} {host_network}");
        }
    }

    #[test]
    fn dns_config_is_merged() {
        let pod = pod(json!({"containers": [{"name": "c"}], "dnsConfig": {
            "nameservers": ["1.1.1.1", "169.254.96.16"], "searches": ["b.example"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}));
        let config = dns_config(&pod, &resolver());
        assert_eq!(config.servers, ["169.254.96.16", "1.1.1.1"]);
        assert_eq!(config.searches.last().unwrap(), "b.example");
        assert_eq!(config.options, ["ndots:2", "edns0"]);
    }

    #[test]
    fn hosts() {
        let pod = pod(json!({"containers": [{"name": "c"}], "hostname": "h", "subdomain": "s",
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["x", "y"]}]}));
        let text = hosts_file(&pod, "cluster.local", &["10.244.0.2".to_owned()], "");
        assert!(text.contains("10.244.0.2\th.s.shop.svc.cluster.local\th\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n10.0.0.1\tx\ty\n"), "{text}");
    }

    #[test]
    fn long_host_names_are_cut() {
        let name = format!("{}-b", "a".repeat(62));
        let pod = pod(json!({"containers": [{"name": "c"}], "hostname": name}));
        assert_eq!(hostname(&pod), "a".repeat(62));
    }
}
