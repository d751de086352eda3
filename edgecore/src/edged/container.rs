//! A container of a pod, as CRI wants it described.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, SeccompProfile, SecurityContext};

use super::env::Environment;
use super::observed::{
    CONTAINER_HASH, CONTAINER_NAME, GRACE_PERIOD, RESTART_COUNT, TERMINATION_PATH, TERMINATION_POLICY,
};
use super::pod::{Pod, spec_hash};
use super::{resources, sandbox};
use crate::cri::proto::{
    Capability, ContainerConfig, ContainerMetadata, Image, ImageSpec, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerSecurityContext, Mount, ProfileType, SecurityProfile,
};

/// Where a container leaves its last words, unless it says otherwise.
pub const DEFAULT_TERMINATION_PATH: &str = "/dev/termination-log";

/// What containers must not see of the host's /proc and /sys.
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/scsi",
    "/sys/firmware",
];
/// What they may read only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Everything about one container that is not in the pod's specification.
pub struct Inputs<'a> {
    /// Restart count.
    pub attempt: u32,
    /// The image, as the runtime holds it.
    pub image: &'a Image,
    /// Its environment.
    pub environment: Environment,
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// The node's memory, in bytes.
    pub node_memory: u64,
}

/// The container. Errors are in kubelet's words.
pub fn container_config(
    pod: &Pod,
    container: &Container,
    inputs: Inputs<'_>,
) -> Result<ContainerConfig, String> {
    let expand = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|word| inputs.environment.expand(word)).collect()
    };
    let command = expand(&container.command);
    let args = expand(&container.args);
    let security = security(pod, container, inputs.image)?;
    let mut labels = sandbox::labels(&pod.id);
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: inputs.attempt }),
        image: Some(ImageSpec { image: inputs.image.id.clone(), annotations: HashMap::new() }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: inputs
            .environment
            .into_pairs()
            .into_iter()
            .map(|(key, value)| KeyValue { key, value })
            .collect(),
        mounts: inputs.mounts,
        labels,
        annotations: annotations(pod, container, inputs.attempt),
        log_path: format!("{}/{}.log", container.name, inputs.attempt),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::linux(&pod.spec, container, inputs.node_memory)),
            security_context: Some(security),
        }),
    })
}

fn annotations(pod: &Pod, container: &Container, attempt: u32) -> HashMap<String, String> {
    let path =
        container.termination_message_path.clone().unwrap_or_else(|| DEFAULT_TERMINATION_PATH.to_owned());
    let policy = container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned());
    [
        (CONTAINER_HASH, spec_hash(container)),
        (RESTART_COUNT, attempt.to_string()),
        (TERMINATION_PATH, path),
        (TERMINATION_POLICY, policy),
        (GRACE_PERIOD, pod.grace().as_secs().to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn security(
    pod: &Pod,
    container: &Container,
    image: &Image,
) -> Result<LinuxContainerSecurityContext, String> {
    let of_pod = pod.spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        refuse_root(user, container, image)?;
    }
    let user = user.or(image.uid.map(|uid| uid.value));
    let group = own.run_as_group.or(of_pod.run_as_group);
    let mut groups = of_pod.supplemental_groups.unwrap_or_default();
    groups.extend(of_pod.fs_group);
    let privileged = own.privileged.unwrap_or(false);
    let bare = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| if bare { Vec::new() } else { list.iter().map(|&p| p.to_owned()).collect() };
    Ok(LinuxContainerSecurityContext {
        capabilities: Some(capabilities(&own)),
        privileged,
        namespace_options: Some(sandbox::namespaces(pod)),
        run_as_user: user.map(|value| Int64Value { value }),
        run_as_username: if user.is_none() { image.username.clone() } else { String::new() },
        // CRI refuses a group without a user.
        run_as_group: group
            .filter(|_| user.is_some() || !image.username.is_empty())
            .map(|value| Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups,
        no_new_privs: own.allow_privilege_escalation == Some(false) && !privileged,
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()))),
    })
}

fn refuse_root(user: Option<i64>, container: &Container, image: &Image) -> Result<(), String> {
    let name = &container.name;
    match (user, image.uid.map(|uid| uid.value), image.username.as_str()) {
        (Some(0), ..) => Err(format!("container's runAsUser breaks non-root policy (container: {name})")),
        (Some(_), ..) => Ok(()),
        (None, Some(uid), _) if uid != 0 => Ok(()),
        (None, _, user) if !user.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (container: {name})"
        )),
        _ => Err(format!("container has runAsNonRoot and image will run as root (container: {name})")),
    }
}

fn capabilities(own: &SecurityContext) -> Capability {
    let set = own.capabilities.clone().unwrap_or_default();
    Capability {
        add_capabilities: set.add.unwrap_or_default(),
        drop_capabilities: set.drop.unwrap_or_default(),
    }
}

/// Unconfined unless the pod asks for a profile, as kubelet does by default.
fn seccomp(profile: Option<&SeccompProfile>) -> SecurityProfile {
    let kind = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => ProfileType::RuntimeDefault,
        Some("Localhost") => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    let localhost_ref = profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default();
    SecurityProfile { profile_type: kind as i32, localhost_ref }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edged::pod::tests::pod;
    use serde_json::{Value, json};

    fn config(container: Value, image: &Image) -> Result<ContainerConfig, String> {
        let pod = pod(json!({"containers": [container]}));
        let mut environment = Environment::default();
        environment.set("NAME".into(), "web".into());
        let inputs = Inputs { attempt: 3, image, environment, mounts: vec![], node_memory: 1 << 30 };
        container_config(&pod, &pod.spec.containers[0], inputs)
    }

    #[test]
    fn command_and_bookkeeping() {
        let image = Image { id: "sha256:1".into(), ..Default::default() };
        let config =
            config(json!({"name": "c", "command": ["say", "$(NAME)"], "args": ["$$(NAME)"]}), &image);
        let config = config.unwrap();
        assert_eq!((config.command, config.args), (vec!["say".into(), "web".into()], vec!["$(NAME)".into()]));
        assert_eq!(config.log_path, "c/3.log");
        assert_eq!(config.annotations[RESTART_COUNT], "3");
        assert_eq!(config.annotations[GRACE_PERIOD], "30");
        assert_eq!(config.labels[CONTAINER_NAME], "c");
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        let root = Image::default();
        let user = Image { uid: Some(Int64Value { value: 1000 }), ..Default::default() };
        let named = Image { username: "app".into(), ..Default::default() };
        for (security, image, refused) in [
            (json!({"runAsNonRoot": true}), &root, true),
            (json!({"runAsNonRoot": true}), &user, false),
            (json!({"runAsNonRoot": true}), &named, true),
            (json!({"runAsNonRoot": true, "runAsUser": 0}), &user, true),
            (json!({"runAsNonRoot": true, "runAsUser": 7}), &root, false),
            (json!({}), &root, false),
        ] {
            let got = config(json!({"name": "c", "securityContext": security}), image);
            assert_eq!(got.is_err(), refused, "{security} {image:?}");
        }
    }

    #[test]
    fn a_privileged_container_sees_everything() {
        let security = json!({"privileged": true, "allowPrivilegeEscalation": true});
        let config = config(json!({"name": "c", "securityContext": security}), &Image::default()).unwrap();
        let security = config.linux.unwrap().security_context.unwrap();
        assert!(security.privileged && security.masked_paths.is_empty() && !security.no_new_privs);
    }
}
