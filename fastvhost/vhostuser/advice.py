"""What to tell an operator, with lines to paste. Each sentence names the cause and the remedy, in one line."""

SHARE = (
    "share the guest's memory: QEMU -object memory-backend-memfd,id=m0,size=1G,share=on -machine memory-backend=m0; "
    "libvirt <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
)


def _qemu(path: str, chardev: str) -> str:
    return (
        f"QEMU -chardev socket,id=c0,path={path},{chardev} -netdev vhost-user,id=n0,chardev=c0 "
        "-device virtio-net-pci,netdev=n0"
    )


def nobody_connects(path: str, permissions: str) -> str:
    """A listening socket to which no front-end comes."""
    return f"nobody connects; a guest needs {_qemu(path, 'reconnect=1')}, and its user write permission ({permissions})"


def nobody_listens(path: str, reason: str) -> str:
    """A path on which no front-end listens."""
    return f"cannot connect yet ({reason}), trying on; a guest needs {_qemu(path, 'server=on,wait=off')}"


NO_WORD = "connected, but the peer says nothing; is it a vhost-user front-end, and is it running?"

NO_DRIVER = "no driver yet: the guest is still booting, or has none for virtio-net (in the guest: modprobe virtio_net)"

MEMORY_NOT_SHARED = f"features came but no memory, so it is probably not shared; {SHARE}"

NOT_STARTED = "the driver has not started its device yet"

NO_RINGS = "no ring was started yet: the guest is still booting, or its driver is not loaded (modprobe virtio_net)"

NOT_ENABLED = "rings are set up but not enabled: the driver has not started its device yet"

PRIVATE_MEMORY = f"the guest kicks but its rings look empty: its memory is probably a private mapping; {SHARE}"

NO_BUFFERS = "no buffer in any ring yet: the interface is probably down (in the guest: ip link set eth0 up)"

NO_PACKET = "no packet from the guest yet; it has posted receive buffers, so it just has nothing to send"
