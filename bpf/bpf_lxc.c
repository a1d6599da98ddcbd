/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The programs of one endpoint.
 *
 * from_container: ingress of the node's end of the veth pair, everything that the pod sends.
 * policy: in podlane_call_policy[endpoint_id], tail-called by the source's from_container.
 * to_container: egress of the node's end, what the node's stack sends to the pod.
 *
 * A packet between two pods of this node runs from_container of the source and policy of the
 * destination, both in one go at the source's interface, and continues as received by the
 * destination's pod; the stack never sees it. Everything else that may leave the pod goes up the
 * node's stack. A TTL that ends here is the stack's too: it knows how to say "time exceeded".
 */

#include "lib/common.h"
#include "lib/endpoint_config.h"
#include "lib/drop.h"
#include "lib/endpoints.h"
#include "lib/l4.h"
#include "lib/policy.h"
#include "lib/l3.h"
#include "lib/arp.h"
#include "lib/nd.h"

/* Looks at an IPv4 packet of the pod. Returns 0 with `to` and the L4 words set, or a reason. */
static __always_inline int from_container_ipv4(struct __sk_buff *skb, struct endpoint_key *to)
{
	struct ethhdr *eth = packet_data(skb);
	struct iphdr *ip4 = (void *)(eth + 1);

	if (!endpoint_ipv4)
		return -DROP_UNKNOWN_L3;
	if ((void *)(ip4 + 1) > packet_end(skb) || ip4->version != 4 || ip4->ihl < 5)
		return -DROP_INVALID_PACKET;
	if (mac_is_group(eth->h_dest) || ipv4_is_group(ip4->daddr))
		return -DROP_LINK_LOCAL_NOISE;
#ifdef ENABLE_SOURCE_IP_VERIFICATION
	if (ip4->saddr != endpoint_ipv4)
		return -DROP_INVALID_SOURCE_IP;
#endif
	endpoint_key_ipv4(to, ip4->daddr);
	l4_find_ipv4(skb, ip4);
	return 0;
}

/* The same for IPv6 but for neighbour discovery, which is still to be told from the rest. */
static __always_inline int from_container_ipv6(struct __sk_buff *skb, struct endpoint_key *to)
{
	struct ipv6hdr *ip6 = packet_data(skb) + ETH_HLEN;

	if (!endpoint_has_ipv6())
		return -DROP_UNKNOWN_L3;
	if ((void *)(ip6 + 1) > packet_end(skb) || ip6->version != 6)
		return -DROP_INVALID_PACKET;
	if (ipv6_is_group(&ip6->daddr) || ipv6_is_link_local(&ip6->daddr))
		return -DROP_LINK_LOCAL_NOISE;
#ifdef ENABLE_SOURCE_IP_VERIFICATION
	if (!ipv6_equal(&ip6->saddr, &endpoint_ipv6))
		return -DROP_INVALID_SOURCE_IP;
#endif
	endpoint_key_ipv6(to, &ip6->daddr);
	return l4_find_ipv6(skb, ip6);
}

/* The packet may leave the pod if policy says so: to whom? */
static __always_inline int from_container_forward(struct __sk_buff *skb,
						  const struct endpoint_key *key)
{
	struct endpoint_value *to = endpoint_lookup(key);
	int verdict = policy_check(skb, to ? to->identity : IDENTITY_WORLD, DIRECTION_EGRESS);

	if (verdict)
		return verdict;
	if (to && !(to->flags & ENDPOINT_FLAG_HOST))
		return l3_deliver(skb, to);
#ifdef ENABLE_DEBUG
	bpf_printk("podlane: endpoint %d sends %d bytes to the stack", endpoint_id, skb->len);
#endif
	return TC_ACT_OK;
}

