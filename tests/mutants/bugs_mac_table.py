"""Bugs in the forwarding table: look-ups, learning, limits, flushes."""

from tests.mutants.mutant import Mutant

TABLE, LEARN, CHANGE = "dataplane/mac_table.pyx", "dataplane/mac_learn.pyx", "dataplane/mac_change.pyx"

MUTANTS = (
    Mutant(
        "mac-entry-a-second-too-old",
        TABLE,
        "<uint16_t>(now - value) >= table.max_age",
        "<uint16_t>(now - value) > table.max_age",
        "unit/test_mac_table.py::test_an_entry_answers_until_it_is_too_old_and_no_sweep_is_needed",
    ),
    Mutant(
        "mac-flush-of-all-vlans",
        TABLE,
        "of_vlan == vlan_of(key)",
        "True",
        "unit/test_mac_table.py::test_a_flush_concerns_its_port_and_vlan_and_takes_effect_before_the_sweep[0-7]",
    ),
    Mutant(
        "mac-flush-numbers-wrap",
        CHANGE,
        "table.now >> 16 == LAST_FLUSH",
        "False",
        "unit/test_mac_table.py::test_numbers_of_flushes_begin_again_without_an_entry_coming_back",
    ),
    Mutant(
        "mac-limit-counts-twice",
        LEARN,
        "limits.learned - own >= limits.most",
        "limits.learned >= limits.most",
        "unit/test_mac_table.py::test_an_entry_that_is_too_old_is_learned_again_by_a_port_at_its_limit",
    ),
    Mutant(
        "mac-reservation-forgotten",
        LEARN,
        "reserved != NULL and port_of(load_acquire_u64(&reserved.value)) != port",
        "False",
        "unit/test_mac_table.py::test_a_reserved_address_is_learned_at_its_port_only_in_every_vlan",
    ),
    Mutant(
        "mac-moves-of-any-second",
        LEARN,
        "<uint16_t>value != <uint16_t>load_acquire_u32(&table.now)",
        "False",
        "unit/test_mac_table.py::test_moves_of_different_seconds_do_not_add_up",
    ),
    Mutant(
        "mac-move-keeps-the-generation",
        LEARN,
        "        store_release_u64(&entry.value, value | <uint64_t>(moves_of(table, old) + 1) << MOVES_SHIFT)\n"
        "        renew_generation(table)\n",
        "        store_release_u64(&entry.value, value | <uint64_t>(moves_of(table, old) + 1) << MOVES_SHIFT)\n",
        "unit/test_mac_table.py::test_a_move_is_found_counted_and_ends_answers_that_were_kept",
    ),
    Mutant(
        "mac-tick-keeps-the-generation",
        CHANGE,
        "    store_release_u32(&table.now, table.now & <uint32_t>0xffff0000 | <uint16_t>seconds)\n"
        "    renew_generation(table)\n",
        "    store_release_u32(&table.now, table.now & <uint32_t>0xffff0000 | <uint16_t>seconds)\n",
        "unit/test_mac_table.py::test_an_entry_answers_until_it_is_too_old_and_no_sweep_is_needed",
    ),
    Mutant(
        "mac-eviction-of-equals",
        LEARN,
        "n <= own",
        "n < own",
        "unit/test_mac_table.py::test_no_port_takes_a_place_from_one_with_as_few_entries",
    ),
    Mutant(
        "mac-eviction-of-anybody",
        LEARN,
        "n > most or (owner == most_owner and age > oldest)",
        "victim == NULL or age > oldest",
        "unit/test_mac_table.py::test_room_is_made_by_the_port_with_most_entries_and_by_no_other",
    ),
    Mutant(
        "mac-eviction-of-the-youngest",
        LEARN,
        "<uint16_t>(now - value)",
        "<uint16_t>(value - now)",
        "unit/test_mac_table.py::test_the_oldest_entry_of_the_port_with_most_makes_room",
    ),
)
