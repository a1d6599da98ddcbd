/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What bcc's own headers need of the kernel's, under every name that they ask for: integer types.
 *
 * bcc compiles inside the sources of the running kernel and gives up without them. kfree_skb.c asks
 * nothing of them (where things lie in the kernel it is told, from BTF), so no headers of a kernel
 * have to be installed, and none of another version are taken for this one's.
 */
#pragma once

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u8 u8;
typedef __s8 s8;
typedef __u16 u16;
typedef __s16 s16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;
typedef __u64 __aligned_u64 __attribute__((aligned(8)));
typedef __u16 __be16, __le16, __sum16;
typedef __u32 __be32, __le32, __wsum;
typedef __u64 __be64, __le64;
typedef unsigned long size_t, uintptr_t;
typedef _Bool bool;
typedef int pid_t;

#define true  1
#define false 0

#define CONFIG_BPF_SYSCALL	1
/* What rings are counted in; the kernel's own may be larger. */
#define PAGE_SIZE 4096
#define LINUX_VERSION_CODE	0
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
