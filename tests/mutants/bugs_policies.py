"""Bugs in the policies of ports: limits, guard, isolation, storm control, mirrors."""

from tests.mutants.mutant import Mutant

FORWARD = "dataplane/forward/"
LEARN, POLICE, STORM, MIRROR = (f"{FORWARD}{name}.pyx" for name in ("learn", "police", "storm", "mirror"))
POLICIES, RATES, MIRRORS = (f"unit/test_{name}.py::test_" for name in ("port_policies", "rates", "mirrors"))

MUTANTS = (
    Mutant(
        "guard-off",
        LEARN,
        "find(table, source | KEY_ANY_VLAN) != learner.number",
        "False",
        f"{POLICIES}a_guard_drops_other_sources_whoever_they_are_for",
    ),
    Mutant(
        "guarded-address-floods",
        LEARN,
        "find(members.table, destination | KEY_ANY_VLAN)",
        "<uint32_t>NOBODY",
        f"{POLICIES}a_guarded_address_is_learned_nowhere_else_and_its_frames_never_flood",
    ),
    Mutant(
        "isolation-of-unicast-alone",
        LEARN,
        "reaches(learner.members, learner.number, port)",
        "True",
        f"{POLICIES}ports_of_a_group_do_not_reach_each_other_by_unicast_nor_by_flood",
    ),
    Mutant(
        "isolation-of-floods-alone",
        LEARN,
        "not reaches(members, learner.number, port)",
        "False",
        f"{POLICIES}ports_of_a_group_do_not_reach_each_other_by_unicast_nor_by_flood",
    ),
    Mutant(
        "storm-of-multicast",
        STORM,
        "sender.counts_multicast",
        "True",
        f"{POLICIES}a_storm_stops_only_what_floods",
    ),
    Mutant(
        "allowance-saved-up",
        "dataplane/forward/allowance.pxd",
        "max(paid, now) + <uint64_t>(n * allowance.unit_ns + 0.5)",
        "paid + <uint64_t>(n * allowance.unit_ns + 0.5)",
        f"{POLICIES}a_burst_of_1000_broadcasts_passes_and_then_as_many_a_second_as_were_asked_for",
    ),
    Mutant(
        "limit-not-charged",
        POLICE,
        "        charge(&limit.frames, now, end - first)\n",
        "        pass\n",
        f"{RATES}frames_a_second_pass_and_the_rest_waits_in_order_and_is_not_lost[split]",
    ),
    Mutant(
        "limit-by-bursts",
        POLICE,
        "            end = min(end, first + max(<uint32_t>room, 1))\n",
        "            pass\n",
        f"{RATES}frames_a_second_pass_and_the_rest_waits_in_order_and_is_not_lost[split]",
    ),
    Mutant(
        "limit-slept-through",
        "dataplane/idle.pyx",
        "            ns = min(ns, rest)\n",
        "            pass\n",
        f"{RATES}a_lane_at_its_limit_is_slept_on_for_as_long_as_it_must_wait_and_no_other_one",
    ),
    Mutant(
        "mirror-copies-twice",
        MIRROR,
        "        copies -= take_off(lane, sender.mirror)\n",
        "        pass\n",
        f"{MIRRORS}a_flooded_frame_of_a_mirrored_port_reaches_everybody_once",
    ),
    Mutant(
        "mirror-loop",
        MIRROR,
        "members.at[port].mirror == sender",
        "False",
        f"{MIRRORS}what_a_mirror_sends_and_what_it_is_sent_is_its_own",
    ),
    Mutant(
        "mirror-of-released-frames",
        MIRROR,
        "            lane.exits[i].in_place = False\n",
        "            pass\n",
        f"{MIRRORS}nothing_is_released_before_the_last_copy_and_no_mirror_is_waited_for[receiver]",
    ),
    Mutant(
        "mirror-waits",
        "dataplane/forward/forward.pyx",
        "(exit.spare or spent == tally.spent)",
        "spent == tally.spent",
        f"{MIRRORS}nothing_is_released_before_the_last_copy_and_no_mirror_is_waited_for[mirror]",
    ),
)
