"""Numbers of bytes as text for people."""


def readable(size: float) -> str:
    """A number of bytes with the largest unit that fits: 1536 is "1.5 KiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} PiB"
