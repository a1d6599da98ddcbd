/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who the endpoint is that these programs are attached to.
 *
 * What decides which branches can be taken (families, gateways, chaining) is constants in .rodata,
 * frozen before the load: the verifier knows their values, so a branch that an endpoint can't take
 * costs neither verification nor instructions. They are the same for most endpoints of a node.
 *
 * What tells one endpoint from another is variables in a map of each load's own, which programs only
 * read. So programs can be loaded before it is known whose they will be (services/loader/spares.py);
 * the map is written before anything is attached, and then no more. What changes the shape of the
 * code is a define instead: ep_config.h.
 *
 * Addresses are in network byte order. All zero: the endpoint has none of that family.
 */
#pragma once

#include <linux/if_packet.h>

#include "common.h"

#define ENDPOINT_VARIABLE const volatile SEC(".data.podlane_whose")

/* Slot in podlane_call_policy and key of the counters, 1-65535. */
ENDPOINT_VARIABLE __u32 endpoint_id = 0;
/* Security identity of the endpoint. */
ENDPOINT_VARIABLE __u32 endpoint_identity = 0;
ENDPOINT_VARIABLE __u32 host_ifindex = 0;
ENDPOINT_VARIABLE __be32 endpoint_ipv4 = 0;
ENDPOINT_VARIABLE union ipv6_address endpoint_ipv6 = {};
/* The pod's end of the veth pair. */
ENDPOINT_VARIABLE struct mac_address pod_mac = {};
/* The node's end, which is the pod's gateway on the link layer. */
ENDPOINT_VARIABLE struct mac_address host_mac = {};

/* Whether it has an address of the family: 0 or 1. */
const volatile __u32 endpoint_has_ipv4 = 0;
const volatile __u32 endpoint_has_ipv6 = 0;
/* The node's router addresses, which ARP and ND are answered for. */
const volatile __be32 gateway_ipv4 = 0;
const volatile union ipv6_address gateway_ipv6 = {};

/* Not 0: the interface is another CNI plugin's, which also routes or bridges what the pod sends and
 * is sent. The programs only decide whether it may. */
const volatile __u32 endpoint_chained = 0;

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
