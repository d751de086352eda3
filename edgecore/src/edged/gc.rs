//! What is left over and may go: dead containers of pods that live, images that nobody uses, directories of
//! pods that nobody knows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::context::Node;
use super::observed::{Instance, Observed, State};
use crate::cri::proto::{
    Image, ImageRequest, ImageSpec, ListContainersRequest, ListImagesRequest, StatusRequest,
};
use crate::node::machine;
use crate::volumes::PodDirectory;

/// Dead containers kept for each name beside the newest: what `lastState` and `logs --previous` need.
const KEEP_DEAD: usize = 1;
/// How often images and directories are looked at.
const INTERVAL: Duration = Duration::from_secs(300);
/// Images go when less is free than both this share of the disk, in percent, and so many bytes. The share is
/// kubelet's default.
const LOW: (u64, u64) = (15, 4 << 30);
/// They go until this much is free.
const ENOUGH: (u64, u64) = (20, 6 << 30);
/// An image that was just pulled may be about to be used.
const MIN_AGE: Duration = Duration::from_secs(120);

/// Containers of a pod that may be removed.
pub(super) fn superfluous(observed: &Observed) -> Vec<&Instance> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut old = Vec::new();
    for instance in &observed.containers {
        let seen = seen.entry(&instance.name).or_default();
        if *seen > KEEP_DEAD && instance.state == State::Exited {
            old.push(instance);
        }
        *seen += 1;
    }
    old
}

/// Sandboxes of a pod that may be removed: dead, not the newest, and holding no container that is kept.
pub(super) fn dead_sandboxes(observed: &Observed) -> Vec<&str> {
    let holds = |id: &str| observed.containers.iter().any(|instance| instance.sandbox == id);
    let old = observed.sandboxes.iter().skip(1).filter(|sandbox| !sandbox.ready);
    old.map(|sandbox| sandbox.id.as_str()).filter(|id| !holds(id)).collect()
}

/// Images to be removed, the longest unused first, until `excess` bytes are freed.
fn choose(
    images: &[Image],
    used: &HashSet<String>,
    idle: &HashMap<String, Duration>,
    excess: u64,
) -> Vec<String> {
    let is_used = |image: &Image| {
        image.pinned
            || used.contains(&image.id)
            || image.repo_tags.iter().chain(&image.repo_digests).any(|name| used.contains(name))
    };
    let mut free: Vec<&Image> = images
        .iter()
        .filter(|image| !is_used(image))
        .filter(|image| idle.get(&image.id).is_some_and(|idle| *idle >= MIN_AGE))
        .collect();
    free.sort_by_key(|image| std::cmp::Reverse(idle.get(&image.id).copied()));
    let mut freed = 0;
    let mut chosen = Vec::new();
    for image in free {
        if freed >= excess {
            break;
        }
        freed += image.size;
        chosen.push(image.id.clone());
    }
    chosen
}

/// Collects images and directories until `cancel`.
pub async fn run(node: Arc<Node>, cancel: CancellationToken) {
    let mut last_used: HashMap<String, Instant> = HashMap::new();
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = collect_images(&node, &mut last_used).await {
            tracing::warn!(%error, "images were not collected");
        }
    }
}

async fn collect_images(
    node: &Node,
    last_used: &mut HashMap<String, Instant>,
) -> Result<(), crate::cri::CriError> {
    let cri = &node.runtime.cri;
    let images = cri.list_images(ListImagesRequest {}).await?.images;
    let containers = cri.list_containers(ListContainersRequest { filter: None }).await?.containers;
    let mut used: HashSet<String> = containers
        .into_iter()
        .flat_map(|container| [container.image_ref, container.image.unwrap_or_default().image])
        .collect();
    used.extend(sandbox_image(node).await?);
    let now = Instant::now();
    last_used.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in &images {
        let seen = last_used.entry(image.id.clone()).or_insert(now);
        if used.contains(&image.id) {
            *seen = now;
        }
    }
    let Some(excess) = excess(node) else { return Ok(()) };
    let idle = last_used.iter().map(|(id, at)| (id.clone(), now - *at)).collect();
    for id in choose(&images, &used, &idle, excess) {
        tracing::info!(image = id, "the disk is filling up, an unused image is removed");
        let image = Some(ImageSpec { image: id, ..ImageSpec::default() });
        cri.remove_image(ImageRequest { image }).await?;
    }
    Ok(())
}

