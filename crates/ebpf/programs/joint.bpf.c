// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The joint between pods and uplinks, a family of three programs:
 *
 *   uplink_in  ingress of an uplink            (uplink, VLAN) -> into the pod
 *   pod_out    ingress of a pod's host end     what the pod may send -> uplink, or on the local path -> node
 *   pod_in     egress of a pod's host end      packets that the node generated itself -> into the pod
 *
 * The rule everywhere: no entry, no passage.
 *
 * The local path is how the node and its own pods talk (health probes, for one) whatever security groups say. A
 * pod addresses it by the host end's hardware address, and only node addresses can be reached on it. What is
 * admitted carries local_mark; a netfilter rule drops whatever comes from host ends without it.
 *
 * The way back: what the node has translated for clients outside comes by the uplink, with an address of the node for
 * its source, and security groups have seen it. The pod answers an address that it has on the local path; such an
 * answer goes to the uplink, to the router that the question came from. So whoever filters sees both directions. What
 * counts is how the node's side of the conversation came last.
 *
 * The straight way: what the node has translated for clients outside and left them their addresses, to a pod whose security
 * groups let everything in. It comes through the node's stack with STRAIGHT_MARK, past the uplink, and the answer goes back
 * there with that mark, whatever hardware address the pod sends it to. Only for addresses in straight_pods, which the loader
 * looks after.
 *
 * Held reports: a host that gets an address of IPv6 reports twice to which multicast group that belongs, and each
 * report again within a second (RFC 3810). A virtual switch has to work out a way to every port of the network for each of
 * the four, while the pod's containers start on the same processors. Those of the pod's own addresses are held for a while,
 * and the agent makes one report in the pod's place.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "joint.h"

#define VLAN_ID_MASK 0x0fff
#define MAC_LEN 6

/* Only user space inserts, so nothing is allocated while packets pass. */
#define HASH(name, key_type, value_type, max)                                                                  \
	struct {                                                                                               \
		__uint(type, BPF_MAP_TYPE_HASH);                                                               \
		__uint(max_entries, max);                                                                      \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                          \
		__uint(pinning, LIBBPF_PIN_BY_NAME);                                                           \
		__type(key, key_type);                                                                         \
		__type(value, value_type);                                                                     \
	} name SEC(".maps")

HASH(uplinks, struct uplink_key, struct uplink_target, MAX_PODS);
HASH(shared_uplinks, __u32, __u32, MAX_PODS);
HASH(pods, __u32, struct pod, MAX_PODS);
HASH(pod_addresses, struct pod_address, __u32, MAX_POD_ADDRESSES);
HASH(node_addresses, struct address, __u32, MAX_NODE_ADDRESSES);
HASH(straight_pods, struct address, __u32, MAX_POD_ADDRESSES);
HASH(told_groups, struct pod_address, __u64, MAX_POD_ADDRESSES);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, MAX_PODS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct pod_counters);
} counters SEC(".maps");

/* The programs' own; whoever was not heard for longest goes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_WAYS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct way_key);
	__type(value, struct way);
} ways SEC(".maps");

/* Replaced by the loader. */
const volatile __u32 local_mark = 0x6b750001;

/* ---- counting ---- */

static __always_inline struct pod_counters *counters_of(__u32 host_end)
{
	return bpf_map_lookup_elem(&counters, &host_end);
}

/* A segmentation offload packet counts as the packets it stands for. */
static __always_inline __u64 packets_in(struct __sk_buff *skb)
{
	__u32 segments = skb->gso_segs;

	return segments ? segments : 1;
}

#define COUNT(host_end, field)                                                                                 \
	do {                                                                                                   \
		struct pod_counters *found = counters_of(host_end);                                            \
		if (found)                                                                                     \
			found->field += packets_in(skb);                                                       \
	} while (0)

