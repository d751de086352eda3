//! The client: one load a call.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::transport::{Duplex, connect};
use super::{BLOCK, BUFFER, BULK, ECHO, ONCE, Over, Received, Report};

/// How long what was sent may take to arrive after the last byte was written.
const DRAIN: Duration = Duration::from_secs(60);
/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Requests before times are taken on an open connection.
const WARM_UPS: usize = 20;
/// Time between two requests on an open connection: nothing is under way when one begins.
const PAUSE: Duration = Duration::from_millis(2);
/// What is left out at the beginning of a churn.
const CHURN_WARM_UP: Duration = Duration::from_secs(1);
/// Connections that are made at the same time when many are held.
const AT_ONCE: usize = 32;

/// What the client is told.
#[derive(Debug, Args)]
pub(crate) struct Order {
    /// Where the server is.
    #[arg(long)]
    to: SocketAddr,
    /// What to dial with.
    #[arg(long, value_enum, default_value = "tcp")]
    over: Over,
    /// Folder with the server's certificate.
    #[arg(long)]
    folder: PathBuf,
    #[command(subcommand)]
    load: Load,
}

/// A load.
#[derive(Debug, Clone, Copy, PartialEq, Subcommand)]
pub(crate) enum Load {
    /// Send for so long.
    Bulk {
        /// Seconds.
        seconds: u64,
    },
    /// Connect, and take the time: a round trip where nobody is in between.
    Dial {
        /// How often.
        count: usize,
    },
    /// Connect, ask for a block, take the time to the first byte of the answer.
    FirstByte {
        /// How often.
        count: usize,
    },
    /// Ask for a block over an open connection.
    Echo {
        /// How often.
        count: usize,
    },
    /// Connect, ask, and be hung up on, over and over.
    Churn {
        /// Clients that do so side by side.
        clients: usize,
        /// Seconds.
        seconds: u64,
    },
    /// Hold idle connections until standard input ends.
    Idle {
        /// How many.
        count: usize,
    },
    /// Not of a client: hold connections to so many peers, tunnel to tunnel.
    #[command(skip)]
    Peers {
        /// How many.
        count: usize,
    },
    /// Not of a client: hold so many streams on one connection, tunnel to tunnel.
    #[command(skip)]
    Streams {
        /// How many.
        count: usize,
    },
}

impl Load {
    /// The words of a command line that say this.
    pub(crate) fn words(self) -> Vec<String> {
        let (name, numbers) = match self {
            Self::Bulk { seconds } => ("bulk", vec![seconds]),
            Self::Dial { count } => ("dial", vec![count as u64]),
            Self::FirstByte { count } => ("first-byte", vec![count as u64]),
            Self::Echo { count } => ("echo", vec![count as u64]),
            Self::Churn { clients, seconds } => ("churn", vec![clients as u64, seconds]),
            Self::Idle { count } => ("idle", vec![count as u64]),
            Self::Peers { count } => ("peers", vec![count as u64]),
            Self::Streams { count } => ("streams", vec![count as u64]),
        };
        std::iter::once(name.to_owned()).chain(numbers.iter().map(u64::to_string)).collect()
    }

    /// The unit of what it gives.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Bulk { .. } => "Mbit/s",
            Self::Dial { .. } | Self::FirstByte { .. } | Self::Echo { .. } => "µs",
            Self::Churn { .. } => "connections/s",
            Self::Idle { .. } | Self::Peers { .. } => "connections",
            Self::Streams { .. } => "streams",
        }
    }

    /// A fraction of it, to see that all works.
    pub(crate) fn quick(self) -> Self {
        match self {
            Self::Bulk { .. } => Self::Bulk { seconds: 3 },
            Self::Dial { count } => Self::Dial { count: count / 4 },
            Self::FirstByte { count } => Self::FirstByte { count: count / 4 },
            Self::Echo { count } => Self::Echo { count: count / 4 },
            Self::Churn { clients, .. } => Self::Churn { clients, seconds: 2 },
            Self::Idle { count } => Self::Idle { count: count / 4 },
            Self::Peers { count } => Self::Peers { count: count / 4 },
            Self::Streams { count } => Self::Streams { count: count / 4 },
        }
    }
}

/// Does as it is told.
pub(crate) async fn run(order: Order) -> Result<Option<Report>> {
    let client = Arc::new(Client(order));
    Ok(match client.0.load {
        Load::Bulk { seconds } => Some(Report::Bulk(client.bulk(Duration::from_secs(seconds)).await?)),
        Load::Dial { count } => Some(Report::Times(client.dials(count).await?)),
        Load::FirstByte { count } => Some(Report::Times(client.first_bytes(count).await?)),
        Load::Echo { count } => Some(Report::Times(client.echoes(count).await?)),
        Load::Churn { clients, seconds } => Some(client.churn(clients, Duration::from_secs(seconds)).await?),
        Load::Idle { count } => client.hold(count).await.map(|()| None)?,
        Load::Peers { .. } | Load::Streams { .. } => bail!("tunnels hold those, no client does"),
    })
}

