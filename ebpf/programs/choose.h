/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* From a Service's address to one of its backends. */
#ifndef EDGELOOM_CHOOSE_H
#define EDGELOOM_CHOOSE_H

#include "maps.h"

#define SECOND_NS 1000000000ULL

/* Cookie of the host's own network namespace; 0 where the kernel cannot tell it (before 5.14). */
const volatile __u64 host_netns = 0;
/* Whether bpf_set_retval exists (5.18); the verifier drops the branch that is not taken. */
const volatile __u8 has_set_retval = 0;

enum verdict { VERDICT_PASS, VERDICT_REWRITE, VERDICT_REFUSE };

/* The backend that this client used last, while it still belongs to the Service. */
static __always_inline bool choose_sticky(const struct service *svc, const struct client *client,
					  struct backend *out)
{
	struct sticky *last = bpf_map_lookup_elem(&affinity, client);
	__u64 now = bpf_ktime_get_ns();

	if (!last || now - last->seen_ns > svc->affinity_seconds * SECOND_NS)
		return false;

	struct member who = { .service = svc->id, .generation = svc->generation, .backend = last->backend };

	if (!bpf_map_lookup_elem(&members, &who))
		return false;
	*out = last->backend;
	/* Refreshing once a second is enough and keeps the line clean. */
	if (now - last->seen_ns > SECOND_NS)
		last->seen_ns = now;
	return true;
}

/* Picks a backend; false when its slot is gone because the generation changed meanwhile. */
static __always_inline bool choose(struct bpf_sock_addr *ctx, const struct service *svc,
				   struct backend *out)
{
	struct client client = { .service = svc->id };

	if (svc->affinity_seconds) {
		client.netns = bpf_get_netns_cookie(ctx);
		if (choose_sticky(svc, &client, out))
			return true;
	}

	struct backend_key key = {
		.service = svc->id,
		.generation = svc->generation,
		.slot = svc->count > 1 ? bpf_get_prandom_u32() % svc->count : 0,
	};
	struct backend *found = bpf_map_lookup_elem(&backends, &key);

	if (!found)
		return false;
	*out = *found;
	if (svc->affinity_seconds) {
		struct sticky fresh = { .seen_ns = bpf_ktime_get_ns(), .backend = *out };

		bpf_map_update_elem(&affinity, &client, &fresh, BPF_ANY);
	}
	return true;
}

/* The backend that this socket already uses for the Service, so that its datagrams stay together. */
static __always_inline bool recall(struct translations *kept, const struct frontend *to,
				   const struct service *svc, struct backend *out)
{
	if (!kept)
		return false;
#pragma unroll
	for (int i = 0; i < TRANSLATIONS; i++) {
		struct translation *t = &kept->slot[i];

		if (t->service_id == svc->id && t->generation == svc->generation &&
		    t->service_port == to->port && address_equal(&t->service, &to->addr)) {
			*out = t->backend;
			return true;
		}
	}
	return false;
}

/*
 * Keeps what was translated with the socket: over an equal entry, else in the slot after the latest.
 * A stream has one peer in its life.
 */
static __always_inline void remember(struct translations *kept, const struct frontend *to,
				     const struct service *svc, const struct backend *chosen)
{
	if (!kept)
		return;

	bool is_stream = to->protocol == IPPROTO_TCP;
	__u32 at = is_stream ? 0 : kept->latest + 1;

#pragma unroll
	for (int i = 0; i < TRANSLATIONS && !is_stream; i++) {
		struct translation *t = &kept->slot[i];

		if (t->service_port == to->port && t->backend.port == chosen->port &&
		    address_equal(&t->service, &to->addr) &&
		    address_equal(&t->backend.addr, &chosen->addr))
			at = i;
	}
	at &= TRANSLATIONS - 1;
	kept->latest = at;

	struct translation *slot = &kept->slot[at];

	slot->service = to->addr;
	slot->service_port = to->port;
	slot->backend = *chosen;
	slot->service_id = svc->id;
	slot->generation = svc->generation;
}

/*
 * What to do with a call to `to`. The chosen backend's family is that of the address called:
 * the loader sees to it. A swap of generations between two look-ups is met by looking again.
 */
static __always_inline enum verdict translate(struct bpf_sock_addr *ctx, const struct frontend *to,
					      bool datagram, struct backend *out)
{
	struct service svc = {};

#pragma unroll
	for (int attempt = 0; attempt < 2; attempt++) {
		struct service *found = bpf_map_lookup_elem(&services, to);

		if (!found)
			return VERDICT_PASS;
		svc = *found;
		if (svc.kind == KIND_FAR)
			return VERDICT_PASS;
		if (svc.kind != KIND_NEAR || svc.count == 0)
			break;

		struct translations *kept =
			bpf_sk_storage_get(&reverse, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		bool chosen = datagram && recall(kept, to, &svc, out);

		if (!chosen)
			chosen = choose(ctx, &svc, out);
		if (!chosen) {
			COUNT(svc.id, missed);
			continue;
		}
		if (address_is_loopback(&out->addr) && host_netns &&
		    bpf_get_netns_cookie(ctx) != host_netns)
			break;
		remember(kept, to, &svc, out);
		if (!datagram && to->protocol == IPPROTO_UDP) {
			__u64 cookie = bpf_get_socket_cookie(ctx);

			bpf_map_update_elem(&pointed, &cookie, out, BPF_ANY);
		}
		if (datagram)
			COUNT(svc.id, datagrams);
		else
			COUNT(svc.id, connects);
		return VERDICT_REWRITE;
	}
	COUNT(svc.id, refused);
	return VERDICT_REFUSE;
}

/*
 * The Service that stands behind a peer's address on this socket. Where one backend stands behind
 * several, it is the one that was called last.
 */
static __always_inline bool untranslate(struct bpf_sock_addr *ctx, struct backend *peer)
{
	struct translations *kept = bpf_sk_storage_get(&reverse, ctx->sk, 0, 0);

	if (!kept)
		return false;

	__u32 latest = kept->latest;

#pragma unroll
	for (int i = 0; i < TRANSLATIONS; i++) {
		struct translation *t = &kept->slot[(latest - i) & (TRANSLATIONS - 1)];

		if (t->service_id && t->backend.port == peer->port &&
		    address_equal(&t->backend.addr, &peer->addr)) {
			peer->addr = t->service;
			peer->port = t->service_port;
			return true;
		}
	}
	return false;
}

#endif
