SENTENCES: tuple[str, ...]
"""Why a ring was stopped, in the order of the enum RingStatus; the first, empty, means that it was not."""
