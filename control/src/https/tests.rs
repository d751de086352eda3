use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;

/// Answers "hello", or what comes by a channel for as long as that is open, or an upgrade to an echo.
#[derive(Clone)]
struct Answers {
    later: Arc<std::sync::Mutex<Option<mpsc::Receiver<Bytes>>>>,
}

impl Answers {
    fn hello() -> Self {
        Self { later: Arc::default() }
    }
}

impl Handler for Answers {
    async fn handle(
        &self,
        mut request: Request<Incoming>,
        _: Option<CertificateDer<'static>>,
    ) -> Response<Body> {
        if request.uri().path() == "/echo" {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut bytes = [0; 4];
                while stream.read_exact(&mut bytes).await.is_ok() {
                    stream.write_all(&bytes).await.unwrap();
                }
            });
            let answer = Response::builder().status(101).header("connection", "upgrade");
            return answer.header("upgrade", "echo").body(full("")).unwrap();
        }
        match self.later.lock().unwrap().take() {
            None => text(StatusCode::OK, "hello"),
            Some(mut bytes) => Response::new(
                StreamBody::new(futures::stream::poll_fn(move |cx| {
                    bytes.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
                }))
                .boxed_unsync(),
            ),
        }
    }
}

fn open(answers: Answers) -> (DuplexStream, tokio::task::JoinHandle<()>) {
    let (client, server) = tokio::io::duplex(1 << 16);
    (client, tokio::spawn(converse(server, None, answers, CancellationToken::new())))
}

async fn read_until(client: &mut DuplexStream, end: &str) {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        read.push(client.read_u8().await.unwrap());
    }
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_is_closed() {
    for sent in ["", "GET", "GET / HTTP/1.1\r\nhost: a\r\nslow", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let (mut client, serving) = open(Answers::hello());
        let before = Instant::now();
        client.write_all(sent.as_bytes()).await.unwrap();
        serving.await.unwrap();
        assert!((HEAD..=HEAD + FAREWELL * 2).contains(&before.elapsed()), "{sent:?}: {:?}", before.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_for_further_requests_and_not_for_ever() {
    let (mut client, serving) = open(Answers::hello());
    for _ in 0..5 {
        client.write_all(GET.as_bytes()).await.unwrap();
        read_until(&mut client, "hello\n").await;
        tokio::time::advance(IDLE - Duration::from_secs(1)).await;
    }
    let before = Instant::now();
    serving.await.unwrap();
    assert!(before.elapsed() <= Duration::from_secs(1) + FAREWELL);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_runs_may_be_quiet() {
    let (send, later) = mpsc::channel(1);
    let (mut client, serving) = open(Answers { later: Arc::new(std::sync::Mutex::new(Some(later))) });
    client.write_all(GET.as_bytes()).await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    send.send("a line of a log\n".into()).await.unwrap();
    read_until(&mut client, "a line of a log\n\r\n").await;
    drop(send);
    read_until(&mut client, "0\r\n\r\n").await;
    let before = Instant::now();
    serving.await.unwrap();
    assert!((IDLE..=IDLE + FAREWELL).contains(&before.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_may_be_quiet() {
    let (mut client, _serving) = open(Answers::hello());
    let upgrade = "GET /echo HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    client.write_all(upgrade.as_bytes()).await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    client.write_all(b"ping").await.unwrap();
    read_until(&mut client, "ping").await;
}

#[tokio::test]
async fn one_source_does_not_take_every_place() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let serving = serve(listener, tls(), Answers::hello(), tasks.clone(), stop.clone());
    let serving = tokio::spawn(serving);
    let mut held = Vec::new();
    for _ in 0..LIMITS.per_source {
        held.push(from([127, 0, 0, 1], at).await);
    }
    assert!(!is_heard(from([127, 0, 0, 1], at).await).await);
    assert!(is_heard(from([127, 0, 0, 2], at).await).await);
    drop(held);
    stop.cancel();
    serving.await.unwrap();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn strangers_leave_places_for_those_with_a_certificate() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let pair = pair();
    let limits = Limits { connections: 4, unproven: 2, per_source: 100 };
    let tls = Arc::new(ArcSwap::from_pointee(
        crate::tls::server(&pair, &pair.certificate, &[b"http/1.1"]).unwrap(),
    ));
    let serving = serve_within(limits, listener, tls, Answers::hello(), tasks.clone(), stop.clone());
    let serving = tokio::spawn(serving);
    let mut strangers = Vec::new();
    for _ in 0..limits.unproven {
        strangers.push(greeted(at, &pair, false).await.unwrap());
    }
    for _ in 0..limits.connections {
        assert!(greeted(at, &pair, false).await.is_err(), "one stranger more");
    }
    let known = [greeted(at, &pair, true).await.unwrap(), greeted(at, &pair, true).await.unwrap()];
    drop((known, strangers));
    // A place that is given back is another stranger's.
    while greeted(at, &pair, false).await.is_err() {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    serving.await.unwrap();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn who_never_shakes_hands_keeps_nobody_out() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let pair = pair();
    let limits = Limits { connections: 6, unproven: 4, per_source: 2 };
    let tls = Arc::new(ArcSwap::from_pointee(
        crate::tls::server(&pair, &pair.certificate, &[b"http/1.1"]).unwrap(),
    ));
    let serving = serve_within(limits, listener, tls, Answers::hello(), tasks.clone(), stop.clone());
    let serving = tokio::spawn(serving);
    let (mut silent, mut known) = (Vec::new(), Vec::new());
    for host in 2..12 {
        // Each source with as many as it may have: together they have every place, and more.
        for _ in 0..limits.per_source {
            silent.push(from([127, 0, 0, host], at).await);
        }
        if host >= 10 {
            let soon = tokio::time::timeout(HANDSHAKE / 2, greeted(at, &pair, true));
            known.push(soon.await.expect("long before the others are given up").unwrap());
        }
    }
    let stranger = tokio::time::timeout(HANDSHAKE / 2, greeted(at, &pair, false));
    stranger.await.expect("before the others are given up").unwrap();
    for connection in &mut known {
        connection.write_all(GET.as_bytes()).await.unwrap();
    }
    drop((silent, known));
    stop.cancel();
    serving.await.unwrap();
    tasks.close();
    tasks.wait().await;
}

/// A connection by which an answer came, shown with or without the pair's certificate.
async fn greeted(
    at: SocketAddr,
    pair: &crate::tls::Pair,
    proven: bool,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    use rustls::pki_types::pem::PemObject as _;
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    let config = if proven {
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        config.with_client_auth_cert(vec![certificate], key).unwrap()
    } else {
        config.with_no_client_auth()
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(at).await?;
    let mut stream = connector.connect("a".try_into().unwrap(), stream).await?;
    stream.write_all(GET.as_bytes()).await?;
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    Ok(stream)
}

async fn from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::from(source), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Whether what is no TLS gets a TLS alert, as it does where somebody listens.
async fn is_heard(mut stream: TcpStream) -> bool {
    // Closed already, perhaps: the read says it.
    let _ = stream.write_all(b"this is no TLS").await;
    stream.read_u8().await.is_ok()
}

/// A server's certificate that is its own authority, and a client's.
fn pair() -> crate::tls::Pair {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap();
    crate::tls::Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn tls() -> Arc<ArcSwap<rustls::ServerConfig>> {
    let pair = pair();
    Arc::new(ArcSwap::from_pointee(crate::tls::server(&pair, &pair.certificate, &[b"http/1.1"]).unwrap()))
}
