/* Written by podlane-loader: the switches of this endpoint. */
#pragma once
#define ENABLE_DEBUG
#define ENABLE_SOURCE_IP_VERIFICATION
#define ENABLE_ARP_RESPONDER
#define ENABLE_POLICY_ACCOUNTING
#define ENABLE_DROP_NOTIFY
/* ENABLE_TRACE is off */
/* ENABLE_POLICY_VERDICT is off */
#define ENABLE_CONNTRACK
