"""Bugs in the rings: split, packed, in order, and what they share."""

from tests.mutants.mutant import Mutant

SPLIT, PACKED, USED = (f"dataplane/{name}.pyx" for name in ("split_ring", "packed_ring", "packed_used"))
BROKEN = "hostile/test_rules.py::test_a_broken_rule_stops_its_ring_once_for_that_reason_and_set_up_anew_it_works"
WRAPS = "unit/test_packed_ring.py::test_frames_arrive_in_order_over_many_wraps_in_rings_of_any_size"

MUTANTS = (
    Mutant(
        "split-head-of-queue-size",
        SPLIT,
        "head >= size",
        "head > size",
        f"{BROKEN}[a_head_equal_to_the_queue_size-split]",
    ),
    Mutant(
        "split-index-jump-by-outstanding",
        SPLIT,
        "n + ring.outstanding > size",
        "n > size",
        "unit/test_counts.py::test_an_index_that_jumps_by_more_than_what_is_outstanding_leaves_room_for_breaks_the_ring",
    ),
    Mutant(
        "split-next-of-table-size",
        SPLIT,
        "            if d.next >= descriptors:\n                status = RING_NEXT_BEYOND_TABLE\n                "
        "break\n",
        "            if d.next > descriptors:\n                status = RING_NEXT_BEYOND_TABLE\n                "
        "break\n",
        f"{BROKEN}[a_next_equal_to_the_queue_size-split]",
    ),
    Mutant(
        "split-head-read-twice",
        SPLIT,
        "        chains[i].ticket = head\n",
        "        chains[i].ticket = load_u16(&avail.ring[<uint16_t>(first + i) & mask])\n",
        "unit/test_read_once.py::test_a_head_that_changes_after_it_was_checked_is_not_looked_at_again",
    ),
    Mutant(
        "split-used-wraps-to-the-first-again",
        SPLIT,
        "done + to_end",
        "done",
        "unit/test_already_there.py::test_used_elements_of_a_burst_go_on_at_the_start_of_the_ring",
    ),
    Mutant(
        "split-used-compares-the-first-only",
        SPLIT,
        "memcmp(at, done, n * sizeof(Done))",
        "memcmp(at, done, sizeof(Done))",
        "unit/test_already_there.py::test_used_elements_are_those_of_this_lap",
    ),
    Mutant(
        "split-event-off-by-one",
        SPLIT,
        "<uint16_t>(new - load_u16(&avail.ring[ring.size]) - 1) < <uint16_t>(new - old)",
        "<uint16_t>(new - load_u16(&avail.ring[ring.size])) < <uint16_t>(new - old)",
        "unit/test_forwarding.py::test_with_event_idx_the_driver_is_told_when_its_event_is_passed_and_not_before",
    ),
    Mutant(
        "split-no-interrupt-ignored",
        SPLIT,
        "not load_u16(&avail.flags) & VIRTQ_AVAIL_F_NO_INTERRUPT",
        "True",
        "unit/test_forwarding.py::test_a_driver_that_wants_no_interrupts_gets_none_and_others_one_a_burst",
    ),
    Mutant(
        "split-batch-told-by-its-first",
        SPLIT,
        "&done[n - 1]",
        "&done[0]",
        "unit/test_in_order_batches.py::test_a_split_ring_says_only_the_last_head_of_a_burst_at_the_place_of_its_first",
    ),
    Mutant(
        "split-base-without-what-is-outstanding",
        SPLIT,
        "    ring.next_avail -= ring.outstanding\n",
        "    pass\n",
        "unit/test_forwarding.py::test_stopping_returns_the_next_available_index_with_held_chains_given_back",
    ),
    Mutant(
        "split-kicks-wanted-for-ever",
        SPLIT,
        "ring.next_avail if wanted else ring.next_avail - 1",
        "ring.next_avail",
        "unit/test_forwarding.py::test_kicks_are_suppressed_while_polling",
    ),
    Mutant(
        "split-broken-ring-goes-on",
        SPLIT,
        "    if ring.status != RING_OK:\n        return 0\n",
        "    pass\n",
        "unit/test_counts.py::test_a_broken_ring_gives_nothing",
    ),
    Mutant("packed-wrap-not-flipped", PACKED, "            wrap = not wrap\n", "            pass\n", f"{WRAPS}[7]"),
    Mutant(
        "packed-used-wrap-not-flipped",
        USED,
        "        ring.used_wrap = not ring.used_wrap\n",
        "        pass\n",
        f"{WRAPS}[3]",
    ),
    Mutant(
        "packed-wrap-not-flipped-back",
        PACKED,
        "        ring.avail_wrap = not ring.avail_wrap\n",
        "        pass\n",
        "unit/test_packed_ring.py::test_held_frames_are_given_back_when_the_queue_stops_in_mid_wrap",
    ),
    Mutant(
        "packed-event-wrap-ignored",
        USED,
        "(off_wrap >> RING_EVENT_WRAP_BIT) != ring.used_wrap",
        "False",
        "unit/test_packed_ring.py::test_an_event_beyond_the_wrap_is_met_only_after_it",
    ),
    Mutant(
        "ring-nested-tables",
        "dataplane/ring.pyx",
        "    if inside_table or d.flags & VIRTQ_DESC_F_NEXT:\n        return RING_INDIRECT_NESTED\n",
        "    if d.flags & VIRTQ_DESC_F_NEXT:\n        return RING_INDIRECT_NESTED\n",
        f"{BROKEN}[an_indirect_table_in_an_indirect_table-split]",
    ),
    Mutant(
        "ring-odd-table",
        "dataplane/ring.pyx",
        "d.len % VIRTQ_DESC_BYTES",
        "0",
        f"{BROKEN}[an_indirect_table_of_17_bytes-packed]",
    ),
    Mutant(
        "ring-buffer-over-the-end-of-its-region",
        "dataplane/ring.pyx",
        "        room = region.bytes - (guest_addr - region.guest_addr)\n",
        "        room = region.bytes\n",
        "unit/test_forwarding.py::test_memory_in_many_small_regions_works_with_buffers_across_their_borders",
    ),
    Mutant(
        "packed-batch-steps-one-a-chain",
        USED,
        "        for i in range(n):\n            at += done[i].ticket >> SLOTS_SHIFT\n",
        "        at += n\n",
        "unit/test_in_order_batches.py::test_the_place_of_the_next_batch_is_behind_the_one_before_over_the_end_of_the_ring",
    ),
    Mutant(
        "packed-first-shown-early",
        USED,
        "        flags = load_u64(<const uint64_t *>&desc[at].len) & tail_of(0, 0, 0xffff)\n",
        "        pass\n",
        "unit/test_counts.py::test_what_is_completed_is_shown_all_at_once_when_it_is_published[packed]",
    ),
    Mutant(
        "packed-base-without-used-wrap",
        PACKED,
        "<uint32_t>ring.next_used << 16 | <uint32_t>ring.used_wrap << 31",
        "<uint32_t>ring.next_used << 16",
        "unit/test_packed_ring.py::test_the_base_carries_both_indices_and_wrap_counters_and_starts_anew_from_them",
    ),
    Mutant(
        "packed-id-of-the-first",
        PACKED,
        "piece.id if count > 1 else d.id",
        "d.id",
        "unit/test_packed_ring.py::test_the_id_of_a_chain_is_that_of_its_last_descriptor",
    ),
    Mutant(
        "packed-takes-more-than-it-holds",
        PACKED,
        "size - ring.outstanding",
        "size",
        "unit/test_counts.py::test_completions_never_exceed_what_was_taken_whatever_the_index_does_meanwhile",
    ),
    Mutant(
        "packed-used-flag-ignored",
        "dataplane/packed_marks.pxd",
        "(flags & BOTH_FLAGS) == (VIRTQ_DESC_F_AVAIL if wrap else VIRTQ_DESC_F_USED)",
        "((flags & VIRTQ_DESC_F_AVAIL) != 0) == wrap",
        "unit/test_packed_ring.py::test_a_wrong_wrap_counter_is_simply_not_available",
    ),
    Mutant(
        "split-publish-without-fence",
        SPLIT,
        "    full_fence()  # the index is visible before we look whether a call is wanted; "
        "pairs with the driver's fence\n",
        "    pass\n",
        "unit/test_wake_ups.py::test_a_million_ping_pongs_lose_no_wake_up[split, event idx-8-50000-True]",
    ),
    Mutant(
        "split-used-over-the-end",
        SPLIT,
        "n <= to_end",
        "n <= to_end + 1",
        "unit/test_already_there.py::test_used_elements_of_a_burst_go_on_at_the_start_of_the_ring",
    ),
)
