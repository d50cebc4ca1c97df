// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Services at the socket: programs on the cgroup of a node's processes, each for IPv4 and IPv6.
 *
 *   connect      a TCP or UDP socket that connects to a Service is connected to one of its endpoints
 *   sendmsg      a UDP socket that is not connected sends to an endpoint, to the same one as long as there is it
 *   recvmsg      what it receives comes from the Service
 *   getpeername  what it is connected to is the Service
 *
 * IPv4 by a socket of family IPv6 arrives as a mapped address, in connect at the program for IPv6, in sendmsg at the
 * one for IPv4: addresses are kept mapped, so it is the same to the maps.
 *
 * A port of a node is a Service, too, at every address of the node: see find_service.
 *
 * Tables change under the programs. User space writes backends of a new generation, then the service's value that
 * names the generation, then deletes the old ones. A reader takes what it read only if the service still has the
 * generation afterwards: then nothing of it was deleted, or replaced by something else, in the meantime.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "address.h"
#include "service.h"

#define NS_PER_SECOND 1000000000ull
/* A table would have to change within each of them. */
#define TRIES 3
/* What a kernel program of this kind returns. */
#define PROCEED 1
#define REFUSE 0
/* Not in all headers of the C library. */
#define PROTOCOL_MPTCP 262

/* Only user space inserts. */
#define HASH(name, key_type, value_type, max)                                                                  \
	struct {                                                                                               \
		__uint(type, BPF_MAP_TYPE_HASH);                                                               \
		__uint(max_entries, max);                                                                      \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                          \
		__uint(pinning, LIBBPF_PIN_BY_NAME);                                                           \
		__type(key, key_type);                                                                         \
		__type(value, value_type);                                                                     \
	} name SEC(".maps")

HASH(services, struct service_key, struct service, MAX_SERVICES);
HASH(backends, struct row_key, struct row, MAX_ROWS);
HASH(members, struct member_key, __u32, MAX_MEMBERS);
HASH(nodes, struct node_key, __u32, MAX_NODES);

/* One entry for each service and network namespace, so no pod can have many. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_AFFINITIES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinities SEC(".maps");

/* Goes with its socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, int);
	__type(value, struct socket_state);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u64);
} outcomes SEC(".maps");

/* The kernel's cookie of the node's network namespace, which the loader sets. */
const volatile __u64 node_netns = 0;

/* Whether the kernel lets programs say why they refuse; the loader sets 0 where it does not. */
const volatile __u32 tells_refusal = 1;

static __always_inline void count(__u32 outcome)
{
	__u64 *counter = bpf_map_lookup_elem(&outcomes, &outcome);

	if (counter)
		(*counter)++;
}

/* Without a reason of its own the kernel says EPERM. */
static __always_inline int refuse(int error)
{
	if (tells_refusal)
		bpf_set_retval(-error);
	return REFUSE;
}

/* ---- which service ---- */

/*
 * Finds where a destination is served: as it is, else as a port of this node or of that other one, else as a port of every
 * node; what is loopback, as a port of the node's own, for whoever is in its namespace: in a pod it is the pod itself. A port
 * of that other one is for whoever is not: the node's own processes go there. One of this node may be another for them. Makes
 * the key the one under which it is.
 */
static __always_inline int find_service(struct bpf_sock_addr *ctx, struct service_key *key)
{
	struct node_key node = { .address = key->address };
	__u32 *kind;

	if (bpf_map_lookup_elem(&services, key))
		return 1;
	kind = bpf_map_lookup_elem(&nodes, &node);
	if (!kind)
		return 0;
	if (*kind == OTHER_NODE) {
		key->scope = SCOPE_OTHER_NODE;
		if (bpf_map_lookup_elem(&services, key))
			return bpf_get_netns_cookie(ctx) != node_netns;
	}
	unspecify(&key->address);
	if (*kind == LOOPBACK) {
		key->scope = SCOPE_LOOPBACK;
		return bpf_get_netns_cookie(ctx) == node_netns && bpf_map_lookup_elem(&services, key);
	}
	if (*kind == OWN_NODE) {
		key->scope = SCOPE_OWN_NODE_HOST;
		if (bpf_get_netns_cookie(ctx) == node_netns && bpf_map_lookup_elem(&services, key))
			return 1;
		key->scope = SCOPE_OWN_NODE;
		if (bpf_map_lookup_elem(&services, key))
			return 1;
	}
	key->scope = SCOPE_NODES;
	return bpf_map_lookup_elem(&services, key) != NULL;
}

