//! Differences that stay, each with its reason.

/// Case (`*`: any), step (0: any), a part of the difference's text, and why it stays.
const KNOWN: &[(&str, usize, &str, &str)] = &[
    ("*", 0, ".description: real", "the description of a column: no client shows it"),
    ("*", 0, "Endpoints is deprecated", "Endpoints are served without the warning of their deprecation"),
    ("services", 17, "", "Endpoints are served without the warning of their deprecation"),
    ("services", 18, "", "Endpoints are served without the warning of their deprecation"),
    ("*", 0, "lastHeartbeatTime: real {}, ours null", "a time that nobody set is left out and not null"),
    ("*", 0, "lastTransitionTime: real {}, ours null", "a time that nobody set is left out and not null"),
    ("*", 0, "lastProbeTime: real {}, ours null", "a time that nobody set is left out and not null"),
    ("deletes", 4, ".details.causes", "the real server says the same cause twice"),
    ("json-patch", 11, ".details.causes", "the real server says the same cause several times"),
    ("apply-lists", 0, ".status.readyReplicas: real null, ours 0", "a zero that was sent is kept"),
    ("apply-refused", 4, "", "a wrong type is named as in other writes, with 400"),
    ("pods", 8, "", "what changed is not printed as a difference of Go structures"),
    (
        "deployments",
        13,
        ".metadata.managedFields",
        "an update of the scale to zero stays in the managed fields",
    ),
    ("paths", 10, ".message", "a selector that cannot be read is named, not the token that was not expected"),
    ("paths", 11, ".message", "a selector that cannot be read is named, not the token that was not expected"),
    ("paths", 13, ".message", "a version that is no number is named in other words"),
    ("paths", 19, "", "a watch from a version that is no number is the client's fault: 400"),
    ("paths", 20, ".message", "the forms of watches are not among those that a list names"),
    ("explain", 2, ".out", "values of an enumeration are not in the documents"),
    ("explain", 3, ".out", "values of an enumeration are not in the documents"),
    ("explain", 4, ".out", "metadata is marked as required"),
    ("reviews", 5, ".status.reason", "which of several bindings is named depends on their order"),
    ("reviews", 9, ".metadata.managedFields", "an answer that is not stored has no managed fields"),
    ("roles", 5, "roleRef", "the reference is shown with the names of its fields in JSON"),
    ("custom", 8, ".metadata.continue", "the real server sends an empty token with custom lists"),
    ("custom", 11, "", "a size below zero is one cause and not two"),
    ("custom", 12, "", "a size of a wrong type is one cause and not two"),
    ("custom", 18, ".metadata.managedFields", "an update of the scale of a custom kind carries its time"),
    ("custom", 20, ".metadata.managedFields", "an update of the scale of a custom kind carries its time"),
    ("custom", 21, ".resources", "verbs and subresources of custom kinds are in order of the alphabet"),
    ("custom", 2, "", "a definition is established at once, not by a controller a moment later"),
    ("custom", 24, "", "a definition without objects is gone at once"),
];

/// The reason, if every one of the differences has one; the first is told.
pub(crate) fn reason(case: &str, index: usize, differences: &[String]) -> Option<&'static str> {
    let of = |difference: &String| {
        KNOWN
            .iter()
            .find(|(one, step, part, _)| {
                (*one == "*" || *one == case) && (*step == 0 || *step == index) && difference.contains(part)
            })
            .map(|(_, _, _, reason)| *reason)
    };
    let reasons: Option<Vec<&str>> = differences.iter().map(of).collect();
    reasons.and_then(|reasons| reasons.first().copied())
}