struct Client(Order);

impl Client {
    async fn connect(&self) -> Result<Box<dyn Duplex>> {
        let Order { over, to, folder, .. } = &self.0;
        let late = || format!("no connection to {to} within {} s", PATIENCE.as_secs());
        timeout(PATIENCE, connect(*over, *to, folder)).await.with_context(late)?
    }

    async fn bulk(&self, long: Duration) -> Result<Received> {
        let mut stream = self.connect().await?;
        let block = vec![BULK; BUFFER];
        let end = Instant::now() + long;
        while Instant::now() < end {
            timeout(DRAIN, stream.write_all(&block)).await.context("nothing moves")??;
        }
        stream.shutdown().await?;
        let mut answer = Vec::new();
        timeout(DRAIN, stream.read_to_end(&mut answer)).await.context("no word of what arrived")??;
        Ok(serde_json::from_slice(&answer)?)
    }

    async fn dials(&self, count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            let mut stream = self.connect().await?;
            times.push(begun.elapsed().as_secs_f64() * 1e6);
            echo(&mut stream).await?;
        }
        Ok(times)
    }

    async fn first_bytes(&self, count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        // The first finds caches and connections between agents cold.
        for round in 0..=count {
            let begun = Instant::now();
            let mut stream = self.connect().await?;
            stream.write_all(&[ONCE; BLOCK]).await?;
            let mut answer = [0; BLOCK];
            timeout(PATIENCE, stream.read_exact(&mut answer[..1])).await.context("no answer")??;
            if round > 0 {
                times.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            stream.read_exact(&mut answer[1..]).await?;
        }
        Ok(times)
    }

    async fn echoes(&self, count: usize) -> Result<Vec<f64>> {
        let mut stream = self.connect().await?;
        let mut times = Vec::with_capacity(count);
        for round in 0..WARM_UPS + count {
            tokio::time::sleep(PAUSE).await;
            let begun = Instant::now();
            echo(&mut stream).await?;
            if round >= WARM_UPS {
                times.push(begun.elapsed().as_secs_f64() * 1e6);
            }
        }
        Ok(times)
    }

    async fn churn(self: &Arc<Self>, clients: usize, long: Duration) -> Result<Report> {
        let begun = Instant::now() + CHURN_WARM_UP;
        let end = begun + long;
        let (done, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (client, done, failed) = (self.clone(), done.clone(), failed.clone());
            tasks.spawn(async move {
                while Instant::now() < end {
                    let good = timeout(PATIENCE, client.once()).await.is_ok_and(|asked| asked.is_ok());
                    let now = Instant::now();
                    if !good {
                        failed.fetch_add(1, Ordering::Relaxed);
                    } else if now >= begun && now < end {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        let per_second = done.load(Ordering::Relaxed) as f64 / long.as_secs_f64();
        Ok(Report::Churn { per_second, failed: failed.load(Ordering::Relaxed) })
    }

    async fn once(&self) -> Result<()> {
        let mut stream = self.connect().await?;
        stream.write_all(&[ONCE; BLOCK]).await?;
        let mut answer = Vec::with_capacity(BLOCK);
        stream.read_to_end(&mut answer).await?;
        ensure!(answer == [ONCE; BLOCK], "another answer");
        Ok(())
    }

    async fn hold(self: &Arc<Self>, count: usize) -> Result<()> {
        let (mut tasks, turns) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
        for _ in 0..count {
            let (client, turns) = (self.clone(), turns.clone());
            tasks.spawn(async move {
                let _turn = turns.acquire().await?;
                let mut stream = client.connect().await?;
                timeout(PATIENCE, echo(&mut stream)).await.context("no answer")??;
                anyhow::Ok(stream)
            });
        }
        let mut held = Vec::with_capacity(count);
        while let Some(made) = tasks.join_next().await {
            held.push(made??);
        }
        println!("ready");
        tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
        Ok(())
    }
}

async fn echo(stream: &mut Box<dyn Duplex>) -> Result<()> {
    stream.write_all(&[ECHO; BLOCK]).await?;
    let mut answer = [0; BLOCK];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.context("no answer")??;
    ensure!(answer == [ECHO; BLOCK], "another answer");
    Ok(())
}
