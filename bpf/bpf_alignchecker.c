/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Never loaded. One variable of each type that crosses between C and Python, so that all of them
 * are in this object's BTF, where a test compares them with services/loader/layoutcheck.py.
 */

#include "lib/common.h"
#include "lib/drop.h"
#include "lib/endpoints.h"
#include "lib/packet.h"
#include "lib/policy.h"

#define ENABLE_CLUSTER
#include "lib/ipcache.h"

struct endpoint_key endpoint_key_layout;
struct endpoint_value endpoint_value_layout;
struct policy_key policy_key_layout;
struct policy_value policy_value_layout;
struct prefix_key prefix_key_layout;
struct metrics_key metrics_key_layout;
struct metrics_value metrics_value_layout;
struct conntrack_key conntrack_key_layout;
struct conntrack_value conntrack_value_layout;
struct ipcache_value ipcache_value_layout;
struct packet packet_layout;
enum drop_reason drop_reason_layout;
enum source_file source_file_layout;
enum event_type event_type_layout;
enum trace_point trace_point_layout;
enum conntrack_state conntrack_state_layout;
enum traffic_direction traffic_direction_layout;
enum address_family address_family_layout;