static __always_inline int from_container_verdict(struct __sk_buff *skb)
{
	struct endpoint_key to;
	struct ethhdr *eth;
	int verdict;

	packet_pull_headers(skb);
	eth = packet_data(skb);
	if ((void *)(eth + 1) > packet_end(skb))
		return -DROP_INVALID_PACKET;
	if (!mac_equal(eth->h_source, &pod_mac))
		return -DROP_INVALID_SOURCE_MAC;
	if (skb->vlan_present)
		return -DROP_UNKNOWN_L3;
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IPV6):
		if (nd_is(skb))
			return nd_from_container(skb);
		verdict = from_container_ipv6(skb, &to);
		break;
	case bpf_htons(ETH_P_IP):
		verdict = from_container_ipv4(skb, &to);
		break;
	case bpf_htons(ETH_P_ARP):
		return arp_from_container(skb);
	default:
		return -DROP_UNKNOWN_L3;
	}
	if (verdict)
		return verdict;
	l4_read(skb);
	return from_container_forward(skb, &to);
}

SEC("tc")
int from_container(struct __sk_buff *skb)
{
	int verdict = from_container_verdict(skb);

	return verdict < 0 ? drop(skb, verdict, DIRECTION_EGRESS) : verdict;
}

/* The packet has the pod's hardware addresses already; it enters the pod past any other queue. */
SEC("tc")
int policy(struct __sk_buff *skb)
{
	int verdict = policy_check(skb, skb->cb[CB_SOURCE_IDENTITY], DIRECTION_INGRESS);

	return verdict ? drop(skb, verdict, DIRECTION_INGRESS) : bpf_redirect_peer(host_ifindex, 0);
}

/*
 * Who sent what comes from the stack: the node itself, a pod of this node whose packet the stack
 * has routed (a translated service address), or the world. A source address alone proves nothing:
 * the packet must have entered the node at that endpoint's interface.
 */
static __always_inline __u32 stack_identity(const struct __sk_buff *skb,
					    const struct endpoint_key *source)
{
	struct endpoint_value *from;

	if (!skb->ingress_ifindex)
		return IDENTITY_HOST;
	from = endpoint_lookup(source);
	return from && from->ifindex == skb->ingress_ifindex ? from->identity : IDENTITY_WORLD;
}

static __always_inline int to_container_ipv4(struct __sk_buff *skb, struct endpoint_key *source)
{
	struct iphdr *ip4 = packet_data(skb) + ETH_HLEN;

	if ((void *)(ip4 + 1) > packet_end(skb))
		return -DROP_INVALID_PACKET;
	endpoint_key_ipv4(source, ip4->saddr);
	l4_find_ipv4(skb, ip4);
	return 0;
}

static __always_inline int to_container_ipv6(struct __sk_buff *skb, struct endpoint_key *source)
{
	struct ipv6hdr *ip6 = packet_data(skb) + ETH_HLEN;

	if ((void *)(ip6 + 1) > packet_end(skb))
		return -DROP_INVALID_PACKET;
	endpoint_key_ipv6(source, &ip6->saddr);
	return l4_find_ipv6(skb, ip6);
}

static __always_inline int to_container_verdict(struct __sk_buff *skb)
{
	struct endpoint_key source;
	int verdict;

	packet_pull_headers(skb);
	/* Whatever the policy, the node must be able to find the pod: ARP, ND. */
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (nd_is(skb))
			return TC_ACT_OK;
		verdict = to_container_ipv6(skb, &source);
	} else if (skb->protocol == bpf_htons(ETH_P_IP)) {
		verdict = to_container_ipv4(skb, &source);
	} else {
		return TC_ACT_OK;
	}
	if (verdict)
		return verdict;
	l4_read(skb);
	return policy_check(skb, stack_identity(skb, &source), DIRECTION_INGRESS);
}

SEC("tc")
int to_container(struct __sk_buff *skb)
{
	int verdict = to_container_verdict(skb);

	return verdict ? drop(skb, verdict, DIRECTION_INGRESS) : TC_ACT_OK;
}

/* Dual: bpf_printk() wants a GPL-compatible program. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
