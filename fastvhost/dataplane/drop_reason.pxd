"""Why a frame was dropped: one closed enum, the same words in counters, JSON and the command line."""


cdef enum DropReason:
    NO_RECEIVE_BUFFERS       # the egress guest posted no buffer in time
    RING_DISABLED            # the ring is stopped, disabled or broken
    BAD_DESCRIPTOR           # the chain breaks the rules of the ring: its queue is stopped
    OVERSIZE                 # longer than the receive buffers, or than any frame may be
    RUNT                     # shorter than a virtio-net header and an Ethernet header
    GSO_UNSUPPORTED          # segmentation or checksum asked for, which was not negotiated
    NO_EGRESS                # no wire leads on from this port
    LINK_DOWN                # the egress has no peer, or its interface is down or gone
    SAME_PORT                # its destination is where it came from
    RESERVED_ADDRESS         # for a bridge itself: 01-80-C2-00-00-00 to -0F (IEEE 802.1Q, 8.6.3)
    VLAN_DENIED              # a port has not its VLAN (802.1Q, 8.6.2 and 8.6.4), or its sender hides one: forward/tags
    SPOOFED_SOURCE           # its source is none of its port's addresses (macs)
    ISOLATED                 # its destination is of the same isolation group
    STORM                    # more frames for everybody than its port may send
    MIRROR_FULL              # a copy that the mirror port had no room for
    KERNEL_OVERRUN           # the host's kernel had to drop it before this port read it
    N_DROP_REASONS
