/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Packets that the kernel frees without having delivered them, told as far as they are about pods.
 *
 * At the tracepoint skb:kfree_skb, by its arguments (a raw tracepoint), which needs no tracefs. For
 * bcc, which makes the maps of what stands in capitals. Where things lie (SKB_DEV, NET_INUM, …) is
 * defined in front of this text by drops_bcc.py, from the BTF of the running kernel.
 *
 * A packet is about a pod when it is in a pod's network namespace, at a pod's interface on the
 * node, or from or to a pod's address. Nothing that is read here is trusted: a pointer that leads
 * nowhere reads as nothing. What shares memory with skb->dev (a socket's queues keep other things
 * there) is told from a device by the number of its namespace.
 */

/* Shared with drops_bcc.py: RECORD. */
struct drop {
	u64 time;
	u64 location;
	/* IPv4: the first four bytes, the rest zero. */
	u64 source[2];
	u64 destination[2];
	u32 reason;
	/* inode of the network namespace, 0: not known. */
	u32 netns;
	u32 ifindex;
	u32 length;
	/* Network byte order. */
	u16 ethertype;
	u16 source_port;
	u16 destination_port;
	u16 cpu;
	/* 4, 6, or 0: no IP header was found. */
	u8 family;
	u8 protocol;
	/* Whether ports, or type and code, were found. */
	u8 has_ports;
	/* TCP: its flags. */
	u8 flags;
	char device[16];
	u32 padding;
};

struct address {
	u64 words[2];
};

BPF_HASH(addresses, struct address, u8, MAX_PODS * 2);
BPF_HASH(interfaces, u32, u8, MAX_PODS);
BPF_HASH(namespaces, u32, u8, MAX_PODS);
BPF_PERCPU_ARRAY(lost, u64, 1);
BPF_RINGBUF_OUTPUT(drops, RING_PAGES);

/* Namespaces are numbered from 0xf0000000 on (PROC_DYNAMIC_FIRST), the first ones a little below. */
#define NAMESPACES_FROM 0xefffff00

static inline u64 pointer_at(u64 address)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static inline u32 word_at(u64 address)
{
	u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static inline u16 half_at(u64 address)
{
	u16 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static inline u8 octet_at(u64 address)
{
	u8 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

/* Returns the number of the namespace that a pointer in a device or a socket leads to, or 0. */
static inline u32 namespace_at(u64 address)
{
	u64 net = pointer_at(address);
	u32 number = net ? word_at(net + NET_INUM) : 0;

	return number >= NAMESPACES_FROM ? number : 0;
}

static inline void read_place(struct drop *drop, u64 skb, u64 listener)
{
	u64 device = pointer_at(skb + SKB_DEV), sock = pointer_at(skb + SKB_SK);

	if (device)
		drop->netns = namespace_at(device + DEVICE_NET);
	if (drop->netns) {
		drop->ifindex = word_at(device + DEVICE_IFINDEX);
		bpf_probe_read_kernel(drop->device, sizeof(drop->device),
				      (void *)(device + DEVICE_NAME));
	} else if (listener) {
		drop->netns = namespace_at(listener + SOCK_NET);
	}
	if (!drop->netns && sock)
		drop->netns = namespace_at(sock + SOCK_NET);
}

static inline void read_ports(struct drop *drop, u64 l4)
{
	if (drop->protocol == 1 || drop->protocol == 58) {
		drop->destination_port = octet_at(l4) << 8;
		drop->flags = octet_at(l4 + 1);
		drop->has_ports = 1;
	} else if (drop->protocol == 6 || drop->protocol == 17 || drop->protocol == 132) {
		drop->source_port = half_at(l4);
		drop->destination_port = half_at(l4 + 2);
		drop->has_ports = 1;
		if (drop->protocol == 6)
			drop->flags = octet_at(l4 + 13);
	}
}

/* As many IPv6 extension headers are followed as podlane's own programs follow. */
#define EXTENSIONS 4

/* Follows IPv6's extension headers to the transport header. Returns 0 where there is none: in
 * fragments after the first. */
static inline u64 past_extensions(struct drop *drop, u64 at)
{
#pragma unroll
	for (int i = 0; i < EXTENSIONS; i++) {
		u8 kind = drop->protocol;

		/* Hop by hop, routing, destination options; fragment. */
		if (kind != 0 && kind != 43 && kind != 60 && kind != 44)
			return at;
		if (kind == 44 && half_at(at + 2) & 0xf8ff)
			return 0;
		drop->protocol = octet_at(at);
		at += kind == 44 ? 8 : (octet_at(at + 1) + 1) * 8;
	}
	return at;
}

static inline void read_headers(struct drop *drop, u64 skb)
{
	u64 l3 = pointer_at(skb + SKB_HEAD) + half_at(skb + SKB_NETWORK_HEADER);
	u8 first = octet_at(l3);
	u64 l4;

	drop->ethertype = half_at(skb + SKB_PROTOCOL);
	if (first >> 4 == 4 && (!drop->ethertype || drop->ethertype == 0x0008)) {
		drop->family = 4;
		drop->protocol = octet_at(l3 + 9);
		bpf_probe_read_kernel(drop->source, 4, (void *)(l3 + 12));
		bpf_probe_read_kernel(drop->destination, 4, (void *)(l3 + 16));
		/* Fragments after the first have no ports. */
		if (!(half_at(l3 + 6) & 0xff1f))
			read_ports(drop, l3 + (first & 15) * 4);
	} else if (first >> 4 == 6 && (!drop->ethertype || drop->ethertype == 0xdd86)) {
		drop->family = 6;
		drop->protocol = octet_at(l3 + 6);
		bpf_probe_read_kernel(drop->source, 16, (void *)(l3 + 8));
		bpf_probe_read_kernel(drop->destination, 16, (void *)(l3 + 24));
		l4 = past_extensions(drop, l3 + 40);
		if (l4)
			read_ports(drop, l4);
	}
}

static inline bool is_about_a_pod(struct drop *drop)
{
	struct address source = {}, destination = {};

	if (namespaces.lookup(&drop->netns))
		return true;
	if (drop->netns == NODE_NETNS && interfaces.lookup(&drop->ifindex))
		return true;
	if (!drop->family)
		return false;
	source.words[0] = drop->source[0];
	source.words[1] = drop->source[1];
	destination.words[0] = drop->destination[0];
	destination.words[1] = drop->destination[1];
	return addresses.lookup(&source) || addresses.lookup(&destination);
}

int dropped(struct bpf_raw_tracepoint_args *ctx)
{
	u64 skb = ctx->args[0];
	struct drop drop = {};
	u64 *count;
	u32 zero = 0;

	drop.location = ctx->args[1];
	drop.reason = ctx->args[2];
	read_place(&drop, skb, HAS_LISTENER ? ctx->args[3] : 0);
	read_headers(&drop, skb);
	if (!is_about_a_pod(&drop))
		return 0;
	drop.time = bpf_ktime_get_ns();
	drop.length = word_at(skb + SKB_LEN);
	drop.cpu = bpf_get_smp_processor_id();
	if (drops.ringbuf_output(&drop, sizeof(drop), 0)) {
		count = lost.lookup(&zero);
		if (count)
			*count += 1;
	}
	return 0;
}