#define COUNT_BYTES(host_end, packets, bytes)                                                                  \
	do {                                                                                                   \
		struct pod_counters *found = counters_of(host_end);                                            \
		if (found) {                                                                                   \
			found->packets += packets_in(skb);                                                     \
			found->bytes += skb->len;                                                              \
		}                                                                                              \
	} while (0)

/* ---- addresses ---- */

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5]));
}

static __always_inline int is_unspecified(const struct address *address)
{
	return !(address->word[0] | address->word[1] | address->word[2] | address->word[3]);
}

/* The link-local address that a host makes of its hardware address (RFC 4291, appendix A). */
static __always_inline int is_own_link_local(const struct address *address, const __u8 *mac)
{
	__u32 high = (__u32)(mac[0] ^ 2) << 24 | (__u32)mac[1] << 16 | (__u32)mac[2] << 8 | 0xff;
	__u32 low = 0xfeu << 24 | (__u32)mac[3] << 16 | (__u32)mac[4] << 8 | mac[5];

	return address->word[0] == bpf_htonl(0xfe800000) && !address->word[1] &&
	       address->word[2] == bpf_htonl(high) && address->word[3] == bpf_htonl(low);
}

static __always_inline int is_allowed(__u32 host_end, const struct address *address)
{
	struct pod_address key = { .host_end = host_end, .address = *address };

	return bpf_map_lookup_elem(&pod_addresses, &key) != NULL;
}

static __always_inline int is_node_address(const struct address *address)
{
	return bpf_map_lookup_elem(&node_addresses, address) != NULL;
}

static __always_inline int is_straight(const struct address *address)
{
	return bpf_map_lookup_elem(&straight_pods, address) != NULL;
}

/* ---- what a pod may send ---- */

enum verdict {
	ADMITTED,
	SPOOFED, /* says to be somebody else */
	REFUSED, /* nothing a pod has to send */
	HELD,    /* a report of what the agent tells in its place */
};

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[MAC_LEN];
	__u8 sender_ip[4];
	__u8 target_mac[MAC_LEN];
	__u8 target_ip[4];
};

static __always_inline enum verdict judge_arp(struct __sk_buff *skb, __u32 host_end, const struct pod *pod)
{
	struct address sender;
	struct arp arp;
	__u32 ipv4;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)) < 0)
		return REFUSED;
	if (arp.hardware != bpf_htons(1) || arp.protocol != bpf_htons(ETH_P_IP) || arp.hardware_len != MAC_LEN ||
	    arp.protocol_len != 4)
		return REFUSED;
	if (!same_mac(arp.sender_mac, pod->mac))
		return SPOOFED;
	__builtin_memcpy(&ipv4, arp.sender_ip, sizeof(ipv4));
	/* A probe for an address conflict has no sender address (RFC 5227) and changes nobody's cache. */
	if (!ipv4 && arp.operation == bpf_htons(1))
		return ADMITTED;
	map_ipv4(&sender, ipv4);
	return is_allowed(host_end, &sender) ? ADMITTED : SPOOFED;
}

#define IPV4_ADDRESSES (ETH_HLEN + 12)

static __always_inline enum verdict judge_ipv4(struct __sk_buff *skb, __u32 host_end, struct address *source,
					       struct address *destination)
{
	__u32 pair[2];

	if (bpf_skb_load_bytes(skb, IPV4_ADDRESSES, pair, sizeof(pair)) < 0)
		return REFUSED;
	map_ipv4(source, pair[0]);
	map_ipv4(destination, pair[1]);
	return is_allowed(host_end, source) ? ADMITTED : SPOOFED;
}

#define IPV6_HEADER 40
#define IPV6_NEXT_HEADER 6
#define IPV6_ADDRESSES (ETH_HLEN + 8)
#define NO_HEADER 255
/* More extension headers than this are nothing a pod has to send. */
#define MAX_EXTENSIONS 6
#define MAX_NDP_OPTIONS 4

