use super::*;
use crate::Limits;
use crate::connection::testing::{Bench, passes};

const ALPN: Alpn = Alpn::Mesh;

#[test]
fn who_is_refused_asks_less_and_less_often() {
    let (growing, start) = (Growing::default(), Instant::now());
    let key = (PeerId::random(), ALPN);
    let mut at = start;
    for pause in [10, 20, 40, 80, 160, 320, 600, 600].map(Duration::from_secs) {
        assert!(growing.begin(key, at) && !growing.begin(key, at), "one at a time");
        growing.end(&key, Some(at));
        assert!(!growing.begin(key, at + pause - Duration::from_secs(1)), "{pause:?}");
        at += pause;
    }
    assert!(growing.begin(key, at));
    growing.end(&key, None);
    assert!(growing.begin(key, at), "one that was taken is followed by another at once");
    growing.end(&key, Some(at));
    assert!(growing.begin(key, at + AGAIN), "and what was before does not count");
    growing.end(&key, Some(at + AGAIN));
    growing.begin((PeerId::random(), ALPN), at + LONGEST_AGAIN * 3);
    assert_eq!(growing.0.lock().unwrap().len(), 1, "what is long ago is forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_take_no_connection_that_the_peer_refuses() {
    let few = Limits { streams: 4, ..Limits::default() };
    let many = Limits { streams: 64, connections_per_peer: 1, ..Limits::default() };
    // From its third stream on `a` would have another connection.
    let mut bench = Bench::unlike(few, many).await;
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.push(bench.stream().await);
    }
    for stream in &mut streams {
        assert!(passes(stream).await);
    }
    assert_eq!((bench.a.connections(), bench.b.connections()), (1, 1));
    assert_eq!(bench.b.refused(), 1, "asked once, and not with each stream");
}
