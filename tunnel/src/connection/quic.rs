//! How the raw QUIC endpoint is set up.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::congestion::{Factory, PathState};
use super::spread::Bounds;
use super::windows::{Buffers, First};
use crate::alpn::Alpn;
use crate::config::{Config, Congestion};
use crate::identity::Guard;
use crate::limits::Limits;
use crate::socket::Mark;

/// Streams that a stranger may have open, to join.
const STRANGERS_STREAMS: u32 = 4;
/// Round trip time that is assumed until one is measured: of a path that no probe measured, and the least.
const UNKNOWN_RTT: Duration = Duration::from_millis(150);
const LEAST_RTT: Duration = Duration::from_millis(20);
/// Packets that a peer takes before it acknowledges them, or so long: each acknowledgement is a packet more that
/// both ends handle. The last packet is acknowledged after that time, sooner than QUIC otherwise does (25 ms), and an
/// answer carries the acknowledgement of what it answers.
const ACK_AFTER: u32 = 7;
const ACK_DELAY: Duration = Duration::from_millis(2);
/// A packet that overtakes so many is acknowledged at once: with it the sender takes the missing one for lost
/// (RFC 9002, section 6.1.1). One less, which is quinn's default, is acknowledged before that, and the next then waits.
const ACK_OVERTAKEN: u32 = 3;
/// Largest UDP payload: 1500 of Ethernet less 40 of IPv6 and 8 of UDP, less the forwarder's header, so that a
/// connection that found its size on a direct path survives a relay.
const MAX_PAYLOAD: u16 = 1452 - crate::wire::frame::DATA_HEADER as u16;
/// Largest UDP payload that is received: what others may find on their path, with a forwarder's header.
const MAX_RECEIVED: u16 = 1472;

/// The endpoint: connection ids with our mark, and the QUIC bit left alone, by which packets are told from frames.
pub(crate) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.cid_generator(|| Box::new(Mark::Raw));
    config.grease_quic_bit(false);
    config.max_udp_payload_size(MAX_RECEIVED).expect("within the bounds of RFC 9000, section 18.2");
    config
}

/// What connections are made from: the parts of the configuration that they need.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    congestion: Congestion,
    idle_timeout: Duration,
    serve_join: bool,
    pub(super) limits: Limits,
    pub(super) buffers: Buffers,
}

impl Settings {
    pub(crate) fn new(config: &Config) -> Self {
        let Config { congestion, idle_timeout, serve_join, .. } = *config;
        let limits = config.limits.clone();
        Self { congestion, idle_timeout, serve_join, buffers: Buffers(limits.buffers()), limits }
    }

    /// What bounds the connections with one peer.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            streams: self.limits.streams,
            // The peer takes as many again: renewals, and those that were dialled at the same time.
            connections: (self.limits.connections_per_peer / 2).max(1),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    pub(crate) fn congestion(&self) -> Congestion {
        self.congestion
    }

    /// What the accepting side offers to strangers; for peers see [`Settings::server_for`].
    pub(crate) fn server(&self, guard: &Guard) -> Result<quinn::ServerConfig, rustls::Error> {
        let served: Vec<&[u8]> = Alpn::ALL
            .iter()
            .filter(|alpn| self.serve_join || **alpn != Alpn::Join)
            .map(|alpn| alpn.as_str().as_bytes())
            .collect();
        let mut server = quinn::ServerConfig::with_crypto(guard.quic_server_config(&served)?);
        let mut transport = self.transport(None, Buffers::first(Alpn::Join, 0, self.buffers.0));
        transport.max_concurrent_bidi_streams(VarInt::from_u32(STRANGERS_STREAMS));
        server.transport_config(Arc::new(transport));
        // Paths change beneath the connection, at the socket.
        server.migration(false);
        Ok(server)
    }

    /// What the accepting side offers to a peer with this path.
    pub(super) fn server_for(
        &self,
        server: &quinn::ServerConfig,
        path: &Arc<PathState>,
        first: First,
    ) -> quinn::ServerConfig {
        let mut server = server.clone();
        server.transport_config(Arc::new(self.transport(Some(path), first)));
        server
    }

    /// What the dialling side uses towards `expected`.
    pub(super) fn client(
        &self,
        guard: &Guard,
        alpn: Alpn,
        expected: PeerId,
        path: &Arc<PathState>,
        first: First,
    ) -> Result<quinn::ClientConfig, rustls::Error> {
        let crypto = guard.quic_client_config(alpn.as_str().as_bytes(), Some(expected))?;
        let mut client = quinn::ClientConfig::new(crypto);
        client.transport_config(Arc::new(self.transport(Some(path), first)));
        client.initial_dst_cid_provider(Arc::new(|| Mark::Raw.connection_id()));
        Ok(client)
    }

    fn transport(&self, path: Option<&Arc<PathState>>, first: First) -> TransportConfig {
        let bytes = |count: u64| VarInt::from_u64(count).unwrap_or(VarInt::MAX);
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(MAX_PAYLOAD);
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(ACK_AFTER))
            .max_ack_delay(Some(ACK_DELAY))
            .reordering_threshold(VarInt::from_u32(ACK_OVERTAKEN));
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(self.limits.streams))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            // Probes keep paths open and notice dead ones, one for all connections of a peer.
            .keep_alive_interval(None)
            .stream_receive_window(bytes(self.buffers.stream()))
            .receive_window(bytes(first.window))
            .send_window(first.sending)
            .mtu_discovery_config(Some(mtu))
            .packet_threshold(ACK_OVERTAKEN)
            .ack_frequency_config(Some(acks))
            .datagram_receive_buffer_size(Some(first.datagrams as usize))
            .datagram_send_buffer_size(first.datagrams as usize);
        if let Some(path) = path {
            transport.congestion_controller_factory(Arc::new(Factory(path.clone())));
            // Probes measured it already: a lost first packet is not waited for as if nothing were known.
            transport.initial_rtt(path.rtt().map_or(UNKNOWN_RTT, |rtt| (rtt * 2).max(LEAST_RTT)));
        }
        transport
    }
}
