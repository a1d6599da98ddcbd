/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Connection tracking: who has opened a flow, and so which of its packets are replies.
 *
 * A flow has one entry for each endpoint of this node at its ends, and an entry one key, seen from
 * its endpoint: local and remote address and port. A packet in either direction finds it with one
 * lookup; whether it goes the way of the packet that opened the flow tells ESTABLISHED from REPLY.
 *
 *     NEW          no live entry; policy decides, and what it allows opens the flow
 *     ESTABLISHED  goes the way of the opener; passes while policy and peer are those that allowed
 *                  the flow, else policy decides again: a tightened policy denies the flow with its
 *                  next packet, and decides over each until one is allowed
 *     REPLY        goes the other way; passes, unless the flow was denied: then policy decides
 *     RELATED      an ICMP error that quotes a packet of a live flow; passes likewise
 *
 * The entry of a denied flow stays: it still says who opened the flow. Without it the other end's
 * next packet would open the flow anew, the other way round, and the denied ones would be replies.
 *
 * Policy has a revision, a number for the whole node that the loader raises when it has changed
 * maps of rules or of prefixes. An entry holds the one under which policy last allowed the flow, and
 * the peer's identity that it was asked about. The number is read before policy is asked: what is
 * decided while the maps change is noted under the old one, and so decided again. It needs loads in
 * the order in which they stand here, which x86 keeps. With ENABLE_POLICY_ACCOUNTING policy is asked
 * about each packet, or entries would count flows.
 *
 * An entry says when it expires and is dead from then on, whether or not anybody has removed it:
 * nothing depends on a sweep. A packet of its flow puts that off, at most once a second, because a
 * write takes the cache line away from the CPU that has the other direction.
 *
 * What opens a flow: any packet but ICMP replies, errors and fragments without ports. TCP that is
 * met in the middle (after a restart of tracking, or an entry that was pushed out) is picked up. A
 * SYN against the direction of the entry, or on one that is closing, is NEW: nobody gets past
 * policy by opening a flow where an old one was a reply.
 *
 * An answer goes back the way that the question came. What the stack has brought may have been
 * translated there (a published port, a service address), and only the stack can translate the
 * answer back; to the client it would be from somebody else. So the entry says whether the opener's
 * latest packet came from the stack, and answers, and errors about it, then go up the stack although
 * the client is a pod of this node or one that is tunnelled to.
 *
 * With ENABLE_FLOW_ACCOUNTING an entry counts each packet of its flow, by direction, as the skb is long:
 * atomically, because both directions may be under way, and one of them on several CPUs. What a dead
 * entry has counted goes over to the one that takes its place, so whoever sums up entries before they
 * are removed (services/loader/flowcounts.py) loses what was pushed out of a full map, and no more.
 *
 * Fragments after the first have no ports and are not tracked: policy decides over each, by entries
 * without ports. Of an ICMP echo the identifier is the port of the one who asks.
 */
#pragma once

#include "events.h"
#include "packet.h"

#ifdef ENABLE_CONNTRACK

#include <linux/in.h>

#include "parse.h"

#undef THIS_FILE
#define THIS_FILE SOURCE_CONNTRACK

/* All protocols share it: a flood of datagrams can push out idle connections, which are picked up
 * again as policy allows; half as much memory as two maps. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CONNTRACK_MAP_SIZE);
	__type(key, struct conntrack_key);
	__type(value, struct conntrack_value);
} podlane_conntrack SEC(".maps");

/* Policy's revision. A section of its own is a map of one value, which programs read in two
 * instructions, without a look-up. */
const volatile __u64 podlane_revision SEC(".data.podlane_revision");

/* In the place of what policy allowed. */
#define FLOW_DENIED 0

/* Entries hold its lower half beside the identity. What is lost: a flow that replies alone keep
 * alive over exactly 4,294,967,296 changes isn't asked about after them. */
#define REVISION_SHIFT 32

#define SECOND 1000000000ULL
#define OPENED_SHIFT 30

_Static_assert(sizeof(struct conntrack_value) <= sizeof(struct quoted), "has its memory");