/* ---- which endpoint ---- */

enum found {
	NOTHING, /* no service: the destination is meant as it is */
	EMPTY,	 /* a service without endpoints */
	CHANGED, /* the tables changed while they were read */
	FOUND,
};

struct pick {
	struct service service;
	struct backend backend;
	int kept;
};

/* The endpoint that the client used last, unless that is too long ago; 0: none. */
static __always_inline __u32 affine_endpoint(struct bpf_sock_addr *ctx, const struct service *service)
{
	struct affinity_key key = { .netns = bpf_get_netns_cookie(ctx), .service = service->id };
	struct affinity *last = bpf_map_lookup_elem(&affinities, &key);

	if (!last || bpf_ktime_get_ns() - last->used_ns > service->affinity_seconds * NS_PER_SECOND)
		return 0;
	return last->endpoint;
}

static __always_inline void note_affinity(struct bpf_sock_addr *ctx, const struct pick *pick)
{
	struct affinity_key key = { .netns = bpf_get_netns_cookie(ctx), .service = pick->service.id };
	struct affinity now = { .used_ns = bpf_ktime_get_ns(), .endpoint = pick->backend.endpoint };

	bpf_map_update_elem(&affinities, &key, &now, BPF_ANY);
}

/* Tells the slot of an endpoint, if it is one of this generation. */
static __always_inline int find_slot(const struct service *service, __u32 endpoint, __u32 *slot)
{
	struct member_key key = { .service = service->id, .generation = service->generation, .endpoint = endpoint };
	__u32 *found = bpf_map_lookup_elem(&members, &key);

	if (!found)
		return 0;
	*slot = *found;
	return 1;
}

/* Tells the slot of the endpoint to which a socket sent what was for this service. */
static __always_inline int find_own_slot(const struct socket_state *state, const struct service_key *asked,
					 const struct service *service, __u32 *slot)
{
	int i;

#pragma unroll
	for (i = 0; i < TRANSLATIONS; i++) {
		const struct translation *one = &state->translations[i];

		if (one->backend_port && one->frontend_port == asked->port && one->service == service->id &&
		    same_address(&one->frontend, &asked->address) && find_slot(service, one->endpoint, slot))
			return 1;
	}
	return 0;
}

/* Reads the backend in a slot, if there is one. */
static __always_inline int read_backend(const struct service *service, __u32 slot, struct backend *backend)
{
	struct row_key key = { .service = service->id, .generation = service->generation, .row = slot / ROW };
	struct row *row = bpf_map_lookup_elem(&backends, &key);
	__u32 at = slot % ROW;

	/* Older verifiers do not know what a remainder can be. */
	barrier_var(at);
	if (!row || at >= ROW)
		return 0;
	*backend = row->backends[at];
	return backend->endpoint != 0;
}

static __always_inline enum found pick_once(struct bpf_sock_addr *ctx, const struct service_key *asked,
					    const struct service_key *key, const struct socket_state *state,
					    struct pick *pick)
{
	struct service *service, *again;
	__u32 slot = 0;

	service = bpf_map_lookup_elem(&services, key);
	if (!service)
		return NOTHING;
	pick->service = *service;
	pick->kept = 0;
	if (pick->service.count) {
		if (state)
			pick->kept = find_own_slot(state, asked, &pick->service, &slot);
		if (!pick->kept && pick->service.affinity_seconds) {
			__u32 endpoint = affine_endpoint(ctx, &pick->service);

			pick->kept = endpoint && find_slot(&pick->service, endpoint, &slot);
		}
		if (!pick->kept)
			slot = bpf_get_prandom_u32() % pick->service.count;
		if (!read_backend(&pick->service, slot, &pick->backend))
			return CHANGED;
	}
	again = bpf_map_lookup_elem(&services, key);
	if (!again || again->id != pick->service.id || again->generation != pick->service.generation ||
	    again->count != pick->service.count)
		return CHANGED;
	return pick->service.count ? FOUND : EMPTY;
}

