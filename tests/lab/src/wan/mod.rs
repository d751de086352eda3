//! A WAN on a cable: delay, jitter, reordering, loss, rate and packet size, made in user space.
//!
//! Kernels without netem cannot do it themselves. Where an [`Interface`](crate::topology::Interface) has a
//! [`Wan`], both ends of its cable are TAP devices, and a process of the lab ([`emulate`], one for each cable)
//! carries every frame from one to the other, each direction through a [`pipe`] in a thread of its own. A TAP
//! device hands over what a network card without offloads would put on the wire: packets of the MTU. The
//! process has a socket by which its conditions are changed and its counts are read ([`control`]).

mod control;
mod emulator;
mod link;
mod pipe;
mod tap;

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub use control::Counts;
pub use emulator::{Emulation, emulate};
pub(crate) use link::WanLink;

/// What a cable does to what passes it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wan {
    /// What leaves the host, or the NAT's outside.
    pub up: Conditions,
    /// What comes to it.
    pub down: Conditions,
    /// Where the random numbers of both directions begin.
    pub seed: u64,
}

impl Wan {
    /// The same in both directions.
    pub fn both(conditions: Conditions) -> Self {
        Self { up: conditions, down: conditions, seed: 0 }
    }

    /// Both directions are sound.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.up.check().map_err(|error| format!("up: {error}"))?;
        self.down.check().map_err(|error| format!("down: {error}"))
    }
}

/// One direction; by default it does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    /// How long a packet is under way, in milliseconds.
    pub delay: f64,
    /// A random time of at most so many milliseconds is added; packets keep their order.
    pub jitter: f64,
    /// Share of packets, in percent, that what follows overtakes: by `jitter`, or 1 ms where there is none.
    pub reorder: f64,
    /// Share of packets, in percent, that are lost at random.
    pub loss: f64,
    /// Mbit/s of whole frames (IP packet and 14 bytes).
    pub rate: Option<f64>,
    /// Milliseconds at `rate` that may wait before it; what comes on top is dropped.
    pub queue: Option<f64>,
    /// Bytes of the largest IP packet that passes; larger ones vanish, and nobody is told (RFC 2923, section 2.1).
    pub mtu: Option<u16>,
}

/// What waits before a rate that does not say: that of a cautious router (RFC 8289 aims lower, home routers hold more).
const QUEUE: Duration = Duration::from_millis(50);

impl Conditions {
    /// Fails with the field that means nothing.
    pub(crate) fn check(&self) -> Result<(), String> {
        // Whole days, so that no sum of durations overflows.
        let times =
            [("delay", self.delay), ("jitter", self.jitter), ("queue", self.queue.unwrap_or_default())];
        for (name, value) in times {
            if !(0.0..=86_400_000.0).contains(&value) {
                return Err(format!("{name}={value}: expected milliseconds, at most a day"));
            }
        }
        for (name, value) in [("loss", self.loss), ("reorder", self.reorder)] {
            if !(0.0..=100.0).contains(&value) {
                return Err(format!("{name}={value}: expected percent, 0 to 100"));
            }
        }
        if self.rate.is_some_and(|rate| !(0.001..=1e6).contains(&rate)) {
            return Err(format!("rate={}: expected Mbit/s, 0.001 or more", self.rate.unwrap_or_default()));
        }
        if self.mtu.is_some_and(|mtu| mtu < 68) {
            return Err("mtu: IPv4 wants 68 bytes at least, IPv6 1280".into());
        }
        Ok(())
    }

    fn delay(&self) -> Duration {
        milliseconds(self.delay)
    }

    fn queue(&self) -> Duration {
        self.queue.map_or(QUEUE, milliseconds)
    }
}

fn milliseconds(value: f64) -> Duration {
    Duration::from_secs_f64(value / 1000.0)
}

impl FromStr for Conditions {
    type Err = Error;

    /// Reads `delay=10,loss=0.5,rate=200`: fields as above, with commas between them.
    fn from_str(text: &str) -> Result<Self> {
        let mut conditions = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong(part, "expected NAME=VALUE"))?;
            let number: f64 = value.trim().parse().map_err(|_| wrong(part, "expected a number"))?;
            match name.trim() {
                "delay" => conditions.delay = number,
                "jitter" => conditions.jitter = number,
                "reorder" => conditions.reorder = number,
                "loss" => conditions.loss = number,
                "rate" => conditions.rate = Some(number),
                "queue" => conditions.queue = Some(number),
                "mtu" => {
                    conditions.mtu = Some(value.trim().parse().map_err(|_| wrong(part, "expected bytes"))?);
                }
                _ => return Err(wrong(part, "known are delay, jitter, reorder, loss, rate, queue, mtu")),
            }
        }
        conditions.check().map_err(|error| wrong(text, &error))?;
        Ok(conditions)
    }
}

fn wrong(text: &str, why: &str) -> Error {
    Error::Topology(format!("conditions {text:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_from_a_command_line() {
        let read: Conditions = "delay=10, loss=0.5,rate=200,mtu=1280".parse().unwrap();
        let expected = Conditions {
            delay: 10.0,
            loss: 0.5,
            rate: Some(200.0),
            mtu: Some(1280),
            ..Conditions::default()
        };
        assert_eq!(read, expected);
        assert_eq!("".parse::<Conditions>().unwrap(), Conditions::default());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("delay", "NAME=VALUE"),
            ("delay=slow", "number"),
            ("latency=1", "known are"),
            ("loss=101", "percent"),
            ("delay=-1", "milliseconds"),
            ("delay=NaN", "milliseconds"),
            ("rate=0", "Mbit/s"),
            ("mtu=20", "68"),
            ("mtu=70000", "bytes"),
        ] {
            let message = text.parse::<Conditions>().unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