/* Without a packet for as long an entry is dead. */
#define LIFETIME_ESTABLISHED (8000 * SECOND) /* TCP, answered and past its handshake */
#define LIFETIME_OTHER	     (60 * SECOND)   /* TCP before that, and everything else */
#define LIFETIME_CLOSING     (10 * SECOND)   /* TCP after a RST, or a FIN of both sides */

/* What was seen of one side of a flow: TCP_FIN, TCP_RST, and these. */
#define SEEN		 0x80
#define SEEN_FROM_STACK	 0x40 /* its latest packet */
#define SEEN_WITHOUT_SYN TCP_SYN

/* What a packet's key has for ports, and what else it is good for. */
#define FLOW_PORTS   1
#define FLOW_REQUEST 2 /* asks: the identifier of an echo is the source's port */
#define FLOW_REPLY   4 /* answers: it is the destination's */
#define FLOW_ERROR   8 /* quotes a packet of the flow that it is about */
#define FLOW_OPENS   16
#define FLOW_TRACKED 32

#define ICMP_REQUEST (FLOW_TRACKED | FLOW_OPENS | FLOW_REQUEST)
#define ICMP_REPLY   (FLOW_TRACKED | FLOW_REPLY)
#define ICMP_ERROR   (FLOW_TRACKED | FLOW_ERROR)

#define ICMP_OF_IPV6 256
/* Where the quoted packet begins behind an error's header. */
#define ICMP_QUOTE 8

/* By ICMP type, ICMPv6's from ICMP_OF_IPV6 on (RFC 792, RFC 4443). Others are not tracked. */
const __u8 icmp_flows[2 * ICMP_OF_IPV6] = {
	[0] = ICMP_REPLY,
	[3] = ICMP_ERROR, /* destination unreachable, fragmentation needed */
	[8] = ICMP_REQUEST,
	[11] = ICMP_ERROR,		 /* time exceeded */
	[12] = ICMP_ERROR,		 /* parameter problem */
	[ICMP_OF_IPV6 + 1] = ICMP_ERROR, /* destination unreachable */
	[ICMP_OF_IPV6 + 2] = ICMP_ERROR, /* packet too big */
	[ICMP_OF_IPV6 + 3] = ICMP_ERROR, /* time exceeded */
	[ICMP_OF_IPV6 + 4] = ICMP_ERROR, /* parameter problem */
	[ICMP_OF_IPV6 + 128] = ICMP_REQUEST,
	[ICMP_OF_IPV6 + 129] = ICMP_REPLY,
};

/* 1 for ICMP in IPv4 and ICMPv6 in IPv6, else 0: bit 5 of the protocol says which of the two. */
static __always_inline __u64 icmp_is_of_family(__u8 protocol, __u32 family)
{
	return ((protocol / 32 ^ family / FAMILY_IPV6) & 1) ^ 1;
}

static __always_inline __u64 flow_of(__u8 protocol, const struct l4_header *l4, __u32 family)
{
	const __u64 kind = protocol_kinds[protocol];

	if (kind & KIND_ICMP)
		return icmp_flows[l4->icmp_type | (protocol & 32) * (ICMP_OF_IPV6 / 32)] *
		       icmp_is_of_family(protocol, family);
	return FLOW_TRACKED | FLOW_OPENS | kind / KIND_PORTS;
}

/* Writes the key of a packet that leaves the endpoint (`out`) or enters it. */
static __always_inline void flow_write(struct packet *packet, __u64 flow, bool out,
				       const void *source, const void *destination,
				       const struct l4_header *l4)
{
	struct conntrack_key *key = &packet->flow;
	const __u64 ports = flow & FLOW_PORTS, request = flow / FLOW_REQUEST & 1,
		    reply = flow / FLOW_REPLY & 1, tracked = flow / FLOW_TRACKED & 1;
	const __be16 source_port = l4->source_port * ports + l4->icmp_id * request;
	const __be16 destination_port = l4->destination_port * ports + l4->icmp_id * reply;

	copy_16_octets(&key->local, out ? source : destination);
	copy_16_octets(&key->remote, out ? destination : source);
	key->local_port = out ? source_port : destination_port;
	key->remote_port = out ? destination_port : source_port;
	key->endpoint_id = packet->where.endpoint_id;
	/* Nothing is found under family 0: what isn't tracked has no ports, nor has an echo with the
	 * identifier 0. */
	key->family =
		(packet->source.family + (out ? request : reply) * CONNTRACK_ASKS) * tracked;
}

