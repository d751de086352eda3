//! The server.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{BLOCK, BUFFER, BULK, ECHO, ONCE, PORT, QUIC_PORT, Received, TLS_PORT, transport};

/// What is left out of a rate at its beginning.
const WARM_UP: Duration = Duration::from_secs(1);

/// Serves plain TCP, TLS and QUIC until it is killed; `folder` holds the certificate.
pub(crate) async fn serve(folder: &Path) -> Result<()> {
    let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listen = async |port| {
        TcpListener::bind(any(port)).await.with_context(|| format!("cannot listen on TCP port {port}"))
    };
    let (plain, tls) = (listen(PORT).await?, listen(TLS_PORT).await?);
    let acceptor = transport::tls_acceptor(folder)?;
    let quic = transport::quic_server(folder, any(QUIC_PORT))?;
    println!("listening");
    loop {
        tokio::select! {
            taken = plain.accept() => {
                let stream = prepared(taken?.0);
                tokio::spawn(async move { answer(stream).await.ok() });
            }
            taken = tls.accept() => {
                let (stream, acceptor) = (prepared(taken?.0), acceptor.clone());
                tokio::spawn(async move { answer(acceptor.accept(stream).await?).await });
            }
            Some(incoming) = quic.accept() => {
                tokio::spawn(async move {
                    let connection = incoming.await?;
                    while let Ok((send, recv)) = connection.accept_bi().await {
                        tokio::spawn(async move { answer(tokio::io::join(recv, send)).await.ok() });
                    }
                    anyhow::Ok(())
                });
            }
        }
    }
}

fn prepared(stream: TcpStream) -> TcpStream {
    // A small answer must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    stream
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut block = [0; BLOCK];
    stream.read_exact(&mut block[..1]).await?;
    match block[0] {
        BULK => {
            let received = count(&mut stream).await?;
            stream.write_all(&serde_json::to_vec(&received)?).await?;
        }
        kind @ (ECHO | ONCE) => {
            stream.read_exact(&mut block[1..]).await?;
            stream.write_all(&block).await?;
            while kind == ECHO && stream.read_exact(&mut block).await.is_ok() {
                stream.write_all(&block).await?;
            }
        }
        other => bail!("a connection for {other}, which is nothing"),
    }
    Ok(stream.shutdown().await?)
}

async fn count(stream: &mut (impl AsyncRead + Unpin)) -> Result<Received> {
    let (mut buffer, mut meter) = (vec![0; BUFFER], Meter::default());
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(meter.received()),
            count => meter.add(Instant::now(), count as u64),
        }
    }
}

/// Counts bytes, and those of the time after the warm-up apart.
#[derive(Debug, Default)]
struct Meter {
    bytes: u64,
    first: Option<Instant>,
    /// When the warm-up was over, and when bytes came last since.
    warm: Option<(Instant, Instant)>,
    warm_bytes: u64,
}

impl Meter {
    fn add(&mut self, now: Instant, count: u64) {
        self.bytes += count;
        let first = *self.first.get_or_insert(now);
        match &mut self.warm {
            Some((_, last)) => {
                *last = now;
                self.warm_bytes += count;
            }
            None if now >= first + WARM_UP => self.warm = Some((now, now)),
            None => {}
        }
    }

    fn received(&self) -> Received {
        let seconds = self.warm.map_or(0.0, |(begun, last)| (last - begun).as_secs_f64());
        let mbit_s = if seconds > 0.0 { self.warm_bytes as f64 * 8e-6 / seconds } else { 0.0 };
        Received { bytes: self.bytes, mbit_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_after_the_warm_up() {
        let (mut meter, begun) = (Meter::default(), Instant::now());
        // 1 MB a millisecond at first, then 125 kB: 1 Gbit/s.
        for ms in 0..1000 {
            meter.add(begun + Duration::from_millis(ms), 1_000_000);
        }
        for ms in 1000..3000 {
            meter.add(begun + Duration::from_millis(ms), 125_000);
        }
        let received = meter.received();
        assert_eq!(received.bytes, 1_250_000_000);
        assert!((received.mbit_s - 1000.0).abs() < 1e-6, "{received:?}");
    }

    #[test]
    fn a_transfer_that_ends_within_the_warm_up_has_no_rate() {
        let mut meter = Meter::default();
        assert_eq!(meter.received(), Received::default());
        meter.add(Instant::now(), 10);
        assert_eq!(meter.received(), Received { bytes: 10, mbit_s: 0.0 });
    }
}
