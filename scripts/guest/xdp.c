/*
 * An XDP program on an interface that lets everything pass, as long as this runs: loaded as any other is, with no library.
 *
 * usage: xdp INTERFACE native|generic    goes on in the background until it is ended; 1 and the kernel's word for it
 *                                        where the driver takes none
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char said[4096];

static long bpf(int command, union bpf_attr *about)
{
    return syscall(SYS_bpf, command, about, sizeof *about);
}

static int fail(const char *what)
{
    fprintf(stderr, "xdp: %s: %s %s\n", what, strerror(errno), said);
    return 1;
}

int main(int argc, char **argv)
{
    static const struct bpf_insn pass[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr program = {0}, link = {0};
    int nothing = open("/dev/null", O_RDWR);

    if (argc != 3) {
        fputs("usage: xdp INTERFACE native|generic\n", stderr);
        return 2;
    }
    program.prog_type = BPF_PROG_TYPE_XDP;
    program.insns = (uintptr_t)pass;
    program.insn_cnt = 2;
    program.license = (uintptr_t)"GPL";
    program.log_buf = (uintptr_t)said;
    program.log_size = sizeof said;
    program.log_level = 1;
    long fd = bpf(BPF_PROG_LOAD, &program);
    if (fd < 0)
        return fail("the program is not loaded");
    link.link_create.prog_fd = (uint32_t)fd;
    link.link_create.target_ifindex = if_nametoindex(argv[1]);
    link.link_create.attach_type = BPF_XDP;
    link.link_create.flags = strcmp(argv[2], "native") ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE;
    if (bpf(BPF_LINK_CREATE, &link) < 0)
        return fail(argv[1]);
    if (fork())
        return 0;
    setsid();
    for (int i = 0; i < 3; i++)
        dup2(nothing, i);
    pause();
    return 0;
}