static __always_inline enum found pick_endpoint(struct bpf_sock_addr *ctx, const struct service_key *asked,
						const struct service_key *key, const struct socket_state *state,
						struct pick *pick)
{
	enum found found;
	int i;

#pragma unroll
	for (i = 0; i < TRIES; i++) {
		found = pick_once(ctx, asked, key, state, pick);
		if (found != CHANGED)
			return found;
	}
	return CHANGED;
}

/* ---- what a socket remembers ---- */

static __always_inline int is_backend(const struct translation *one, const struct address *address, __be16 port)
{
	return one->backend_port && one->backend_port == port && same_address(&one->backend, address);
}

/*
 * What comes from an endpoint can only be told to come from one Service: from the one that the socket sent to last.
 */
static __always_inline void note_translation(struct socket_state *state, const struct service_key *asked,
					     const struct pick *pick)
{
	struct translation *to = NULL;
	int i;

#pragma unroll
	for (i = 0; i < TRANSLATIONS; i++) {
		struct translation *one = &state->translations[i];

		if (!to && is_backend(one, &pick->backend.address, pick->backend.port))
			to = one;
	}
	if (!to) {
		__u32 next = state->next % TRANSLATIONS;

		to = &state->translations[next];
		state->next = next + 1;
	}
	to->backend_port = 0;
	to->frontend = asked->address;
	to->frontend_port = asked->port;
	to->service = pick->service.id;
	to->endpoint = pick->backend.endpoint;
	to->backend = pick->backend.address;
	to->backend_port = pick->backend.port;
}

/* A socket that turns to an endpoint itself hears from the endpoint, not from the Service it used before. */
static __always_inline void forget_translation(struct bpf_sock *sk, const struct address *address, __be16 port)
{
	struct socket_state *state;
	int i;

	state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!state)
		return;
#pragma unroll
	for (i = 0; i < TRANSLATIONS; i++) {
		if (is_backend(&state->translations[i], address, port))
			state->translations[i].backend_port = 0;
	}
}

/*
 * Where a socket of family IPv6 is connected to an IPv4 address, the kernel sends as if the socket were not connected,
 * to the address that it is connected to: nobody chose that.
 */
static __always_inline int is_connected_to(struct bpf_sock *sk, const struct address *address, __be16 port)
{
	struct address remote;

	map_ipv4(&remote, sk->dst_ip4);
	return sk->dst_port == port && same_address(&remote, address);
}

/* ---- there and back ---- */

static __always_inline __u8 protocol_of(struct bpf_sock_addr *ctx)
{
	__u32 protocol = ctx->protocol;

	/* To the other side and to a Service it is TCP. */
	if (protocol == PROTOCOL_MPTCP)
		return IPPROTO_TCP;
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP ? protocol : 0;
}

/*
 * Puts an endpoint in the place of a Service. keep: the socket's own endpoint comes first.
 * Returns 0, or the error by which to refuse.
 */