/* Brings addresses and protocol of the packet that an ICMP error quotes to packet->quoted. Returns
 * where its transport header is, 0 for nowhere. */
static __always_inline __u32 quoted_read(struct __sk_buff *skb, struct packet *packet)
{
	const __u32 offset = packet->l4_offset + ICMP_QUOTE;
	struct ipv6hdr *ip6 = &packet->quoted.ip6;
	struct iphdr *ip4 = &packet->quoted.ip4;

	if (packet->source.family == FAMILY_IPV6) {
		if (bpf_skb_load_bytes(skb, offset, ip6, sizeof(*ip6)) || ip6->version != 6)
			return 0;
		return offset + sizeof(*ip6);
	}
	if (bpf_skb_load_bytes(skb, offset, ip4, sizeof(*ip4)) || !ipv4_is_sound(ip4) ||
	    ip4->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET))
		return 0;
	address_write_ipv4(&ip6->saddr, ip4->saddr);
	address_write_ipv4(&ip6->daddr, ip4->daddr);
	ip6->nexthdr = ip4->protocol;
	return offset + ip4->ihl * 4;
}

/*
 * Finds the flow that an ICMP error is about: its packet went the other way. Returns whether it
 * quotes one that can be looked up. Errors go to whom they quote (RFC 1122, 3.2.2); one that goes
 * elsewhere has only learnt whose flow to name.
 */
static __always_inline bool flow_quoted(struct __sk_buff *skb, struct packet *packet,
					enum traffic_direction direction)
{
	struct quoted *quoted = &packet->quoted;
	const __u32 offset = quoted_read(skb, packet);
	__u64 flow;

	if (!offset || bpf_skb_load_bytes(skb, offset, &quoted->l4, L4_SHORTEST) ||
	    !ipv6_equal(&quoted->ip6.saddr, &packet->destination.address))
		return false;
	barrier();
	flow = flow_of(quoted->ip6.nexthdr, &quoted->l4, packet->source.family);
	packet->flow.protocol = quoted->ip6.nexthdr;
	flow_write(packet, flow, direction == DIRECTION_INGRESS, &quoted->ip6.saddr,
		   &quoted->ip6.daddr, &quoted->l4);
	return (flow & (FLOW_TRACKED | FLOW_ERROR)) == FLOW_TRACKED;
}

/* Whether one side has reset the connection, or both have ended it: 1 or 0. */
static __always_inline __u64 tcp_is_closing(__u64 one, __u64 other)
{
	return ((one | other) / TCP_RST | (one & other) / TCP_FIN) & 1;
}

/* Whether policy would say what it said when it last allowed the flow: 1 or 0. */
static __always_inline __u64 conntrack_is_allowed(const struct packet *packet,
						  const struct conntrack_value *entry)
{
#ifdef ENABLE_POLICY_ACCOUNTING
	return 0;
#else
	__u64 differs = entry->allowed ^ packet->allowed;

	barrier_var(differs);
	return (differs | -differs) >> 63 ^ 1;
#endif
}

/* Whether policy has allowed the flow the last time that it was asked: 1 or 0. */
static __always_inline __u64 conntrack_is_open(const struct conntrack_value *entry)
{
	__u64 peer = (__u32)entry->allowed;

	barrier_var(peer);
	return -peer >> 63;
}

/* What any packet shows of its side. */
static __always_inline __u64 seen_now(const struct packet *packet)
{
	return SEEN | packet->from_stack * SEEN_FROM_STACK;
}

/* What the packet's flow begins with, if it opens one: no quoted packet is looked at then. */
static __always_inline struct conntrack_value *conntrack_first(struct packet *packet)
{
	return (void *)&packet->quoted;
}

