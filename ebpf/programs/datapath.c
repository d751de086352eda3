// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Services in the kernel.
 *
 * Near: a connect or a send to a Service's address is pointed at a backend before any packet
 * exists, and what the socket hears back is pointed the other way (cgroup hooks).
 * Far: packets for Service addresses and for pods of other sites, routed to this host, are handed
 * to the agent's sockets (sk_lookup).
 */
#include "choose.h"

/* A context's port is a big-endian u16 in a u32: the compiler must not narrow the load. */
static __always_inline __be16 user_port(struct bpf_sock_addr *ctx)
{
	return (__be16)*(volatile __u32 *)&ctx->user_port;
}

static __always_inline void read_ipv6(struct bpf_sock_addr *ctx, struct address *out)
{
	out->word[0] = *(volatile __u32 *)&ctx->user_ip6[0];
	out->word[1] = *(volatile __u32 *)&ctx->user_ip6[1];
	out->word[2] = *(volatile __u32 *)&ctx->user_ip6[2];
	out->word[3] = *(volatile __u32 *)&ctx->user_ip6[3];
}

static __always_inline void write_ipv6(struct bpf_sock_addr *ctx, const struct address *from)
{
	*(volatile __u32 *)&ctx->user_ip6[0] = from->word[0];
	*(volatile __u32 *)&ctx->user_ip6[1] = from->word[1];
	*(volatile __u32 *)&ctx->user_ip6[2] = from->word[2];
	*(volatile __u32 *)&ctx->user_ip6[3] = from->word[3];
}

static __always_inline int refuse(void)
{
	if (has_set_retval)
		bpf_set_retval(-EHOSTUNREACH);
	return 0;
}

static __always_inline int forward4(struct bpf_sock_addr *ctx, bool datagram)
{
	__u32 protocol = ctx->protocol;
	struct frontend to = { .port = user_port(ctx), .protocol = (__u8)protocol };
	struct backend chosen = {};

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 1;
	address_from_ipv4(&to.addr, ctx->user_ip4);
	switch (translate(ctx, &to, datagram, &chosen)) {
	case VERDICT_PASS:
		return 1;
	case VERDICT_REFUSE:
		return refuse();
	case VERDICT_REWRITE:
		ctx->user_ip4 = chosen.addr.word[3];
		ctx->user_port = chosen.port;
	}
	return 1;
}

static __always_inline int forward6(struct bpf_sock_addr *ctx, bool datagram)
{
	__u32 protocol = ctx->protocol;
	struct frontend to = { .port = user_port(ctx), .protocol = (__u8)protocol };
	struct backend chosen = {};

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 1;
	read_ipv6(ctx, &to.addr);
	switch (translate(ctx, &to, datagram, &chosen)) {
	case VERDICT_PASS:
		return 1;
	case VERDICT_REFUSE:
		return refuse();
	case VERDICT_REWRITE:
		write_ipv6(ctx, &chosen.addr);
		ctx->user_port = chosen.port;
	}
	return 1;
}

static __always_inline int backward4(struct bpf_sock_addr *ctx)
{
	struct backend peer = { .port = user_port(ctx) };

	address_from_ipv4(&peer.addr, ctx->user_ip4);
	if (untranslate(ctx, &peer)) {
		ctx->user_ip4 = peer.addr.word[3];
		ctx->user_port = peer.port;
	}
	return 1;
}

static __always_inline int backward6(struct bpf_sock_addr *ctx)
{
	struct backend peer = { .port = user_port(ctx) };

	read_ipv6(ctx, &peer.addr);
	if (untranslate(ctx, &peer)) {
		write_ipv6(ctx, &peer.addr);
		ctx->user_port = peer.port;
	}
	return 1;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return forward4(ctx, false);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return forward6(ctx, false);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return forward4(ctx, true);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return forward6(ctx, true);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return backward4(ctx);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return backward6(ctx);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return backward4(ctx);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return backward6(ctx);
}

/* Whether the packet is for the agent: 0 leave it, 1 hand it over, -1 drop it. Sets the counters' row. */
static __always_inline int for_agent(const struct frontend *to, __u32 *row)
{
	struct service *svc = bpf_map_lookup_elem(&services, to);

	if (svc) {
		*row = svc->id;
		return svc->kind == KIND_REFUSE ? -1 : 1;
	}

	struct range where = { .prefix_len = 128, .addr = to->addr };
	__u32 *kind = bpf_map_lookup_elem(&ranges, &where);

	if (!kind)
		return 0;
	return *kind == RANGE_PODS ? 1 : -1;
}

/*
 * Packets that no connected socket takes. What is in our ranges never reaches a wildcard listener
 * of the host: it is the agent's, or it is dropped (a TCP client then sees a reset).
 */
SEC("sk_lookup")
int steer(struct bpf_sk_lookup *ctx)
{
	__u32 protocol = ctx->protocol;
	__u32 family = ctx->family;
	struct frontend to = { .port = bpf_htons((__u16)ctx->local_port), .protocol = (__u8)protocol };
	__u32 row = COUNTERS_OTHER;
	__u32 index;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return SK_PASS;
	if (family == FAMILY_IPV4) {
		address_from_ipv4(&to.addr, ctx->local_ip4);
		index = protocol == IPPROTO_TCP ? AGENT_TCP4 : AGENT_UDP4;
	} else if (family == FAMILY_IPV6) {
		to.addr.word[0] = ctx->local_ip6[0];
		to.addr.word[1] = ctx->local_ip6[1];
		to.addr.word[2] = ctx->local_ip6[2];
		to.addr.word[3] = ctx->local_ip6[3];
		index = protocol == IPPROTO_TCP ? AGENT_TCP6 : AGENT_UDP6;
	} else {
		return SK_PASS;
	}

	int verdict = for_agent(&to, &row);

	if (verdict == 0)
		return SK_PASS;
	if (verdict > 0) {
		struct bpf_sock *sk = bpf_map_lookup_elem(&agent, &index);

		if (sk) {
			long error = bpf_sk_assign(ctx, sk, 0);

			bpf_sk_release(sk);
			if (!error)
				COUNT(row, steered);
			/* Another program on this namespace has chosen a socket: its choice stands. */
			if (!error || error == -EEXIST)
				return SK_PASS;
		}
	}
	COUNT(row, dropped);
	return SK_DROP;
}

char _license[] SEC("license") = "GPL";
