use std::path::Path;

use serde_json::json;

use super::testing::Memory;
use super::*;

fn edged(memory: &Arc<Memory>) -> Edged {
    let node = testing::node(memory, Path::new("/nonexistent/cri.sock"), Path::new("/nonexistent"));
    Edged::new(Arc::new(node), CancellationToken::new())
}

fn pod(deleted: bool) -> Arc<Value> {
    let mut metadata = json!({"namespace": "shop", "name": "web", "uid": "u"});
    if deleted {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    Arc::new(json!({"kind": "Pod", "metadata": metadata, "spec": {"containers": []}}))
}

/// Has the manager hear that the pod's worker has done its work.
fn end(edged: &mut Edged) {
    let task = edged.workers["u"].task.id();
    edged.ended(Ok((task, "u".to_owned())));
}

async fn told(edged: &mut Edged, memory: &Memory) -> Vec<Report> {
    edged.tell_of_gone();
    while edged.telling.join_next().await.is_some() {}
    std::mem::take(&mut *memory.reports.lock().unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_cloud_is_told_again_of_an_end_until_it_forgets_the_pod() {
    let memory = Arc::new(Memory::default());
    let mut edged = edged(&memory);
    edged.put_pod(&pod(true));
    end(&mut edged);
    assert!(told(&mut edged, &memory).await.is_empty());
    let gone = Report::PodGone { namespace: "shop".into(), name: "web".into(), uid: "u".into() };
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(70)).await;
        // The object, told anew, is no reason to start it.
        edged.put_pod(&pod(true));
        assert!(edged.workers.is_empty());
        assert_eq!(told(&mut edged, &memory).await, std::slice::from_ref(&gone));
    }
    memory.offline.store(true, Ordering::Relaxed);
    tokio::time::advance(Duration::from_secs(70)).await;
    assert!(told(&mut edged, &memory).await.is_empty(), "nobody listens");
    memory.offline.store(false, Ordering::Relaxed);
    edged.change(Change::Delete { kind: &kind::POD, namespace: "shop".into(), name: "web".into() });
    assert!(told(&mut edged, &memory).await.is_empty(), "it is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_wanted_again_while_it_ends_is_started_again() {
    let memory = Arc::new(Memory::default());
    let mut edged = edged(&memory);
    edged.put_pod(&pod(false));
    edged.change(Change::Delete { kind: &kind::POD, namespace: "shop".into(), name: "web".into() });
    edged.put_pod(&pod(false));
    end(&mut edged);
    assert!(edged.workers.contains_key("u"));
}