#define ICMPV6_MLD_QUERY 130
#define ICMPV6_MLD_REPORT 131
#define ICMPV6_MLD_DONE 132
#define ICMPV6_ROUTER_SOLICITATION 133
#define ICMPV6_ROUTER_ADVERTISEMENT 134
#define ICMPV6_NEIGHBOUR_SOLICITATION 135
#define ICMPV6_NEIGHBOUR_ADVERTISEMENT 136
#define ICMPV6_REDIRECT 137
#define ICMPV6_MLD2_REPORT 143

#define OPTION_SOURCE_MAC 1
#define OPTION_TARGET_MAC 2

struct upper {
	__u8 header; /* NO_HEADER: none to look at, a later fragment */
	__u8 first;  /* of several fragments */
	__u32 offset;
	__u32 id; /* of the datagram, if this is a fragment of it */
};

/* Walks over the extension headers to the upper one, from an IPv6 header. */
static __always_inline int find_upper(struct __sk_buff *skb, __u32 ip, struct upper *upper)
{
	/* No such header is shorter. */
	__u8 start[8];
	__u8 next;
	int i;

	if (bpf_skb_load_bytes(skb, ip + IPV6_NEXT_HEADER, &next, sizeof(next)) < 0)
		return -1;
	upper->offset = ip + IPV6_HEADER;
#pragma unroll
	for (i = 0; i < MAX_EXTENSIONS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT) {
			upper->header = next;
			return 0;
		}
		if (bpf_skb_load_bytes(skb, upper->offset, start, sizeof(start)) < 0)
			return -1;
		if (next == IPPROTO_FRAGMENT) {
			__builtin_memcpy(&upper->id, start + 4, sizeof(upper->id));
			upper->first = start[3] & 1;
			if (start[2] | (start[3] & 0xf8)) {
				upper->header = NO_HEADER;
				return 0;
			}
			upper->offset += 8;
		} else {
			upper->offset += ((__u32)start[1] + 1) * 8;
		}
		next = start[0];
	}
	return -1;
}

/* Hardware addresses in neighbour discovery options must be the pod's, as those in ARP. */
static __always_inline enum verdict judge_ndp_options(struct __sk_buff *skb, const struct pod *pod, __u32 offset)
{
	struct {
		__u8 type;
		__u8 len; /* in units of 8 bytes */
		__u8 mac[MAC_LEN];
	} option;
	int i;

#pragma unroll
	for (i = 0; i < MAX_NDP_OPTIONS; i++) {
		if (bpf_skb_load_bytes(skb, offset, &option, sizeof(option)) < 0)
			return ADMITTED; /* no further option */
		if (!option.len)
			return REFUSED;
		if ((option.type == OPTION_SOURCE_MAC || option.type == OPTION_TARGET_MAC) &&
		    !same_mac(option.mac, pod->mac))
			return SPOOFED;
		offset += (__u32)option.len * 8;
	}
	return offset >= skb->len ? ADMITTED : REFUSED;
}

/* A report of more groups than this is not of a host that only got addresses. */
#define MAX_RECORDS 8
/* Of a record: the group is listened to from now on. Answers to questions have other types. */
#define CHANGE_TO_EXCLUDE 4

struct group_record {
	__u8 type;
	__u8 auxiliary_len;
	__be16 sources;
	struct address group;
};

/* Whether the agent tells the network that this pod listens to a group, and the pod's kernel need not do so now. */
static __always_inline int is_told(__u32 host_end, const struct group_record *record)
{
	struct pod_address key = { .host_end = host_end, .address = record->group };
	__u64 *until = bpf_map_lookup_elem(&told_groups, &key);

	return until && bpf_ktime_get_ns() < *until;
}

