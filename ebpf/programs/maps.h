/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The maps. Sizes of those that grow with the cluster are set by the loader. */
#ifndef EDGELOOM_MAPS_H
#define EDGELOOM_MAPS_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/errno.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

#define FAMILY_IPV4 2
#define FAMILY_IPV6 10

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct frontend);
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct backend_key);
	__type(value, struct backend);
} backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct member);
	__type(value, __u32);
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct client);
	__type(value, struct sticky);
} affinity SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct range);
	__type(value, __u32);
} ranges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, AGENT_SOCKETS);
	__type(key, __u32);
	__type(value, __u32);
} agent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct translations);
} reverse SEC(".maps");

/*
 * Connected UDP sockets by their cookie, with the backend that they were pointed at: sock_diag(7) tells
 * what `reverse` holds for TCP sockets only.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct backend);
} pointed SEC(".maps");

/* Adds one to a counter of a Service; a Service without a row is not counted. */
#define COUNT(service_id, field)                                                   \
	do {                                                                       \
		__u32 row_ = (service_id);                                         \
		struct counters *counted_ = bpf_map_lookup_elem(&counters, &row_); \
		if (counted_)                                                      \
			counted_->field++;                                         \
	} while (0)

static __always_inline void address_from_ipv4(struct address *out, __u32 ipv4)
{
	out->word[0] = 0;
	out->word[1] = 0;
	out->word[2] = bpf_htonl(0xffff);
	out->word[3] = ipv4;
}

static __always_inline bool address_equal(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

/* 127.0.0.0/8 or ::1: means another host in every network namespace. */
static __always_inline bool address_is_loopback(const struct address *a)
{
	if (a->word[0] || a->word[1])
		return false;
	if (a->word[2] == bpf_htonl(0xffff))
		return (bpf_ntohl(a->word[3]) >> 24) == 127;
	return a->word[2] == 0 && a->word[3] == bpf_htonl(1);
}

#endif
