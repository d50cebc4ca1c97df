/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Map layouts of the joint, the twins of the types in crates/ebpf-maps/src/joint.rs. A change here is a change
 * there and raises LAYOUT_VERSION. Integers are in host byte order, addresses in network byte order.
 */
#ifndef KURYR_JOINT_H
#define KURYR_JOINT_H

#include <linux/types.h>

#include "address.h"

#define MAX_PODS 8192
#define MAX_POD_ADDRESSES 65536
#define MAX_NODE_ADDRESSES 512
#define MAX_WAYS 32768

/* Mark of packets on the straight way. */
#define STRAIGHT_MARK 0x6b750004

/* Bits of the values in shared_uplinks. */
#define PASS_UNTAGGED 1
#define PASS_UNKNOWN_VLANS 2
/* 4 is the loader's own note. */

struct uplink_key {
	__u32 uplink; /* interface index */
	__u32 vlan;   /* 0: untagged */
};

struct uplink_target {
	__u32 host_end; /* interface index */
	__u8 mac[6];
	__u8 pad[2];
};

struct pod {
	__u32 uplink; /* interface index */
	__u32 vlan;   /* 0: none */
	__u8 mac[6];
	__u8 host_mac[6];
};

struct pod_address {
	__u32 host_end; /* interface index */
	struct address address;
};

struct pod_counters {
	__u64 rx_packets;
	__u64 rx_bytes;
	__u64 tx_packets;
	__u64 tx_bytes;
	__u64 local_rx_packets;
	__u64 local_rx_bytes;
	__u64 local_tx_packets;
	__u64 local_tx_bytes;
	__u64 spoofed;
	__u64 refused;
	__u64 foreign;
};

/* A conversation of a pod with its node, or on the straight way with a client, who stands in the place of the node. */
struct way_key {
	__u32 host_end; /* interface index */
	struct address node;
	struct address pod;
	__u16 node_port; /* network byte order, as the other */
	__u16 pod_port;
	__u8 protocol; /* 0: later fragments of a datagram, whose id stands in the place of the ports */
	__u8 pad[3];
};

/* By whom the node's side of it came, if not by the local path; zeros: the straight way. */
struct way {
	__u8 router[6];
	__u8 pad[2];
};

_Static_assert(sizeof(struct uplink_key) == 8, "layout");
_Static_assert(__builtin_offsetof(struct uplink_key, vlan) == 4, "layout");
_Static_assert(sizeof(struct uplink_target) == 12, "layout");
_Static_assert(__builtin_offsetof(struct uplink_target, mac) == 4, "layout");
_Static_assert(sizeof(struct pod) == 20, "layout");
_Static_assert(__builtin_offsetof(struct pod, vlan) == 4, "layout");
_Static_assert(__builtin_offsetof(struct pod, mac) == 8, "layout");
_Static_assert(__builtin_offsetof(struct pod, host_mac) == 14, "layout");
_Static_assert(sizeof(struct pod_address) == 20, "layout");
_Static_assert(__builtin_offsetof(struct pod_address, address) == 4, "layout");
_Static_assert(sizeof(struct way_key) == 44, "layout");
_Static_assert(__builtin_offsetof(struct way_key, node_port) == 36, "layout");
_Static_assert(__builtin_offsetof(struct way_key, protocol) == 40, "layout");
_Static_assert(sizeof(struct way) == 8, "layout");
_Static_assert(sizeof(struct pod_counters) == 88, "layout");
_Static_assert(__builtin_offsetof(struct pod_counters, local_rx_packets) == 32, "layout");
_Static_assert(__builtin_offsetof(struct pod_counters, spoofed) == 64, "layout");
_Static_assert(__builtin_offsetof(struct pod_counters, foreign) == 80, "layout");

#endif
