/* The XDP program that hands an interface's frames to AF_XDP sockets, and what loads it. bpf(2); Linux, af_xdp.rst.
 *
 * The program has six instructions, so it needs neither a compiler for BPF nor a library. It looks up the socket of the
 * queue that a frame came on, and lets the frame pass to the host's stack where the map has none. It is attached by a
 * link: the kernel detaches it when the last descriptor of the link is closed, also when a process is killed.
 */
#ifndef FASTVHOST_REDIRECT_H
#define FASTVHOST_REDIRECT_H

#include <linux/bpf.h>
#include <linux/if_link.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* All of these return a descriptor or 0, and -1 with errno. */
static inline int redirect_call(int command, union bpf_attr *attributes)
{
    return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

static inline int redirect_make_map(uint32_t queues)
{
    union bpf_attr asked;
    memset(&asked, 0, sizeof asked);
    asked.map_type = BPF_MAP_TYPE_XSKMAP;
    asked.key_size = asked.value_size = sizeof(uint32_t);
    asked.max_entries = queues;
    return redirect_call(BPF_MAP_CREATE, &asked);
}

static inline int redirect_load(int map)
{
    const struct bpf_insn program[] = {
        /* r2 = context->rx_queue_index */
        {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 2, .src_reg = 1, .off = offsetof(struct xdp_md, rx_queue_index)},
        /* r1 = map, in two instructions */
        {.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = map},
        {.code = 0},
        /* return bpf_redirect_map(r1, r2, XDP_PASS) */
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = XDP_PASS},
        {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr asked;
    memset(&asked, 0, sizeof asked);
    asked.prog_type = BPF_PROG_TYPE_XDP;
    asked.expected_attach_type = BPF_XDP;
    asked.insns = (uint64_t)(uintptr_t)program;
    asked.insn_cnt = sizeof program / sizeof *program;
    asked.license = (uint64_t)(uintptr_t) "Apache-2.0";
    memcpy(asked.prog_name, "fastvhost", sizeof "fastvhost");
    return redirect_call(BPF_PROG_LOAD, &asked);
}

static inline int redirect_attach(int program, int interface_index, int native)
{
    union bpf_attr asked;
    memset(&asked, 0, sizeof asked);
    asked.link_create.prog_fd = (uint32_t)program;
    asked.link_create.target_ifindex = (uint32_t)interface_index;
    asked.link_create.attach_type = BPF_XDP;
    asked.link_create.flags = native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE;
    return redirect_call(BPF_LINK_CREATE, &asked);
}

static inline int redirect_steer(int map, uint32_t queue, int socket)
{
    union bpf_attr asked;
    uint32_t value = (uint32_t)socket;
    memset(&asked, 0, sizeof asked);
    asked.map_fd = (uint32_t)map;
    asked.key = (uint64_t)(uintptr_t)&queue;
    asked.value = (uint64_t)(uintptr_t)&value;
    return redirect_call(BPF_MAP_UPDATE_ELEM, &asked);
}

#endif