/* Whether a report (RFC 3810, section 5.2) is of nothing but groups of which the agent tells. */
static __always_inline int is_held(struct __sk_buff *skb, __u32 host_end, __u32 report)
{
	struct group_record record;
	__be16 records;
	int i;

	if (bpf_skb_load_bytes(skb, report + 6, &records, sizeof(records)) < 0)
		return 0;
	if (!records || bpf_ntohs(records) > MAX_RECORDS)
		return 0;
#pragma unroll
	for (i = 0; i < MAX_RECORDS; i++) {
		if (i >= bpf_ntohs(records))
			break;
		if (bpf_skb_load_bytes(skb, report + 8 + i * sizeof(record), &record, sizeof(record)) < 0)
			return 0;
		/* Nobody names sources for these groups, and with any the next record would be elsewhere. */
		if (record.type != CHANGE_TO_EXCLUDE || record.auxiliary_len || record.sources ||
		    !is_told(host_end, &record))
			return 0;
	}
	return 1;
}

static __always_inline enum verdict judge_icmpv6(struct __sk_buff *skb, __u32 host_end, const struct pod *pod,
						 __u8 type, __u32 offset)
{
	struct address target;

	switch (type) {
	case ICMPV6_ROUTER_ADVERTISEMENT:
	case ICMPV6_REDIRECT:
		return SPOOFED; /* a pod is no router */
	case ICMPV6_MLD_QUERY:
		return REFUSED;
	case ICMPV6_MLD2_REPORT:
		return is_held(skb, host_end, offset) ? HELD : ADMITTED;
	case ICMPV6_ROUTER_SOLICITATION:
		return judge_ndp_options(skb, pod, offset + 8);
	case ICMPV6_NEIGHBOUR_SOLICITATION:
		return judge_ndp_options(skb, pod, offset + 24);
	case ICMPV6_NEIGHBOUR_ADVERTISEMENT:
		if (bpf_skb_load_bytes(skb, offset + 8, &target, sizeof(target)) < 0)
			return REFUSED;
		if (!is_allowed(host_end, &target) && !is_own_link_local(&target, pod->mac))
			return SPOOFED;
		return judge_ndp_options(skb, pod, offset + 24);
	default:
		return ADMITTED;
	}
}

/* What a host sends before it has an address: duplicate address detection and its group memberships. */
static __always_inline int may_come_from_nowhere(__u8 type)
{
	return type == ICMPV6_NEIGHBOUR_SOLICITATION || type == ICMPV6_MLD_REPORT || type == ICMPV6_MLD_DONE ||
	       type == ICMPV6_MLD2_REPORT;
}

static __always_inline enum verdict judge_ipv6(struct __sk_buff *skb, __u32 host_end, const struct pod *pod,
					       struct address *source, struct address *destination)
{
	struct upper upper = {};
	struct address pair[2];
	__u8 type = 0;

	if (bpf_skb_load_bytes(skb, IPV6_ADDRESSES, pair, sizeof(pair)) < 0 || find_upper(skb, ETH_HLEN, &upper) < 0)
		return REFUSED;
	*source = pair[0];
	*destination = pair[1];
	if (upper.header == IPPROTO_ICMPV6 && bpf_skb_load_bytes(skb, upper.offset, &type, sizeof(type)) < 0)
		return REFUSED;
	if (is_unspecified(&pair[0])) {
		if (!may_come_from_nowhere(type))
			return SPOOFED;
	} else if (!is_allowed(host_end, &pair[0]) && !is_own_link_local(&pair[0], pod->mac)) {
		return SPOOFED;
	}
	if (upper.header != IPPROTO_ICMPV6)
		return ADMITTED;
	return judge_icmpv6(skb, host_end, pod, type, upper.offset);
}

/* ---- the way back ---- */

#define MORE_FRAGMENTS 0x2000
#define FRAGMENT_OFFSET 0x1fff

#define ICMP_DEST_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMPV6_FIRST_ERROR 1
#define ICMPV6_LAST_ERROR 4
/* Before the packet that an error is about. */
#define ICMP_HEADER 8

