//! The lab's WANs do to packets what they are told.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use edgeloom_lab::{Conditions, Fault, Lab, NatKind, Topology, Wan};

use super::lab::{socket, with_lab};
use crate::command::eventually;
use crate::world::World;

/// The host on the internet.
const CLOUD: &str = "203.0.113.10:7000";
/// Longer than any delay here.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of a UDP datagram, and what it is on the link: with the headers of UDP, IPv4 and Ethernet.
const DATAGRAM: usize = 1200;
const FRAME: usize = DATAGRAM + 8 + 20 + 14;

/// Each condition alone, changed while the lab is up.
pub(crate) fn conditions(_: &mut World) -> Result<()> {
    let mut topology = Topology::two_sites(NatKind::default());
    topology.set_wans(&Wan::default());
    with_lab(&topology, |lab| {
        let (inside, outside) = (socket(lab, "edge-a", 20006)?, socket(lab, "cloud", 7000)?);
        for socket in [&inside, &outside] {
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        inside.connect(CLOUD)?;
        delay(lab, &inside, &outside).context("delay")?;
        loss(lab, &inside, &outside).context("loss")?;
        rate(lab, &inside, &outside).context("rate")?;
        order(lab, &inside, &outside).context("reorder")?;
        size(lab, &inside, &outside).context("mtu")?;
        cut(lab, &inside, &outside).context("cut")
    })
}

fn set(lab: &mut Lab, text: &str) -> Result<()> {
    let conditions: Conditions = text.parse()?;
    Ok(lab.inject(&Fault::Wan { name: "nat-a".into(), wan: Wan::both(conditions) })?)
}

/// Sends a datagram out and back; the time it took.
fn round_trip(inside: &UdpSocket, outside: &UdpSocket) -> Result<Duration> {
    let mut buffer = [0; 2048];
    let begun = Instant::now();
    inside.send(&[1; DATAGRAM])?;
    let (size, from) = outside.recv_from(&mut buffer).context("nothing comes out")?;
    outside.send_to(&buffer[..size], from)?;
    inside.recv(&mut buffer).context("nothing comes back")?;
    Ok(begun.elapsed())
}

fn delay(lab: &mut Lab, inside: &UdpSocket, outside: &UdpSocket) -> Result<()> {
    for milliseconds in [0, 10, 50] {
        set(lab, &format!("delay={milliseconds}"))?;
        let mut times = (0..15).map(|_| round_trip(inside, outside)).collect::<Result<Vec<_>>>()?;
        times.sort();
        let least = Duration::from_millis(2 * milliseconds);
        println!("  round trip at {milliseconds} ms a way: p50 {:?}, most {:?}", times[7], times[14]);
        ensure!(times[0] >= least, "faster than told: {:?} of {least:?}", times[0]);
        ensure!(times[7] < least + Duration::from_millis(3), "slower than told: {:?} of {least:?}", times[7]);
    }
    Ok(())
}

/// Sends so many numbered datagrams at once; what arrives, with the time since the first was sent.
fn burst(inside: &UdpSocket, outside: &UdpSocket, count: u32) -> Result<Vec<(u32, Duration)>> {
    let begun = Instant::now();
    for number in 0..count {
        let mut datagram = [0; DATAGRAM];
        datagram[..4].copy_from_slice(&number.to_be_bytes());
        inside.send(&datagram)?;
    }
    let mut buffer = [0; 2048];
    let mut arrived = Vec::new();
    while let Ok(DATAGRAM) = outside.recv(&mut buffer) {
        arrived.push((u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]), begun.elapsed()));
    }
    Ok(arrived)
}

fn loss(lab: &mut Lab, inside: &UdpSocket, outside: &UdpSocket) -> Result<()> {
    set(lab, "loss=20")?;
    let before = lab.wan_counts("nat-a")?.up.lost;
    let mut arrived = 0;
    for _ in 0..20 {
        arrived += burst(inside, outside, 50)?.len();
    }
    let lost = lab.wan_counts("nat-a")?.up.lost - before;
    println!("  of 1000 at 20 % loss: {arrived} arrived, {lost} counted as lost");
    // Five standard deviations of 12.6 either way.
    ensure!((737..=863).contains(&arrived), "{arrived} of 1000 arrived");
    ensure!(arrived as u64 + lost >= 1000, "{lost} counted as lost, {arrived} arrived");
    Ok(())
}

fn rate(lab: &mut Lab, inside: &UdpSocket, outside: &UdpSocket) -> Result<()> {
    set(lab, "rate=20,queue=40")?;
    // 80 frames wait 40 ms; the rest finds the queue full.
    let arrived = burst(inside, outside, 200)?;
    let sending = Duration::from_secs_f64(FRAME as f64 * 8.0 / 20e6);
    let (first, last) = (arrived.first().context("nothing arrives")?.1, arrived[arrived.len() - 1].1);
    let took = (last - first).div_f64((arrived.len() - 1) as f64);
    println!("  at 20 Mbit/s: {} of 200 pass, {took:?} apart ({sending:?})", arrived.len());
    ensure!((75..=110).contains(&arrived.len()), "{} of 200 pass a queue of 40 ms", arrived.len());
    ensure!(took.abs_diff(sending) < sending / 5, "frames come {took:?} apart, not {sending:?}");
    Ok(())
}

fn order(lab: &mut Lab, inside: &UdpSocket, outside: &UdpSocket) -> Result<()> {
    set(lab, "delay=5,reorder=10,jitter=2")?;
    let (mut count, mut overtaken) = (0, 0);
    // A few at once, which a socket's buffer holds.
    for _ in 0..5 {
        let mut newest = 0;
        for (number, _) in burst(inside, outside, 40)? {
            count += 1;
            overtaken += u32::from(number < newest);
            newest = newest.max(number);
        }
    }
    ensure!(count == 200 && (6..=40).contains(&overtaken), "{overtaken} of {count} overtaken");
    Ok(())
}

fn size(lab: &mut Lab, inside: &UdpSocket, outside: &UdpSocket) -> Result<()> {
    set(lab, "mtu=1200")?;
    ensure!(round_trip(inside, outside).is_err(), "a packet larger than the MTU passes");
    set(lab, "mtu=1280")?;
    round_trip(inside, outside).map(drop)
}

fn cut(lab: &mut Lab, inside: &UdpSocket, outside: &UdpSocket) -> Result<()> {
    set(lab, "")?;
    for silent in [false, true] {
        lab.inject(&Fault::Cut { name: "nat-a".into(), silent })?;
        // What was under way, or waited for the link before, does not count.
        while outside.recv(&mut [0; 2048]).is_ok() {}
        ensure!(burst(inside, outside, 1)?.is_empty(), "something passes a cut link");
        lab.inject(&Fault::Restore { name: "nat-a".into() })?;
        // The kernel takes up a carrier when it comes to it, once a second.
        let mended = eventually(Duration::from_secs(3), || round_trip(inside, outside));
        mended.context("after the link was mended")?;
    }
    Ok(())
}
