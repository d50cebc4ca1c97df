/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Addresses of both families in one form: 16 bytes in network byte order, IPv4 as ::ffff:a.b.c.d.
 */
#ifndef KURYR_ADDRESS_H
#define KURYR_ADDRESS_H

#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct address {
	__u32 word[4];
};

static __always_inline void map_ipv4(struct address *to, __u32 ipv4)
{
	to->word[0] = 0;
	to->word[1] = 0;
	to->word[2] = bpf_htonl(0xffff);
	to->word[3] = ipv4;
}

static __always_inline int is_ipv4(const struct address *one)
{
	return !(one->word[0] | one->word[1]) && one->word[2] == bpf_htonl(0xffff);
}

/* Makes it the unspecified address of its family. */
static __always_inline void unspecify(struct address *one)
{
	if (!is_ipv4(one))
		one->word[0] = one->word[1] = one->word[2] = 0;
	one->word[3] = 0;
}

static __always_inline int same_address(const struct address *a, const struct address *b)
{
	return !((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) |
		 (a->word[3] ^ b->word[3]));
}

#endif