/// The image of sandboxes, which containerd before 1.7 does not mark as pinned.
async fn sandbox_image(node: &Node) -> Result<Option<String>, crate::cri::CriError> {
    let status = node.runtime.cri.status(StatusRequest { verbose: true }).await?;
    let config = status.info.get("config").and_then(|text| serde_json::from_str::<Value>(text).ok());
    Ok(config.and_then(|config| config["sandboxImage"].as_str().map(str::to_owned)))
}

/// Bytes to be freed, where the disk is too full.
fn excess(node: &Node) -> Option<u64> {
    let disk = machine::disk(&node.pods);
    (disk.lacks(LOW.0, LOW.1) > 0).then(|| disk.lacks(ENOUGH.0, ENOUGH.1))
}

/// Removes the directories of pods that ended while edgecore was not there.
pub(super) fn remove_unknown_directories(node: &Node, known: &HashSet<&str>) {
    let entries = fs::read_dir(&node.pods).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    for uid in names.filter(|name| !known.contains(name.as_str())) {
        if let Err(error) = PodDirectory::new(&node.pods, &uid).remove() {
            tracing::warn!(uid, %error, "the directory of a pod that is gone was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edged::observed::Sandbox;

    fn instance(attempt: u32, state: State, sandbox: &str) -> Instance {
        Instance {
            id: format!("c{attempt}"),
            name: "c".into(),
            sandbox: sandbox.into(),
            attempt,
            state,
            created: i64::from(attempt),
            started: 0,
            finished: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_ref: String::new(),
            hash: String::new(),
            grace: None,
            log_path: String::new(),
        }
    }

    #[test]
    fn the_newest_and_one_dead_stay() {
        let sandbox =
            |id: &str, created, ready| Sandbox { id: id.into(), attempt: 0, ready, created, ips: vec![] };
        let observed = Observed::new(
            vec![sandbox("new", 3, true), sandbox("old", 2, false), sandbox("older", 1, false)],
            vec![
                instance(3, State::Running, "new"),
                instance(2, State::Exited, "old"),
                instance(1, State::Exited, "older"),
            ],
        );
        assert_eq!(superfluous(&observed).iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["c1"]);
        assert!(dead_sandboxes(&observed).is_empty(), "both hold something still");
        let rest = Observed { containers: observed.containers[..2].to_vec(), ..observed };
        assert_eq!(dead_sandboxes(&rest), ["older"]);
    }

    #[test]
    fn unused_images_go_longest_unused_first() {
        let image = |id: &str, size| Image { id: id.into(), size, ..Image::default() };
        let images = [
            image("used", 5),
            image("old", 5),
            image("older", 5),
            image("fresh", 5),
            Image { pinned: true, ..image("pinned", 5) },
        ];
        let used = HashSet::from(["used".to_owned()]);
        let idle = |id: &str, s| (id.to_owned(), Duration::from_secs(s));
        let idle = HashMap::from([
            idle("used", 9999),
            idle("old", 500),
            idle("older", 900),
            idle("fresh", 1),
            idle("pinned", 9999),
        ]);
        assert_eq!(choose(&images, &used, &idle, 5), ["older"]);
        assert_eq!(choose(&images, &used, &idle, 6), ["older", "old"]);
        assert_eq!(choose(&images, &used, &idle, 100), ["older", "old"]);
        assert!(choose(&images, &used, &idle, 0).is_empty());
    }
}
