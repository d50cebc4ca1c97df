/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Map layouts of Services, the twins of the types in crates/ebpf-maps/src/service.rs. A change here is a change
 * there and raises SERVICE_LAYOUT_VERSION. Integers are in host byte order, addresses and ports in network byte
 * order.
 */
#ifndef KURYR_SERVICE_H
#define KURYR_SERVICE_H

#include <linux/types.h>

#include "address.h"

#define MAX_SERVICES 65536
#define MAX_ROWS 131072
#define MAX_MEMBERS 131072
#define MAX_NODES 32768
#define MAX_AFFINITIES 32768

/* Backends in an entry. An entry of so many is 192 bytes of the kernel's, one of a single backend 96. */
#define ROW 5

/* Where clients send to. */
struct service_key {
	struct address address;
	__be16 port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 scope; /* what the address stands for */
};

/* What the address of a service_key stands for. */
enum scope {
	SCOPE_ADDRESS,	/* itself */
	SCOPE_NODES,	/* every address of every node, of the family of the unspecified address that stands there */
	SCOPE_OWN_NODE, /* the same of this node only */
	SCOPE_LOOPBACK, /* the loopback address of the family, for the node's own processes only */
	SCOPE_OTHER_NODE, /* itself, an address of another node, for all but the node's own processes */
	SCOPE_OWN_NODE_HOST, /* as SCOPE_OWN_NODE, before it and for the node's own processes only */
};

/* Whose an address of a node is. */
enum node_kind {
	OTHER_NODE,
	OWN_NODE,
	LOOPBACK,
};

struct node_key {
	struct address address;
};

/* Keys of one id and generation lead to the same backends. */
struct service {
	__u32 id;
	__u32 generation; /* of its backends */
	__u32 count;	  /* of its backends; 0: refuse */
	__u32 affinity_seconds; /* 0: none */
};

/* Where the backends in slots row * ROW to row * ROW + ROW - 1 are. */
struct row_key {
	__u32 service;
	__u32 generation;
	__u32 row;
};

struct backend {
	struct address address;
	__be16 port;
	__u16 pad;
	__u32 endpoint; /* number within the service, 0: no backend; the same in every generation */
};

struct row {
	struct backend backends[ROW];
};

/* Tells the slot of an endpoint. Only of services whose clients keep their endpoint. */
struct member_key {
	__u32 service;
	__u32 generation;
	__u32 endpoint;
};

/* Which endpoint a network namespace used last. */
struct affinity_key {
	__u64 netns; /* the kernel's cookie */
	__u32 service;
	__u32 pad;
};

struct affinity {
	__u64 used_ns; /* CLOCK_MONOTONIC */
	__u32 endpoint;
	__u32 pad;
};

/* What a socket sends to in the place of what it asked for. */
struct translation {
	struct address frontend;
	struct address backend;
	__be16 frontend_port;
	__be16 backend_port; /* 0: unused */
	__u32 service;
	__u32 endpoint;
};

/*
 * A socket that is not connected may talk to several Services, and hear from an endpoint that it left. A resolver
 * asks up to three servers by one socket.
 */
#define TRANSLATIONS 4

struct socket_state {
	struct translation translations[TRANSLATIONS];
	__u32 next; /* the one that is given up first */
};

/* Indexes of the counters. */
enum outcome {
	CHOSEN,	   /* an endpoint was chosen */
	KEPT,	   /* the endpoint of the socket or of the client was used again */
	REFUSED,   /* there is no endpoint */
	UNSETTLED, /* the tables changed during every try */
	OUTCOMES,
};

_Static_assert(sizeof(struct service_key) == 20, "layout");
_Static_assert(__builtin_offsetof(struct service_key, port) == 16, "layout");
_Static_assert(__builtin_offsetof(struct service_key, protocol) == 18, "layout");
_Static_assert(__builtin_offsetof(struct service_key, scope) == 19, "layout");
_Static_assert(sizeof(struct node_key) == 16, "layout");
_Static_assert(sizeof(struct service) == 16, "layout");
_Static_assert(__builtin_offsetof(struct service, generation) == 4, "layout");
_Static_assert(__builtin_offsetof(struct service, count) == 8, "layout");
_Static_assert(__builtin_offsetof(struct service, affinity_seconds) == 12, "layout");
_Static_assert(sizeof(struct row_key) == 12, "layout");
_Static_assert(__builtin_offsetof(struct row_key, row) == 8, "layout");
_Static_assert(sizeof(struct backend) == 24, "layout");
_Static_assert(__builtin_offsetof(struct backend, port) == 16, "layout");
_Static_assert(__builtin_offsetof(struct backend, endpoint) == 20, "layout");
_Static_assert(sizeof(struct row) == 120, "layout");
_Static_assert(sizeof(struct member_key) == 12, "layout");
_Static_assert(__builtin_offsetof(struct member_key, endpoint) == 8, "layout");
_Static_assert(sizeof(struct affinity_key) == 16, "layout");
_Static_assert(sizeof(struct affinity) == 16, "layout");
_Static_assert(sizeof(struct socket_state) == 180, "layout");

#endif
