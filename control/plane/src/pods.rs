//! What several controllers ask of a pod.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;

/// Neither finished nor going.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Succeeded or failed for good.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// `status.phase`, empty before anyone wrote it.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The condition of this type.
pub(crate) fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Whether the pod's `Ready` condition is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Whether the pod has been ready for `seconds`; else how many are missing, if it is ready at all.
pub(crate) fn available(pod: &Pod, seconds: i32, now: Timestamp) -> Result<(), Option<i64>> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True").ok_or(None)?;
    if seconds <= 0 {
        return Ok(());
    }
    let since = ready.last_transition_time.as_ref().map_or(now, |time| time.0);
    let missing = i64::from(seconds) - (now.as_second() - since.as_second());
    if missing <= 0 { Ok(()) } else { Err(Some(missing)) }
}

/// The name of the pod's node, if it is bound.
pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// The owner that manages an object.
pub(crate) fn controller_of(owners: Option<&Vec<OwnerReference>>) -> Option<&OwnerReference> {
    owners?.iter().find(|owner| owner.controller == Some(true))
}
