"""From frames to the chains of a receiveq."""

def copy_level() -> str:
    """The CPU level in use for the copy: "plain", "avx2" or "avx512". FASTVHOST_CPU_LEVEL lowers it."""
