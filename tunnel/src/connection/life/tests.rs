use super::*;
use crate::Limits;
use crate::connection::testing::{Bench, LIFE, OVER, passes};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_the_credentials_that_it_began_with() {
    let mut bench = Bench::new(Limits::default()).await;
    let mut old = bench.stream().await;
    let soon = Duration::from_secs(LIFE - OVER - 60);
    assert_eq!(bench.renew(Duration::ZERO).await, 0, "there is time");
    bench.renew_credentials();
    assert_eq!(bench.renew(soon).await, 1, "by the end that dialled");
    assert_eq!(bench.renew(soon).await, 0, "and that is good for a day");
    // New streams take the new connection.
    let mut new = bench.stream().await;
    assert_eq!((bench.a.connections(), bench.b.connections()), (2, 2));
    bench.recheck(Duration::from_secs(3 * LIFE));
    assert!(passes(&mut old).await && passes(&mut new).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_renew_is_parted_from() {
    let mut bench = Bench::new(Limits::default()).await;
    let mut stream = bench.stream().await;
    bench.renew(Duration::from_secs(LIFE - OVER - 60)).await;
    bench.recheck(Duration::from_secs(LIFE - OVER));
    assert!(passes(&mut stream).await, "clocks differ");
    bench.recheck(Duration::from_secs(3 * LIFE));
    assert!(!passes(&mut stream).await);
}