/* Whose conversation a packet is part of. */
struct ends {
	struct address source;
	struct address destination;
	__u16 ports[2]; /* source, destination */
	__u8 protocol;  /* 0: a later fragment, whose id stands in the place of the ports */
	__u8 first;     /* of several fragments */
	__u32 id;       /* of the datagram, if this is a fragment of it */
	__u32 offset;   /* of the upper header */
};

static __always_inline int read_ipv4(struct __sk_buff *skb, __u32 ip, struct ends *ends)
{
	struct iphdr header;
	__u16 fragment;

	if (bpf_skb_load_bytes(skb, ip, &header, sizeof(header)) < 0)
		return -1;
	map_ipv4(&ends->source, header.saddr);
	map_ipv4(&ends->destination, header.daddr);
	fragment = bpf_ntohs(header.frag_off);
	ends->id = header.id;
	ends->first = fragment == MORE_FRAGMENTS;
	ends->protocol = fragment & FRAGMENT_OFFSET ? 0 : header.protocol;
	ends->offset = ip + header.ihl * 4;
	return 0;
}

static __always_inline int read_ipv6(struct __sk_buff *skb, __u32 ip, struct ends *ends)
{
	struct upper upper = {};
	struct address pair[2];

	if (bpf_skb_load_bytes(skb, ip + 8, pair, sizeof(pair)) < 0 || find_upper(skb, ip, &upper) < 0)
		return -1;
	ends->source = pair[0];
	ends->destination = pair[1];
	ends->id = upper.id;
	ends->first = upper.first && upper.header != NO_HEADER;
	ends->protocol = upper.header == NO_HEADER ? 0 : upper.header;
	ends->offset = upper.offset;
	return 0;
}

static __always_inline int read_ends(struct __sk_buff *skb, int is_ipv4, __u32 ip, struct ends *ends)
{
	if ((is_ipv4 ? read_ipv4(skb, ip, ends) : read_ipv6(skb, ip, ends)) < 0)
		return -1;
	if (ends->protocol == IPPROTO_TCP || ends->protocol == IPPROTO_UDP)
		return bpf_skb_load_bytes(skb, ends->offset, ends->ports, sizeof(ends->ports));
	__builtin_memcpy(ends->ports, &ends->id, sizeof(ends->id));
	return 0;
}

/* Whether it is an error about a packet that was received. */
static __always_inline int is_error(struct __sk_buff *skb, int is_ipv4, const struct ends *ends)
{
	__u8 type;

	if (ends->protocol != (is_ipv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6) ||
	    bpf_skb_load_bytes(skb, ends->offset, &type, sizeof(type)) < 0)
		return 0;
	if (is_ipv4)
		return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
	return type >= ICMPV6_FIRST_ERROR && type <= ICMPV6_LAST_ERROR;
}

static __always_inline int has_ports(const struct ends *ends)
{
	return ends->protocol == IPPROTO_TCP || ends->protocol == IPPROTO_UDP || !ends->protocol;
}

/* Of what the node says. */
static __always_inline void key_of_node(__u32 host_end, const struct ends *ends, struct way_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->host_end = host_end;
	key->node = ends->source;
	key->pod = ends->destination;
	key->node_port = ends->ports[0];
	key->pod_port = ends->ports[1];
	key->protocol = ends->protocol;
}

/* Of what the pod says. A fragment's id is the same in both. */
static __always_inline void key_of_pod(__u32 host_end, const struct ends *ends, struct way_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->host_end = host_end;
	key->node = ends->destination;
	key->pod = ends->source;
	key->protocol = ends->protocol;
	if (ends->protocol) {
		key->node_port = ends->ports[1];
		key->pod_port = ends->ports[0];
	} else {
		key->node_port = ends->ports[0];
		key->pod_port = ends->ports[1];
	}
}

/* Whether a conversation goes the straight way. */
static __always_inline int goes_straight(const struct way *way)
{
	const __u8 *mac = way->router;

	return !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]);
}

