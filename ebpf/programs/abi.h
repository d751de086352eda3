/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the programs and the loader share: the keys and values of the maps.
 *
 * This is the only definition. build.rs turns it into `#[repr(C)]` structs, so it keeps to a
 * small dialect: one member a line, no implicit padding, constants as plain decimal `#define`s.
 */
#ifndef EDGELOOM_ABI_H
#define EDGELOOM_ABI_H

#include <linux/types.h>

// Version of the layouts below; part of the path under which maps and links are pinned.
#define SCHEMA 1

// `service.kind`: backends are reached by their own addresses.
#define KIND_NEAR 1
// `service.kind`: the agent carries the traffic.
#define KIND_FAR 2
// `service.kind`: nothing can answer; refuse at once.
#define KIND_REFUSE 3

// Value of `ranges`: addresses of Services; only what is in `services` exists.
#define RANGE_SERVICES 1
// Value of `ranges`: pods of other sites; every port is the agent's.
#define RANGE_PODS 2

// Index of the agent's TCP listener for IPv4 in `agent`.
#define AGENT_TCP4 0
// Index of the agent's TCP listener for IPv6 in `agent`.
#define AGENT_TCP6 1
// Index of the agent's UDP socket for IPv4 in `agent`.
#define AGENT_UDP4 2
// Index of the agent's UDP socket for IPv6 in `agent`.
#define AGENT_UDP6 3
// Number of sockets in `agent`.
#define AGENT_SOCKETS 4

// Services that one socket can talk to at a time without forgetting who answers for whom.
#define TRANSLATIONS 4

// The row of `counters` for what belongs to no Service.
#define COUNTERS_OTHER 0

// An IPv6 address in network order, or an IPv4 address as `::ffff:a.b.c.d`.
struct address {
	__u32 word[4];
};

// Key of `services`: where clients call. The port is in network order.
struct frontend {
	struct address addr;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

// Value of `services`, replaced in one step.
struct service {
	__u32 id;
	__u32 generation;
	__u32 count;
	__u32 affinity_seconds;
	__u8 kind;
	__u8 pad[3];
};

// Key of `backends`.
struct backend_key {
	__u32 service;
	__u32 generation;
	__u32 slot;
};

// Value of `backends`. The port is in network order.
struct backend {
	struct address addr;
	__be16 port;
	__u8 pad[2];
};

// Key of `members`: tells whether a remembered backend still belongs to its Service.
struct member {
	__u32 service;
	__u32 generation;
	struct backend backend;
};

// Key of `affinity`: one client (a network namespace) of one Service port.
struct client {
	__u64 netns;
	__u32 service;
	__u8 pad[4];
};

// Value of `affinity`: the backend used last, and when, by the monotonic clock.
struct sticky {
	__u64 seen_ns;
	struct backend backend;
	__u8 pad[4];
};

// Key of `ranges`, in the form that a longest-prefix map wants.
struct range {
	__u32 prefix_len;
	struct address addr;
};

// Value of `counters`, one for each CPU.
struct counters {
	__u64 connects;
	__u64 datagrams;
	__u64 refused;
	__u64 steered;
	__u64 dropped;
	__u64 missed;
};

// What was put in place of a Service's address on one socket.
struct translation {
	struct address service;
	struct backend backend;
	__u32 service_id;
	__u32 generation;
	__be16 service_port;
	__u8 pad[2];
};

// Value of `reverse`, kept with each socket: the last few translations, and which was used last.
struct translations {
	struct translation slot[4];
	__u32 latest;
};

#endif
