"""What only vhost-user negotiates: protocol features, and the feature bit for them. vhost-user, "Protocol features"."""

from collections.abc import Mapping

from fastvhost.backend.features import (
    F_RING_RESET,
    NET_F_CTRL_VQ,
    NET_F_MQ,
    NET_F_STATUS,
    OFFERED_FEATURES,
    mask,
    names,
)
from fastvhost.vhostuser.net_config import PLAIN, DeviceSettings, is_told

MOST_PAIRS = 128
"""As many as a vring index of one byte allows."""
F_PROTOCOL_FEATURES = 30
"""A virtio feature bit: the front-end knows the requests for protocol features."""

PROTOCOL_F_MQ = 0
PROTOCOL_F_LOG_SHMFD = 1
PROTOCOL_F_REPLY_ACK = 3
PROTOCOL_F_MTU = 4
PROTOCOL_F_CONFIG = 9
PROTOCOL_F_RESET_DEVICE = 13
PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15
PROTOCOL_F_STATUS = 16

PROTOCOL_FEATURE_NAMES: Mapping[int, str] = {
    PROTOCOL_F_MQ: "MQ",
    PROTOCOL_F_LOG_SHMFD: "LOG_SHMFD",
    2: "RARP",
    PROTOCOL_F_REPLY_ACK: "REPLY_ACK",
    PROTOCOL_F_MTU: "MTU",
    5: "BACKEND_REQ",
    6: "CROSS_ENDIAN",
    7: "CRYPTO_SESSION",
    8: "PAGEFAULT",
    PROTOCOL_F_CONFIG: "CONFIG",
    10: "BACKEND_SEND_FD",
    11: "HOST_NOTIFIER",
    12: "INFLIGHT_SHMFD",
    PROTOCOL_F_RESET_DEVICE: "RESET_DEVICE",
    14: "INBAND_NOTIFICATIONS",
    PROTOCOL_F_CONFIGURE_MEM_SLOTS: "CONFIGURE_MEM_SLOTS",
    PROTOCOL_F_STATUS: "STATUS",
    17: "XEN_MMAP",
    18: "SHARED_OBJECT",
    19: "DEVICE_STATE",
}

ALWAYS_OFFERED = mask(
    PROTOCOL_F_REPLY_ACK,
    PROTOCOL_F_MTU,
    PROTOCOL_F_RESET_DEVICE,
    PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    PROTOCOL_F_STATUS,
)


def offered_features(queue_pairs: int, device: DeviceSettings = PLAIN) -> int:
    """The feature bits that a port offers. Not RING_RESET: over vhost-user QEMU does not tell the back-end of a reset.

    MQ wants CTRL_VQ (virtio 1.2, section 5.1.3.1). MAC where one is given, STATUS where CONFIG is.
    """
    own = mask(F_PROTOCOL_FEATURES) | (mask(NET_F_MQ, NET_F_CTRL_VQ) if queue_pairs > 1 else 0)
    own |= device.features | (mask(NET_F_STATUS) if is_told(device, queue_pairs) else 0)
    return OFFERED_FEATURES & ~mask(F_RING_RESET) | own


def offered_protocol_features(queue_pairs: int, device: DeviceSettings = PLAIN) -> int:
    """What GET_PROTOCOL_FEATURES answers for a port with so many queue pairs.

    MQ only where there are several pairs. The specification lets GET_QUEUE_NUM be read as a number of virtqueues, and
    front-ends that do so (user-mode Linux, Cloud Hypervisor) refuse a device of one pair that answers 1. Without MQ
    all front-ends assume one pair. CONFIG tells the number of pairs, MAC, MTU and link; see net_config.
    """
    several = mask(PROTOCOL_F_MQ) if queue_pairs > 1 else 0
    return ALWAYS_OFFERED | several | (mask(PROTOCOL_F_CONFIG) if is_told(device, queue_pairs) else 0)


def promised_pairs(queue_pairs: int) -> int:
    """What GET_QUEUE_NUM answers for a port with so many queue pairs; the port must have that many.

    For several pairs, it is enough also when read as a number of virtqueues, with the control queue.
    """
    return 1 if queue_pairs == 1 else min(2 * queue_pairs + 1, MOST_PAIRS)


def protocol_names(bits: int) -> list[str]:
    """Names of protocol feature bits, lowest first."""
    return names(bits, PROTOCOL_FEATURE_NAMES)
