//! What a near call costs: the time of connect(2), side by side in one run. By hand:
//! `cargo test --release -p edgeloom-ebpf --test datapath -- --ignored figures --nocapture`

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use edgeloom_ebpf::{Datapath, Steering as _};
use edgeloom_model::Protocol::Tcp;

use crate::far::outside;
use crate::host::{Family, block_on, desired, frontend, isolated, near, service};

/// Connects in a row, and how often all ways take their turn.
const BLOCK: usize = 200;
const ROUNDS: usize = 100;

#[test]
#[ignore = "a measurement"]
fn figures_of_connect() {
    isolated("figures::figures_of_connect", |host| {
        let backend = SocketAddr::new(host.pods[0].v4, 8080);
        host.pods[0].run(|| listen(backend));
        let called = SocketAddr::new(service(Family::V4, 10), 80);
        block_on(async {
            let mut datapath = Datapath::load(host.config()).unwrap();
            for count in [1, 10_000] {
                let mut services: Vec<_> = (0..count - 1)
                    .map(|i| {
                        let addr = [10, 97, (i >> 8) as u8, i as u8].into();
                        (frontend(addr, 80, Tcp), near(&[backend]))
                    })
                    .collect();
                services.push((frontend(called.ip(), called.port(), Tcp), near(&[backend])));
                let mut wanted = desired(services);
                for change in ["all written", "nothing changed", "one changed"] {
                    if change == "one changed" {
                        let other = frontend([10, 98, 0, 1].into(), 80, Tcp);
                        wanted.services.insert(other, near(&[backend]));
                    }
                    let start = Instant::now();
                    datapath.apply(&wanted).await.unwrap();
                    println!("{count} Services, {change}: {:?}", start.elapsed());
                }
                let mut times = [const { Vec::new() }; 3];
                for _ in 0..ROUNDS {
                    times[0].extend(outside(host, || host.pods[1].run(|| connects(backend))));
                    times[1].extend(host.pods[1].run(|| connects(backend)));
                    times[2].extend(host.pods[1].run(|| connects(called)));
                }
                let [plain, miss, hit] = times.map(median);
                let ratio = |time: Duration| time.as_secs_f64() / plain.as_secs_f64();
                println!("connect, p50, {count} Services, {} connects each:", BLOCK * ROUNDS);
                println!("  direct, no hooks   {plain:?}  1.00");
                println!("  direct, with hooks {miss:?}  {:.2}", ratio(miss));
                println!("  near Service       {hit:?}  {:.2}", ratio(hit));
            }
            datapath.detach().await.unwrap();
        });
    });
}

/// Accepts for ever. The standard library's queue of 128 overflows, and an overflow costs a second.
fn listen(at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    socket2::SockRef::from(&listener).listen(4096).unwrap();
    thread::spawn(move || while listener.accept().is_ok() {});
}

fn connects(to: SocketAddr) -> Vec<Duration> {
    (0..BLOCK)
        .map(|_| {
            let start = Instant::now();
            let stream = TcpStream::connect(to).unwrap();
            let took = start.elapsed();
            // A reset leaves no TIME_WAIT behind, which would use up the ports.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            took
        })
        .collect()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
