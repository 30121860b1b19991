"""Bugs in guest memory: mappings, and the translation of addresses."""

from tests.mutants.mutant import Mutant

MEMORY = "dataplane/guest_memory.pyx"
BYTES = (
    "unit/test_guest_memory.py::test_ranges_are_found_to_the_byte_and_across_adjacent_regions_for_guest_addresses_only"
)
OVERLAP = "unit/test_guest_memory.py::test_overlapping_regions_are_refused_by_guest_and_by_user_address"

MUTANTS = (
    Mutant(
        "user-range-end-inclusive",
        MEMORY,
        "offset < region.bytes and bytes <= region.bytes - offset",
        "offset < region.bytes and bytes <= region.bytes - offset + 1",
        BYTES,
    ),
    Mutant(
        "overlap-only-at-one-start",
        MEMORY,
        "getattr(right, key) - getattr(left, key) < left.bytes",
        "getattr(right, key) == getattr(left, key)",
        OVERLAP,
    ),
    Mutant(
        "overlap-by-user-address-taken",
        MEMORY,
        '        _refuse_overlap(sorted(ordered, key=lambda m: m.user_addr), "user_addr")\n',
        "        pass\n",
        OVERLAP,
    ),
    Mutant(
        "file-checked-without-its-offset",
        MEMORY,
        "status.st_size < self.mmap_offset + self.bytes",
        "status.st_size < self.bytes",
        "unit/test_guest_memory.py::test_a_region_that_does_not_fit_its_file_or_its_addresses_is_refused",
    ),
    Mutant(
        "unmapped-while-a-port-uses-it",
        MEMORY,
        "        if self.users == 0:\n            self.unmap()\n",
        "        self.unmap()\n",
        "unit/test_public_api.py::test_a_mapping_that_a_port_uses_stays_until_the_port_lets_go",
    ),
    Mutant(
        "fault-not-marked",
        "dataplane/fault_guard.h",
        "        __atomic_store_n(&g->faulted, 1, __ATOMIC_RELEASE);\n",
        "        ;\n",
        "unit/test_guest_memory.py::test_a_file_cut_short_under_traffic_faults_that_memory_and_the_other_guest_goes_on",
    ),
    Mutant(
        "offset-within-a-page-forgotten",
        MEMORY,
        "<uint8_t *>base + skew",
        "<uint8_t *>base",
        "unit/test_guest_memory.py::test_a_region_begins_at_its_offset_in_the_file_to_the_byte",
    ),
    Mutant(
        "region-end-inclusive",
        "dataplane/guest_memory.pxd",
        "offset < region.bytes and bytes <= region.bytes - offset",
        "offset < region.bytes and bytes <= region.bytes - offset + 1",
        "hostile/test_rules.py::test_a_broken_rule_stops_its_ring_once_for_that_reason_and_set_up_anew_it_works[a_buffer_one_byte_beyond_the_region-split]",
    ),
)