/* Counts a packet of a live flow that passes (1), not another (0). */
static __always_inline void conntrack_count(const struct __sk_buff *skb,
					    struct conntrack_value *entry,
					    enum traffic_direction direction, __u64 passes)
{
#ifdef ENABLE_FLOW_ACCOUNTING
	__sync_fetch_and_add(&entry->packets[direction - 1], passes);
	__sync_fetch_and_add(&entry->bytes[direction - 1], passes * skb->len);
#endif
}

#define CONNECTION_EVENT_SIZE (offsetof(struct packet, quoted) + sizeof(struct conntrack_value))

/* Tells what has become of a connection whose entry is where it begins. */
static __always_inline void connection_tell(const struct __sk_buff *skb, struct packet *packet,
					    enum connection_change change)
{
	packet->point = (enum trace_point)change;
	event_send_some(skb, packet, EVENT_CONNECTION, CONNECTION_EVENT_SIZE);
}

/* Tells of a connection's end: once, with what its entry says. */
static __always_inline void connection_ends(const struct __sk_buff *skb, struct packet *packet,
					    struct conntrack_value *entry)
{
#ifdef ENABLE_CONNECTION_EVENTS
	if (entry->told != CONNECTION_OPENED || !tcp_is_closing(entry->seen[0], entry->seen[1]))
		return;
	entry->told = CONNECTION_CLOSED;
	*conntrack_first(packet) = *entry;
	connection_tell(skb, packet, CONNECTION_CLOSED);
#endif
}

/* Notes a packet of a live flow. Returns false when it begins a new one instead. */
static __always_inline bool conntrack_follow(const struct __sk_buff *skb, struct packet *packet,
					     struct conntrack_value *entry, __u64 now,
					     enum traffic_direction direction)
{
	const __u64 reply = (entry->direction ^ direction) & 1;
	const __u64 flags = packet->flags, other = entry->seen[reply ^ 1];
	__u64 lifetime = LIFETIME_OTHER, passes;
	__u64 seen = (entry->seen[reply] & ~SEEN_FROM_STACK) | seen_now(packet);

	if (packet->protocol == IPPROTO_TCP) {
		if ((flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
		    (reply | tcp_is_closing(seen, other)))
			return false;
		seen |= (flags & (TCP_FIN | TCP_RST)) | (~flags & SEEN_WITHOUT_SYN);
		if ((seen | other) & SEEN_WITHOUT_SYN && (reply | (other & SEEN)))
			lifetime = LIFETIME_ESTABLISHED;
		if (tcp_is_closing(seen, other))
			lifetime = LIFETIME_CLOSING;
	}
	if (seen != entry->seen[reply])
		entry->seen[reply] = seen;
	if (now + lifetime - entry->expires > SECOND) /* also when it is less */
		entry->expires = now + lifetime;
	packet->conntrack = CONNTRACK_ESTABLISHED + reply;
	packet->opens &= reply ^ 1;
	packet->by_stack = reply * (other / SEEN_FROM_STACK & 1);
	passes = (reply & conntrack_is_open(entry)) | conntrack_is_allowed(packet, entry);
	packet->passes = passes;
	conntrack_count(skb, entry, direction, passes);
	connection_ends(skb, packet, entry);
	return true;
}

/* A flow goes on counting where a dead one with the same ends has stopped, or that one's last counts
 * would be lost whenever ends are used again before a sweep has come. */
static __always_inline void conntrack_count_from(struct packet *packet,
						 const struct conntrack_value *entry)
{
#ifdef ENABLE_FLOW_ACCOUNTING
	struct conntrack_value *first = conntrack_first(packet);

	first->packets[0] = entry ? entry->packets[0] : 0;
	first->packets[1] = entry ? entry->packets[1] : 0;
	first->bytes[0] = entry ? entry->bytes[0] : 0;
	first->bytes[1] = entry ? entry->bytes[1] : 0;
#endif
}

/* Finds out what the packet is to its flow, and whether that lets it pass. */
static __always_inline void conntrack_find(struct __sk_buff *skb, struct packet *packet,
					   __u32 peer, enum traffic_direction direction)
{
	const __u64 flow = flow_of(packet->protocol, &packet->l4, packet->source.family) *
			   packet->has_ports;
	struct conntrack_value *entry;
	__u64 now;

	packet->allowed = podlane_revision << REVISION_SHIFT | peer;
	packet->passes = 0;
	packet->conntrack = CONNTRACK_NEW;
	packet->opens = flow / FLOW_OPENS & 1;
	if (flow & FLOW_ERROR) {
		if (!flow_quoted(skb, packet, direction))
			return;
	} else {
		packet->flow.protocol = packet->protocol;
		flow_write(packet, flow, direction == DIRECTION_EGRESS, &packet->source.address,
			   &packet->destination.address, &packet->l4);
		conntrack_count_from(packet, NULL);
	}
	barrier();
	entry = bpf_map_lookup_elem(&podlane_conntrack, &packet->flow);
	if (!entry)
		return;
	now = bpf_ktime_get_coarse_ns();
	if (entry->expires > now) {
		if (flow & FLOW_ERROR) {
			packet->conntrack = CONNTRACK_RELATED;
			packet->by_stack = entry->seen[0] / SEEN_FROM_STACK & 1;
			packet->passes = conntrack_is_open(entry);
			return;
		}
		if (conntrack_follow(skb, packet, entry, now, direction))
			return;
	}
	conntrack_count_from(packet, entry);
}

/* Makes the entry of a flow that policy allows. Returns 0 or a refusal. */
static __always_inline int conntrack_open(const struct __sk_buff *skb, struct packet *packet,
					  enum traffic_direction direction)
{
	struct conntrack_value *first = conntrack_first(packet);
	__u64 now, seen = seen_now(packet); /* a word on the stack is written whole */

