//! The process of a link: reads frames at one end, and writes them at the other when their time has come.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl;
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};

use super::control::{self, Counts, Question};
use super::pipe::Pipe;
use super::{Wan, tap};
use crate::network::Netns;
use crate::{Error, Result};

/// Frames taken at once before those that are due are written.
const BATCH: usize = 64;
/// Bytes of the largest frame: an IP packet of 64 KiB with its Ethernet header and a VLAN tag.
const FRAME: usize = (1 << 16) + 18;
/// Bytes of a buffer that most frames fit into.
const USUAL: usize = 2048;
/// Empty buffers that are kept.
const SPARE: usize = 4096;

/// What a link's process is started with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Emulation {
    /// Network namespace and TAP device of the host or NAT.
    pub(crate) station: (String, String),
    /// Network namespace and TAP device at the switch.
    pub(crate) segment: (String, String),
    /// Where it is asked.
    pub(crate) socket: PathBuf,
    /// What it does.
    pub(crate) wan: Wan,
}

/// Runs a link until one of its ends is gone.
///
/// # Errors
/// Where an end cannot be opened, or the socket cannot be bound.
pub fn emulate(emulation: &Emulation) -> Result<()> {
    let open = |(netns, device): &(String, String)| {
        let opened = Netns(netns.clone()).within(|| tap::open(device))?;
        opened.map_err(Error::io("open the TAP device", device))
    };
    let (station, segment) = (open(&emulation.station)?, open(&emulation.segment)?);
    let Wan { up, down, seed } = emulation.wan;
    // Both directions of a link must not lose the same packets.
    let (up, down) = (Mutex::new(Pipe::new(up, seed)), Mutex::new(Pipe::new(down, seed ^ 0x5555_5555)));
    let listener =
        UnixListener::bind(&emulation.socket).map_err(Error::io("listen at", &emulation.socket))?;
    thread::scope(|scope| {
        let carriers = [
            scope.spawn(|| carry(&station, &segment, &up)),
            scope.spawn(|| carry(&segment, &station, &down)),
        ];
        scope.spawn(|| control::serve(&listener, |question| answer(&question, &up, &down)));
        for carrier in carriers {
            let ended = carrier.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
            if let Err(error) = ended {
                eprintln!("link {}: {error}", emulation.segment.1);
                // The thread that answers waits for ever.
                std::process::exit(1);
            }
        }
    });
    Ok(())
}

type Direction = Mutex<Pipe<Vec<u8>>>;

fn answer(question: &Question, up: &Direction, down: &Direction) -> Counts {
    if let Question::Set(wan) = question {
        lock(up).set(wan.up);
        lock(down).set(wan.down);
    }
    Counts { up: lock(up).count(), down: lock(down).count() }
}

fn lock(pipe: &Direction) -> MutexGuard<'_, Pipe<Vec<u8>>> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries frames one way, until an end is gone.
fn carry(from: &File, to: &File, pipe: &Direction) -> io::Result<()> {
    // By default the kernel may wake a thread 50 µs late.
    let _ = prctl::set_timerslack(1);
    let mut spare = Vec::new();
    let mut scratch = vec![0; FRAME];
    loop {
        let due = lock(pipe).next_due();
        wait(from, due)?;
        let mut pipe = lock(pipe);
        for _ in 0..BATCH {
            let Some(size) = read(from, &mut scratch)? else { break };
            let mut frame: Vec<u8> = spare.pop().unwrap_or_else(|| Vec::with_capacity(USUAL));
            frame.clear();
            frame.extend_from_slice(&scratch[..size]);
            if let Err(frame) = pipe.offer(Instant::now(), frame, size) {
                spare.push(frame);
            }
        }
        let now = Instant::now();
        while let Some(frame) = pipe.pop(now) {
            write(to, &frame)?;
            if spare.len() < SPARE {
                spare.push(frame);
            }
        }
    }
}

/// Waits until there is something to read, or `due`.
fn wait(from: &File, due: Option<Instant>) -> io::Result<()> {
    let timeout = due.map(|due| TimeSpec::from(due.saturating_duration_since(Instant::now())));
    let mut ends = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
    match ppoll(&mut ends, timeout, None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The size of the next frame; `None` where there is none now.
fn read(mut from: &File, into: &mut [u8]) -> io::Result<Option<usize>> {
    match from.read(into) {
        Ok(size) => Ok(Some(size)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Writes a frame; one that the other end does not take (it is down, or out of memory) is lost, as on a wire.
fn write(mut to: &File, frame: &[u8]) -> io::Result<()> {
    match to.write(frame) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EBADFD) => Err(error),
        _ => Ok(()),
    }
}
