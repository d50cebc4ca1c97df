// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * An iterator over what sockets remember of Services: for each socket its cookie and its value, one after the other.
 * It sees the sockets of all network namespaces, and only those that a program for Services has brought somewhere.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "service.h"

struct seq_file;
struct bpf_map;
struct sock;

/* The first field of the kernel's structure of this name. */
struct bpf_iter_meta {
	struct seq_file *seq;
};

/* What the kernel gives to iterators over a socket storage (net/core/bpf_sk_storage.c). */
struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	struct socket_state *value;
};

SEC("iter/bpf_sk_storage_map")
int remembered(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct socket_state *value = ctx->value;
	struct seq_file *seq = ctx->meta->seq;
	struct sock *sk = ctx->sk;
	__u64 cookie;

	/* After the last one. */
	if (!sk || !value)
		return 0;
	cookie = bpf_get_socket_cookie(sk);
	/* What does not fit is asked for again by the kernel. */
	bpf_seq_write(seq, &cookie, sizeof(cookie));
	bpf_seq_write(seq, value, sizeof(*value));
	return 0;
}

/* Either of the two licences above. */
char _license[] SEC("license") = "Dual BSD/GPL";
