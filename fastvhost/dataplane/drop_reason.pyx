"""The names of the drop reasons, for counters, JSON and the command line."""

from fastvhost.dataplane.drop_reason cimport N_DROP_REASONS

NAMES = (
    "no_receive_buffers",
    "ring_disabled",
    "bad_descriptor",
    "oversize",
    "runt",
    "gso_unsupported",
    "no_egress",
    "link_down",
    "same_port",
    "reserved_address",
    "vlan_denied",
    "spoofed_source",
    "isolated",
    "storm",
    "mirror_full",
    "kernel_overrun",
)
if len(NAMES) != N_DROP_REASONS:
    raise ImportError("drop_reason: NAMES and the enum DropReason differ")
