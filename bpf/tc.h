// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What a tc classifier answers.  Its context, struct __sk_buff, is bcc's: include/uapi/linux/bpf.h.
#pragma once

// TC_ACT_UNSPEC (clsact: the next filter, then the qdisc) and TCX_NEXT (the next program) are one number, so that one
// program serves both, and whatever else is attached there runs as it would without us.
#define NEXT (-1)
