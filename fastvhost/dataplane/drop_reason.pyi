NAMES: tuple[str, ...]
"""Drop reasons in the order of the enum, as counters and JSON print them."""