static __always_inline void set_way(const struct way_key *key, const struct way *way)
{
	struct way *before = bpf_map_lookup_elem(&ways, key);

	if (!before || !same_mac(before->router, way->router))
		bpf_map_update_elem(&ways, key, way, BPF_ANY);
}

/*
 * Notes that the node speaks to a pod by its uplink; of fragments the first one tells. Who spoke to the pod by the straight
 * way, and now by the uplink, is answered by it.
 */
static __always_inline void note_way(struct __sk_buff *skb, __u32 host_end)
{
	struct ends ends = {};
	struct way way = {}, *before;
	struct way_key key;
	struct ethhdr eth;
	__u32 ipv4[2];
	int is_ipv4, is_node;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) < 0)
		return;
	is_ipv4 = eth.h_proto == bpf_htons(ETH_P_IP);
	if (is_ipv4) {
		if (bpf_skb_load_bytes(skb, IPV4_ADDRESSES, ipv4, sizeof(ipv4)) < 0)
			return;
		map_ipv4(&ends.source, ipv4[0]);
		map_ipv4(&ends.destination, ipv4[1]);
	} else if (eth.h_proto != bpf_htons(ETH_P_IPV6) ||
		   bpf_skb_load_bytes(skb, IPV6_ADDRESSES, &ends.source, 2 * sizeof(ends.source)) < 0) {
		return;
	}
	/* Nearly all of what arrives is nobody's of the node, and for nobody on the straight way. */
	is_node = is_node_address(&ends.source);
	if (!(is_node || is_straight(&ends.destination)) || read_ends(skb, is_ipv4, ETH_HLEN, &ends) < 0 ||
	    !ends.protocol || !has_ports(&ends))
		return;
	key_of_node(host_end, &ends, &key);
	if (is_node) {
		__builtin_memcpy(way.router, eth.h_source, MAC_LEN);
		set_way(&key, &way);
		return;
	}
	before = bpf_map_lookup_elem(&ways, &key);
	if (before && goes_straight(before))
		bpf_map_delete_elem(&ways, &key);
}

/* Notes that a client speaks to a pod by the straight way. */
static __always_inline void note_straight(struct __sk_buff *skb, __u32 host_end, int is_ipv4)
{
	struct ends ends = {};
	struct way way = {};
	struct way_key key;

	if (read_ends(skb, is_ipv4, ETH_HLEN, &ends) < 0 || !ends.protocol || !has_ports(&ends))
		return;
	key_of_node(host_end, &ends, &key);
	set_way(&key, &way);
}

/* Forgets it, as the node speaks to the pod by the local path. */
static __always_inline void forget_way(struct __sk_buff *skb, __u32 host_end, int is_ipv4)
{
	struct ends ends = {};
	struct way_key key;

	if (read_ends(skb, is_ipv4, ETH_HLEN, &ends) < 0 || !ends.protocol || !has_ports(&ends))
		return;
	key_of_node(host_end, &ends, &key);
	if (bpf_map_lookup_elem(&ways, &key))
		bpf_map_delete_elem(&ways, &key);
}

/* By whom a pod answers its node or a client on the straight way; none: not by such a way. */
static __always_inline struct way *way_back(struct __sk_buff *skb, __u32 host_end, int is_ipv4)
{
	struct ends ends = {}, about = {};
	struct way_key key;
	struct way *way;

	if (read_ends(skb, is_ipv4, ETH_HLEN, &ends) < 0)
		return NULL;
	if (is_error(skb, is_ipv4, &ends)) {
		if (read_ends(skb, is_ipv4, ends.offset + ICMP_HEADER, &about) < 0 || !about.protocol ||
		    !has_ports(&about))
			return NULL;
		key_of_node(host_end, &about, &key);
		return bpf_map_lookup_elem(&ways, &key);
	}
	if (!has_ports(&ends))
		return NULL;
	key_of_pod(host_end, &ends, &key);
	way = bpf_map_lookup_elem(&ways, &key);
	if (way && ends.first) {
		/* For those that follow, which have no ports. */
		struct way copy = *way;

		ends.protocol = 0;
		__builtin_memcpy(ends.ports, &ends.id, sizeof(ends.id));
		key_of_pod(host_end, &ends, &key);
		bpf_map_update_elem(&ways, &key, &copy, BPF_ANY);
	}
	return way;
}