	if (packet->protocol == IPPROTO_TCP) {
		if (packet->flags & TCP_RST)
			return 0; /* the end of something that isn't known */
		seen |= (packet->flags & TCP_FIN) | (~packet->flags & SEEN_WITHOUT_SYN);
	}
	now = bpf_ktime_get_coarse_ns();
	first->expires = now + LIFETIME_OTHER;
	first->opened = now >> OPENED_SHIFT;
	first->allowed = packet->allowed;
	first->direction = direction;
	first->seen[0] = seen;
	first->seen[1] = 0;
	first->told = 0;
#ifdef ENABLE_CONNECTION_EVENTS
	first->told = CONNECTION_OPENED;
#endif
#ifdef ENABLE_FLOW_ACCOUNTING
	first->packets[direction - 1]++;
	first->bytes[direction - 1] += skb->len;
#else
	first->packets[0] = first->packets[1] = 0;
	first->bytes[0] = first->bytes[1] = 0;
#endif
	if (bpf_map_update_elem(&podlane_conntrack, &packet->flow, first, BPF_ANY))
		return refused(DROP_CONNTRACK_FULL);
#ifdef ENABLE_CONNECTION_EVENTS
	connection_tell(skb, packet, CONNECTION_OPENED);
#endif
	return 0;
}

/* Notes what policy said of a packet and so of its flow; not in an entry that has turned around
 * since. */
static __always_inline void conntrack_note(const struct __sk_buff *skb, const struct packet *packet,
					   enum traffic_direction direction, __u64 allows)
{
	struct conntrack_value *entry = bpf_map_lookup_elem(&podlane_conntrack, &packet->flow);

	if (!entry || entry->direction != direction)
		return;
	entry->allowed = packet->allowed;
	conntrack_count(skb, entry, direction, allows & 1);
}

/*
 * Draws the conclusion from what policy said about a packet. The verdict is written down and read
 * back, so that the verifier forgets which of the refusals it was: one way from here on, not four.
 */
static __always_inline int conntrack_conclude(const struct __sk_buff *skb, struct packet *packet,
					      int verdict, enum traffic_direction direction)
{
	__u64 allows;

	packet->verdict = verdict;
	barrier();
	/* All bits, or none: refusals are negative. */
	allows = ~((__s64)packet->verdict >> 63);
	barrier_var(allows);
	packet->allowed &= allows; /* or FLOW_DENIED */
	if (packet->conntrack == CONNTRACK_ESTABLISHED)
		conntrack_note(skb, packet, direction, allows);
	else if (packet->opens && !packet->verdict)
		return conntrack_open(skb, packet, direction);
	return packet->verdict;
}

#endif
