//! What a session costs on which nothing happens.

use std::time::Duration;

use crate::api::Api;
use crate::cluster::put_pod;
use crate::flow::{start, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_costs_six_bytes_for_each_sign_of_life() {
    let api = Api::new();
    put_pod(&api, "web", "menu");
    let edge = start(&api).await;
    edge.session.synced().wait_for(|synced| *synced).await.unwrap();
    // The first renews no Lease: it is made, and the node is told of nothing that it knows.
    assert!(edge.session.beat());
    let mut before = -1;
    until("quiet", || {
        let now = edge.wires.carried();
        let quiet = std::mem::replace(&mut before, now) == now;
        async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            quiet
        }
    })
    .await;
    for count in 1..=10 {
        assert!(edge.session.beat());
        // Each by itself: what is asked for twice at a time is said once.
        until("the sign of life", || async { edge.wires.carried() - before >= count * 6 }).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    // A length, a type and an empty map; nothing comes back, and nothing goes up besides.
    assert_eq!(edge.wires.carried() - before, 10 * 6);
    edge.session.shutdown().await;
}