/* ---- the programs ---- */

SEC("classifier")
int uplink_in(struct __sk_buff *skb)
{
	struct uplink_key key = { .uplink = skb->ifindex };
	struct uplink_target *target = NULL;
	__u8 destination[MAC_LEN];
	__u32 host_end, *shared;

	if (skb->vlan_present)
		key.vlan = skb->vlan_tci & VLAN_ID_MASK;
	/* Service tags are not Neutron's. */
	if (!skb->vlan_present || skb->vlan_proto == bpf_htons(ETH_P_8021Q))
		target = bpf_map_lookup_elem(&uplinks, &key);
	if (!target) {
		/* VLAN id 0 is a priority without a VLAN (IEEE 802.1Q, 9.6): such a frame counts as untagged. */
		int tagged = skb->vlan_present && (key.vlan || skb->vlan_proto != bpf_htons(ETH_P_8021Q));
		__u32 pass = tagged ? PASS_UNKNOWN_VLANS : PASS_UNTAGGED;

		shared = bpf_map_lookup_elem(&shared_uplinks, &key.uplink);
		return shared && *shared & pass ? TC_ACT_UNSPEC : TC_ACT_SHOT;
	}
	if (bpf_skb_load_bytes(skb, 0, destination, sizeof(destination)) < 0)
		return TC_ACT_SHOT;
	/* Handed over, the frame would count as addressed to the pod whatever its destination is. */
	if (!(destination[0] & 1) && !same_mac(destination, target->mac))
		return TC_ACT_SHOT;
	host_end = target->host_end;
	if (skb->vlan_present && bpf_skb_vlan_pop(skb) < 0)
		return TC_ACT_SHOT;
	/* The kernel judged by the uplink's hardware address, which may be another. */
	if (skb->pkt_type == PACKET_OTHERHOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	note_way(skb, host_end);
	COUNT_BYTES(host_end, rx_packets, rx_bytes);
	return bpf_redirect_peer(host_end, 0);
}

SEC("classifier")
int pod_out(struct __sk_buff *skb)
{
	__u32 host_end = skb->ifindex;
	struct address source = {}, destination = {};
	struct way *way = NULL;
	enum verdict verdict;
	__u32 uplink, vlan;
	int is_local;
	struct ethhdr eth;
	struct pod *pod;

	pod = bpf_map_lookup_elem(&pods, &host_end);
	if (!pod)
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) < 0)
		return TC_ACT_SHOT;
	if (!same_mac(eth.h_source, pod->mac))
		verdict = SPOOFED;
	else if (skb->vlan_present)
		verdict = REFUSED;
	else if (eth.h_proto == bpf_htons(ETH_P_IP))
		verdict = judge_ipv4(skb, host_end, &source, &destination);
	else if (eth.h_proto == bpf_htons(ETH_P_IPV6))
		verdict = judge_ipv6(skb, host_end, pod, &source, &destination);
	else if (eth.h_proto == bpf_htons(ETH_P_ARP))
		verdict = judge_arp(skb, host_end, pod);
	else
		verdict = REFUSED;

	is_local = same_mac(eth.h_dest, pod->host_mac);
	/* For ARP the addresses are unset, and no node or pod has that address. */
	if (verdict == ADMITTED && is_local && !is_node_address(&destination))
		verdict = REFUSED;
	if (verdict == ADMITTED && (is_local || is_straight(&source)))
		way = way_back(skb, host_end, eth.h_proto == bpf_htons(ETH_P_IP));
	if (verdict == ADMITTED && (way ? goes_straight(way) : is_local)) {
		skb->mark = way ? STRAIGHT_MARK : local_mark;
		/* On the straight way the pod has sent it to its router. */
		if (skb->pkt_type == PACKET_OTHERHOST)
			bpf_skb_change_type(skb, PACKET_HOST);
		COUNT_BYTES(host_end, local_tx_packets, local_tx_bytes);
		return TC_ACT_OK;
	}
	if (verdict == ADMITTED && is_local && way && bpf_skb_store_bytes(skb, 0, way->router, MAC_LEN, 0) < 0)
		return TC_ACT_SHOT;
	if (verdict == SPOOFED)
		COUNT(host_end, spoofed);
	if (verdict == REFUSED)
		COUNT(host_end, refused);
	if (verdict != ADMITTED)
		return TC_ACT_SHOT;

	COUNT_BYTES(host_end, tx_packets, tx_bytes);
	uplink = pod->uplink;
	vlan = pod->vlan;
	if (vlan && bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), vlan) < 0)
		return TC_ACT_SHOT;
	return bpf_redirect(uplink, 0);
}

