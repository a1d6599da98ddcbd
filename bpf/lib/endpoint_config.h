/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who the endpoint is that these programs are attached to: constants in .rodata, which the loader
 * sets before each load. The verifier knows their values, so a branch that an endpoint can't take
 * (no IPv6 address, no gateway) costs neither verification nor instructions. What changes the shape
 * of the code is a define instead: ep_config.h.
 *
 * Addresses are in network byte order. All zero: the endpoint has none of that family.
 */
#pragma once

#include <linux/if_packet.h>

#include "common.h"

/* Slot in podlane_call_policy and key of the counters, 1-65535. */
const volatile __u32 endpoint_id = 0;
/* Security identity of the endpoint. */
const volatile __u32 endpoint_identity = 0;
const volatile __be32 endpoint_ipv4 = 0;
const volatile union ipv6_address endpoint_ipv6 = {};
/* The pod's end of the veth pair. */
const volatile struct mac_address pod_mac = {};
/* The node's end, which is the pod's gateway on the link layer. */
const volatile struct mac_address host_mac = {};
const volatile __u32 host_ifindex = 0;
/* The node's router addresses, which ARP and ND are answered for. */
const volatile __be32 gateway_ipv4 = 0;
const volatile union ipv6_address gateway_ipv6 = {};

/* Not 0: the interface is another CNI plugin's, which also routes or bridges what the pod sends and
 * is sent. The programs only decide whether it may. */
const volatile __u32 endpoint_chained = 0;

static __always_inline bool endpoint_has_ipv6(void)
{
	return !ipv6_is_unspecified(&endpoint_ipv6);
}

/*
 * Sends a packet of the pod, made into its answer, back as received by the pod: past the pod's own
 * queue and past to_container. The question may have been a multicast; the pod's stack looks at the
 * type, not at the address.
 */
static __always_inline int answer_pod(struct __sk_buff *skb)
{
	bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(host_ifindex, 0);
}
