"""Feature bits by name, and the bits offered over every protocol. Virtio 1.2, sections 5.1.3 and 6.

Only what is implemented is offered: an acknowledged bit is a promise.
"""

from collections.abc import Mapping

NET_F_CSUM = 0
NET_F_GUEST_CSUM = 1
NET_F_MTU = 3
NET_F_MAC = 5
NET_F_GUEST_TSO4 = 7
NET_F_GUEST_TSO6 = 8
NET_F_GUEST_ECN = 9
NET_F_HOST_TSO4 = 11
NET_F_HOST_TSO6 = 12
NET_F_HOST_ECN = 13
NET_F_MRG_RXBUF = 15
NET_F_STATUS = 16
NET_F_CTRL_VQ = 17
NET_F_MQ = 22
F_LOG_ALL = 26
F_ANY_LAYOUT = 27
F_INDIRECT_DESC = 28
F_EVENT_IDX = 29
F_VERSION_1 = 32
F_RING_PACKED = 34
F_IN_ORDER = 35
F_RING_RESET = 40
NET_F_GUEST_USO4 = 54
NET_F_GUEST_USO6 = 55
NET_F_HOST_USO = 56

STATUS_DRIVER_OK = 4
"""Virtio 1.2, section 2.1: the driver is set up and ready to drive the device."""

FEATURE_NAMES: Mapping[int, str] = {
    NET_F_CSUM: "CSUM",
    NET_F_GUEST_CSUM: "GUEST_CSUM",
    2: "CTRL_GUEST_OFFLOADS",
    NET_F_MTU: "MTU",
    NET_F_MAC: "MAC",
    6: "GSO",
    NET_F_GUEST_TSO4: "GUEST_TSO4",
    NET_F_GUEST_TSO6: "GUEST_TSO6",
    NET_F_GUEST_ECN: "GUEST_ECN",
    10: "GUEST_UFO",
    NET_F_HOST_TSO4: "HOST_TSO4",
    NET_F_HOST_TSO6: "HOST_TSO6",
    NET_F_HOST_ECN: "HOST_ECN",
    14: "HOST_UFO",
    NET_F_MRG_RXBUF: "MRG_RXBUF",
    NET_F_STATUS: "STATUS",
    NET_F_CTRL_VQ: "CTRL_VQ",
    18: "CTRL_RX",
    19: "CTRL_VLAN",
    20: "CTRL_RX_EXTRA",
    21: "GUEST_ANNOUNCE",
    NET_F_MQ: "MQ",
    23: "CTRL_MAC_ADDR",
    24: "NOTIFY_ON_EMPTY",
    F_LOG_ALL: "LOG_ALL",
    F_ANY_LAYOUT: "ANY_LAYOUT",
    F_INDIRECT_DESC: "INDIRECT_DESC",
    F_EVENT_IDX: "EVENT_IDX",
    30: "PROTOCOL_FEATURES",
    F_VERSION_1: "VERSION_1",
    33: "ACCESS_PLATFORM",
    F_RING_PACKED: "RING_PACKED",
    F_IN_ORDER: "IN_ORDER",
    36: "ORDER_PLATFORM",
    37: "SR_IOV",
    38: "NOTIFICATION_DATA",
    39: "NOTIF_CONFIG_DATA",
    F_RING_RESET: "RING_RESET",
    53: "NOTF_COAL",
    NET_F_GUEST_USO4: "GUEST_USO4",
    NET_F_GUEST_USO6: "GUEST_USO6",
    NET_F_HOST_USO: "HOST_USO",
    57: "HASH_REPORT",
    59: "GUEST_HDRLEN",
    60: "RSS",
    61: "RSC_EXT",
    62: "STANDBY",
    63: "SPEED_DUPLEX",
}


def mask(*bits: int) -> int:
    """The word in which these bits, by number, are set."""
    return sum(1 << bit for bit in set(bits))


OFFLOADS = mask(
    NET_F_CSUM,
    NET_F_GUEST_CSUM,
    NET_F_HOST_TSO4,
    NET_F_GUEST_TSO4,
    NET_F_HOST_TSO6,
    NET_F_GUEST_TSO6,
    NET_F_HOST_ECN,
    NET_F_GUEST_ECN,
    NET_F_HOST_USO,
    NET_F_GUEST_USO4,
    NET_F_GUEST_USO6,
)
"""What a guest may leave to its card, and what it may be given so. Not UFO: fragments, which no kernel sends today."""

REQUIRED: Mapping[int, tuple[int, ...]] = {
    NET_F_GUEST_TSO4: (NET_F_GUEST_CSUM,),
    NET_F_GUEST_TSO6: (NET_F_GUEST_CSUM,),
    NET_F_GUEST_USO4: (NET_F_GUEST_CSUM,),
    NET_F_GUEST_USO6: (NET_F_GUEST_CSUM,),
    NET_F_GUEST_ECN: (NET_F_GUEST_TSO4, NET_F_GUEST_TSO6),
    NET_F_HOST_TSO4: (NET_F_CSUM,),
    NET_F_HOST_TSO6: (NET_F_CSUM,),
    NET_F_HOST_USO: (NET_F_CSUM,),
    NET_F_HOST_ECN: (NET_F_HOST_TSO4, NET_F_HOST_TSO6),
}
"""Of which others an offload requires one. Virtio 1.2, section 5.1.3.1."""

OFFERED_FEATURES = OFFLOADS | mask(
    NET_F_MTU,
    NET_F_MRG_RXBUF,
    F_ANY_LAYOUT,
    F_INDIRECT_DESC,
    F_EVENT_IDX,
    F_VERSION_1,
    F_RING_PACKED,
    F_IN_ORDER,
    F_RING_RESET,
)
"""vhostuser and vhostcuse add bits of their own.

IN_ORDER is kept by construction: chains are completed in the order in which they were taken, dropped ones too.
RING_RESET needs nothing of its own: a front-end resets a ring by GET_VRING_BASE and sets it up again.
"""


def with_what_requires(bits: int) -> int:
    """These bits, and those of OFFLOADS that must not be offered without them."""
    for bit, required in REQUIRED.items():
        if not mask(*required) & ~bits:
            bits |= 1 << bit
    return bits


def has(bits: int, bit: int) -> bool:
    """Whether a bit, by number, is set."""
    return bool(bits >> bit & 1)


def names(bits: int, table: Mapping[int, str] = FEATURE_NAMES) -> list[str]:
    """Names of feature bits, lowest first."""
    return [table.get(bit, f"bit {bit}") for bit in range(bits.bit_length()) if has(bits, bit)]