/*
 * A packet whose socket is connected to another destination than the packet has been translated on its way. A
 * socket that is not connected does not tell.
 */
static __always_inline int is_translated(struct __sk_buff *skb, const struct address *destination, int ipv4)
{
	struct bpf_sock *sk = skb->sk;
	struct address remote;

	if (!sk)
		return 0;
	if (ipv4) {
		if (!sk->dst_ip4)
			return 0;
		map_ipv4(&remote, sk->dst_ip4);
	} else {
		remote.word[0] = sk->dst_ip6[0];
		remote.word[1] = sk->dst_ip6[1];
		remote.word[2] = sk->dst_ip6[2];
		remote.word[3] = sk->dst_ip6[3];
		if (is_unspecified(&remote))
			return 0;
	}
	return !same_address(&remote, destination);
}

SEC("classifier")
int pod_in(struct __sk_buff *skb)
{
	__u32 host_end = skb->ifindex;
	struct address pair[2];
	__u32 ipv4[2];
	__u8 group;
	int is_ipv4 = skb->protocol == bpf_htons(ETH_P_IP);

	if (!bpf_map_lookup_elem(&pods, &host_end))
		return TC_ACT_SHOT;
	/* What the node says to everybody on its links is not for pods, and not worth counting. */
	if (bpf_skb_load_bytes(skb, 0, &group, sizeof(group)) < 0 || group & 1)
		return TC_ACT_SHOT;
	if (is_ipv4) {
		if (bpf_skb_load_bytes(skb, IPV4_ADDRESSES, ipv4, sizeof(ipv4)) < 0)
			return TC_ACT_SHOT;
		map_ipv4(&pair[0], ipv4[0]);
		map_ipv4(&pair[1], ipv4[1]);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, IPV6_ADDRESSES, pair, sizeof(pair)) < 0)
			return TC_ACT_SHOT;
	} else {
		return TC_ACT_SHOT; /* neighbours are permanent on both ends: there is nothing to resolve */
	}
	/* What the node forwards came in by some interface; what it generates did not. */
	if (skb->ingress_ifindex && skb->mark == STRAIGHT_MARK && is_straight(&pair[1]) &&
	    is_allowed(host_end, &pair[1]) && !is_node_address(&pair[0])) {
		note_straight(skb, host_end, is_ipv4);
		COUNT_BYTES(host_end, local_rx_packets, local_rx_bytes);
		return TC_ACT_OK;
	}
	if (skb->ingress_ifindex || !is_node_address(&pair[0]) || is_translated(skb, &pair[1], is_ipv4)) {
		COUNT(host_end, foreign);
		return TC_ACT_SHOT;
	}
	forget_way(skb, host_end, is_ipv4);
	COUNT_BYTES(host_end, local_rx_packets, local_rx_bytes);
	return TC_ACT_OK;
}

/* Either of the two licences above. */
char _license[] SEC("license") = "Dual BSD/GPL";
