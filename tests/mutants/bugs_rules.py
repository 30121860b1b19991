"""Checks of a ring's rules left out, one at a time: each is found by a row of the table of rules."""

from tests.mutants.mutant import Mutant

RING, SPLIT, PACKED = (f"dataplane/{name}.pyx" for name in ("ring", "split_ring", "packed_ring"))
ROW = "hostile/test_rules.py::test_a_broken_rule_stops_its_ring_once_for_that_reason_and_set_up_anew_it_works"
WRONG = "a_buffer_in_the_wrong_direction"

MUTANTS = (
    Mutant(
        "rule-indirect-not-negotiated",
        RING,
        "not ring.indirect",
        "False",
        f"{ROW}[an_indirect_descriptor_without_the_feature-packed]",
    ),
    Mutant("rule-table-of-no-bytes", RING, "d.len == 0", "False", f"{ROW}[an_indirect_table_of_no_bytes-split]"),
    Mutant(
        "rule-table-of-any-length",
        RING,
        "d.len // VIRTQ_DESC_BYTES > VIRTQ_MAX_SIZE",
        "False",
        f"{ROW}[an_indirect_table_of_32769_descriptors-split]",
    ),
    Mutant(
        "rule-direction-split",
        SPLIT,
        "(d.flags & VIRTQ_DESC_F_WRITE) != ring.direction",
        "False",
        f"{ROW}[{WRONG}-split]",
    ),
    Mutant(
        "rule-direction-split-in-the-hot-region",
        SPLIT,
        "d.flags & (VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_WRITE) != ring.direction",
        "(d.flags & VIRTQ_DESC_F_INDIRECT) != 0",
        f"{ROW}[{WRONG}_behind_a_right_one-split]",
    ),
    Mutant(
        "rule-direction-packed",
        PACKED,
        "(flags & VIRTQ_DESC_F_WRITE) != ring.direction",
        "False",
        f"{ROW}[{WRONG}-packed]",
    ),
    Mutant(
        "rule-direction-packed-in-the-hot-region",
        PACKED,
        "piece.flags & flags != ring.direction",
        "False",
        f"{ROW}[{WRONG}_behind_a_right_one-packed]",
    ),
    Mutant(
        "rule-table-packed-read-at-its-start-only",
        PACKED,
        "d.addr + <uint64_t>i * VIRTQ_DESC_BYTES",
        "d.addr",
        f"{ROW}[an_indirect_table_that_ends_outside_memory-packed]",
    ),
)