static __always_inline int to_endpoint(struct bpf_sock_addr *ctx, struct address *address, __be16 *port, int keep)
{
	struct service_key asked = { .address = *address, .port = *port, .protocol = protocol_of(ctx) };
	struct service_key key = asked;
	struct bpf_sock *sk = ctx->sk;
	struct socket_state *state;
	struct pick pick = {};

	if (!key.protocol || !sk)
		return 0;
	if (!find_service(ctx, &key)) {
		if (!keep || !is_connected_to(sk, address, *port))
			forget_translation(sk, address, *port);
		return 0;
	}
	/* Without it, answers could not be told to come from the Service. */
	state = bpf_sk_storage_get(&sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state)
		return ENOBUFS;
	switch (pick_endpoint(ctx, &asked, &key, keep ? state : NULL, &pick)) {
	case NOTHING:
		return 0;
	case EMPTY:
		count(REFUSED);
		return ECONNREFUSED;
	case CHANGED:
		count(UNSETTLED);
		return ECONNREFUSED;
	case FOUND:
		break;
	}
	count(pick.kept ? KEPT : CHOSEN);
	if (pick.service.affinity_seconds)
		note_affinity(ctx, &pick);
	note_translation(state, &asked, &pick);
	*address = pick.backend.address;
	*port = pick.backend.port;
	return 0;
}

/* Puts the Service in the place of its endpoint. */
static __always_inline void to_service(struct bpf_sock_addr *ctx, struct address *address, __be16 *port)
{
	struct bpf_sock *sk = ctx->sk;
	struct socket_state *state;
	int i;

	if (!sk)
		return;
	state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!state)
		return;
#pragma unroll
	for (i = 0; i < TRANSLATIONS; i++) {
		struct translation *one = &state->translations[i];

		if (is_backend(one, address, *port)) {
			*address = one->frontend;
			*port = one->frontend_port;
			return;
		}
	}
}

/* ---- the programs ---- */

static __always_inline void read_ipv4(struct bpf_sock_addr *ctx, struct address *address, __be16 *port)
{
	map_ipv4(address, ctx->user_ip4);
	*port = (__be16)ctx->user_port;
}

static __always_inline void write_ipv4(struct bpf_sock_addr *ctx, const struct address *address, __be16 port)
{
	ctx->user_ip4 = address->word[3];
	ctx->user_port = port;
}

static __always_inline void read_ipv6(struct bpf_sock_addr *ctx, struct address *address, __be16 *port)
{
	address->word[0] = ctx->user_ip6[0];
	address->word[1] = ctx->user_ip6[1];
	address->word[2] = ctx->user_ip6[2];
	address->word[3] = ctx->user_ip6[3];
	*port = (__be16)ctx->user_port;
}

static __always_inline void write_ipv6(struct bpf_sock_addr *ctx, const struct address *address, __be16 port)
{
	ctx->user_ip6[0] = address->word[0];
	ctx->user_ip6[1] = address->word[1];
	ctx->user_ip6[2] = address->word[2];
	ctx->user_ip6[3] = address->word[3];
	ctx->user_port = port;
}

#define THERE(name, family, keep)                                                                              \
	SEC("cgroup/" #name)                                                                                   \
	int name(struct bpf_sock_addr *ctx)                                                                    \
	{                                                                                                      \
		struct address address;                                                                        \
		__be16 port;                                                                                   \
		int error;                                                                                     \
                                                                                                               \
		read_##family(ctx, &address, &port);                                                           \
		error = to_endpoint(ctx, &address, &port, keep);                                               \
		if (error)                                                                                     \
			return refuse(error);                                                                  \
		write_##family(ctx, &address, port);                                                           \
		return PROCEED;                                                                                \
	}

#define BACK(name, family)                                                                                     \
	SEC("cgroup/" #name)                                                                                   \
	int name(struct bpf_sock_addr *ctx)                                                                    \
	{                                                                                                      \
		struct address address;                                                                        \
		__be16 port;                                                                                   \
                                                                                                               \
		read_##family(ctx, &address, &port);                                                           \
		to_service(ctx, &address, &port);                                                              \
		write_##family(ctx, &address, port);                                                           \
		return PROCEED;                                                                                \
	}

THERE(connect4, ipv4, 0)
THERE(connect6, ipv6, 0)
THERE(sendmsg4, ipv4, 1)
THERE(sendmsg6, ipv6, 1)
BACK(recvmsg4, ipv4)
BACK(recvmsg6, ipv6)
BACK(getpeername4, ipv4)
BACK(getpeername6, ipv6)

/* Either of the two licences above. */
char _license[] SEC("license") = "Dual BSD/GPL";
