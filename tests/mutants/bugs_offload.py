"""Bugs in what is done for receivers that do not do it themselves: super-frames cut, checksums filled in."""

from tests.mutants.mutant import Mutant

CUT, HEADER = "dataplane/offload/cut.pyx", "dataplane/offload/header.pxd"
TRANSMITQ, RECEIVEQ = "dataplane/transmitq.pyx", "dataplane/receiveq.pyx"
SUMMED = "dataplane/offload/summed.pxd"
FORWARD, WATCH = "dataplane/forward/forward.pyx", "dataplane/hold_watch.pyx"
PIECES = "unit/test_segmentation.py::test_pieces_of_a_super_frame_are_frames_of_their_own_with_all_of_its_payload"
CUTTING, MALFORMED = "unit/test_cutting.py", "unit/test_malformed_offloads.py"
OF_A_BURST = f"{MALFORMED}::test_frames_of_a_burst_get_what_each_asks_for_and_keep_their_order"
FUZZED = "unit/test_cutting_fuzzed.py::test_what_arrives_is_what_another_segmenter_makes"
LIES = f"{MALFORMED}::test_it_is_a_counted_drop_and_what_is_behind_it_arrives"
TAKEN_BACK = f"{CUTTING}::test_a_frame_that_its_port_took_back_goes_on_where_it_was_cut"
THE_SAME = f"{CUTTING}::test_a_frame_that_is_the_same_but_not_the_one_that_was_taken_back_is_cut_from_its_beginning"
ACCURATE_ECN = "unit/test_packet_ring.py::test_congestion_flags_are_in_the_first_piece_or_in_all_as_the_kernel_says"
HELD = "unit/test_hold_watch.py::test_a_super_frame_in_holes_is_charged_to_its_sender"

TUNNEL = "dataplane/offload/tunnel.pxd"
VXLAN = "unit/test_segmentation.py::test_a_super_frame_in_vxlan_is_cut_into_frames_in_vxlan"
NO_TUNNEL = "unit/test_segmentation.py::test_a_tunnel_that_is_not_as_it_should_be_is_dropped"

MUTANTS = (
    # Tunnels
    Mutant(
        "tunnel-outer-length-of-the-whole",
        TUNNEL,
        "    put16(udp + 4, bytes - tunnel.udp_at)\n",
        "    pass\n",
        VXLAN,
    ),
    Mutant("tunnel-outer-number-the-same", TUNNEL, "get16(ip + 4) + number", "get16(ip + 4)", VXLAN),
    Mutant("tunnel-outer-sum-of-before", TUNNEL, "<uint16_t>~checksum", "checksum", VXLAN),
    Mutant(
        "tunnel-length-believed",
        TUNNEL,
        "get16(udp + 4) != frame_bytes - tunnel.udp_at",
        "False",
        f"{NO_TUNNEL}[a datagram of another length]",
    ),
    # Pieces
    Mutant("cut-ip-id-the-same", CUT, "get16(ip + 4) + number", "get16(ip + 4)", PIECES),
    Mutant("cut-fin-in-every-piece", CUT, "    if not last:\n        tcp[13] &= ~TCP_FIN_PSH\n", "    pass\n", PIECES),
    Mutant("cut-cwr-in-every-piece", CUT, "    if at and ecn:\n        tcp[13] &= ~TCP_CWR\n", "    pass\n", PIECES),
    Mutant("cut-cwr-in-one-piece-always", CUT, "head.net.gso_type & NET_HDR_GSO_ECN != 0", "True", ACCURATE_ECN),
    Mutant("accurate-ecn-of-a-kernel-refused", HEADER, "head.net.gso_type & NET_HDR_GSO_ACCECN", "0", ACCURATE_ECN),
    Mutant(
        "cut-sequence-the-same",
        CUT,
        "(get16(tcp + 4) << 16 | get16(tcp + 6)) + at",
        "get16(tcp + 4) << 16 | get16(tcp + 6)",
        PIECES,
    ),
    Mutant(
        "cut-sequence-without-carry",
        CUT,
        "    put16(tcp + 4, sequence >> 16)\n",
        "    pass\n",
        PIECES,
    ),
    Mutant(
        "cut-length-of-the-whole", CUT, "super.header_bytes - super.ip_at + piece", "super.bytes - super.ip_at", PIECES
    ),
    Mutant("cut-header-sum-of-before", CUT, "        put16(ip + 10, 0)\n", "        pass\n", PIECES),
    Mutant(
        "cut-extensions-not-followed",
        CUT,
        "end_of_extensions(super, protocol) == super.transport_at",
        "True",
        f"{LIES}[ipv6_extension_headers_that_end_elsewhere-one piece-nothing]",
    ),
    Mutant(
        "cut-fragments",
        CUT,
        "get16(header + ip + 6) & IPV4_FRAGMENT == 0",
        "True",
        f"{LIES}[a_fragment-one piece-nothing]",
    ),
    Mutant(
        "cut-length-believed",
        CUT,
        "get16(header + ip + 2) == super.bytes - ip",
        "True",
        f"{LIES}[an_ipv4_length_of_one_too_few-one piece-nothing]",
    ),
    Mutant(
        "cut-data-offset-believed",
        CUT,
        "at + shortest <= super.header_bytes <= there",
        "super.header_bytes <= there",
        f"{LIES}[a_tcp_data_offset_of_4-one piece-nothing]",
    ),
    # Half-way
    Mutant(
        "cut-headers-read-again",
        CUT,
        "not super.begun and not begin(super, delivery, &delivery.frames[done])",
        "not begin(super, delivery, &delivery.frames[done])",
        f"{CUTTING}::test_headers_are_read_once",
    ),
    Mutant(
        "cut-without-budget",
        CUT,
        "left[0] == 0",
        "False",
        f"{CUTTING}::test_a_visit_cuts_128_pieces_at_most_of_a_header_and_its_payload",
    ),
    Mutant("cut-begun-anew", FORWARD, "    lane.super.forgotten |= lane.super.begun\n", "    pass\n", TAKEN_BACK),
    Mutant(
        "cut-another-frame-goes-on",
        CUT,
        "before.forgotten and is_same(super, &before)",
        "before.forgotten",
        f"{CUTTING}::test_another_frame_than_the_one_that_was_taken_back_is_cut_from_its_beginning",
    ),
    Mutant(
        "cut-goes-on-with-another-guest",
        FORWARD,
        "lane.super.life != lane.ingress.lives",
        "False",
        f"{THE_SAME}[the guest-split]",
    ),
    Mutant(
        "cut-goes-on-in-another-ring",
        "dataplane/virtio_change.pyx",
        "            port.lives += 1\n",
        "            pass\n",
        f"{THE_SAME}[the driver-packed]",
    ),
    # Checksums
    Mutant("sum-of-odd-pieces", SUMMED, "(sum.at - sum.start) & 1", "0", f"{FUZZED}[nothing-split]"),
    Mutant(
        "sum-of-the-whole-frame",
        SUMMED,
        "        memcpy(to, source, before)\n",
        "        sum.sum += copy_and_sum(to, source, before)\n",
        f"{FUZZED}[nothing-split]",
    ),
    Mutant(
        "field-in-one-piece-only",
        SUMMED,
        "sum.field + k - sum.at < bytes - before",
        "sum.field + 1 - sum.at < bytes - before",
        f"{MALFORMED}::test_a_checksum_field_may_lie_in_two_pieces_and_two_buffers",
    ),
    Mutant(
        "sum-of-none-to-a-guest",
        SUMMED,
        "fold_transport(copy_and_sum(to + start, copy.from_ + start, copy.bytes - start))",
        "fold(copy_and_sum(to + start, copy.from_ + start, copy.bytes - start))",
        f"{MALFORMED}::test_a_datagram_whose_sum_comes_out_as_none_says_so_in_the_other_way_to_a_guest[one piece]",
    ),
    Mutant(
        "sum-of-none-in-pieces-to-a-guest",
        SUMMED,
        "fold_transport(sum.sum)",
        "fold(sum.sum)",
        f"{MALFORMED}::test_a_datagram_whose_sum_comes_out_as_none_says_so_in_the_other_way_to_a_guest[two pieces]",
    ),
    Mutant(
        "whole-frames-not-summed",
        RECEIVEQ,
        "        if not head.needs & unmet:\n            continue\n",
        "        continue\n",
        f"{OF_A_BURST}[nothing-no super-frame-one piece]",
    ),
    Mutant(
        "checksum-field-outside",
        HEADER,
        "<uint32_t>head.net.csum_start + head.net.csum_offset + CSUM_BYTES > frame_bytes",
        "<uint32_t>head.net.csum_start + head.net.csum_offset > frame_bytes",
        f"{LIES}[a_checksum_field_on_the_last_byte-one piece-nothing]",
    ),
    # The virtio-net header
    Mutant(
        "gso-size-of-63",
        HEADER,
        "head.net.gso_size < LEAST_GSO_SIZE",
        "head.net.gso_size < 1",
        f"{LIES}[gso_size_63-one piece-nothing]",
    ),
    Mutant(
        "checksum-in-an-address",
        HEADER,
        "head.net.csum_start < <uint16_t>ETHER_HEADER_BYTES",
        "False",
        f"{LIES}[csum_start_on_the_last_byte_of_the_ethernet_header-single bytes-nothing]",
    ),
    Mutant(
        "gso-without-checksum",
        HEADER,
        "not needs & NEED_CSUM",
        "False",
        f"{LIES}[gso_without_needs_csum-one piece-nothing]",
    ),
    Mutant(
        "features-of-without-csum",
        HEADER,
        "not rows[0].features & ~features",
        "True",
        f"{MALFORMED}::test_super_frames_are_cut_for_a_receiver_that_takes_them_but_no_unfinished_checksums",
    ),
    Mutant(
        "one-feature-for-another",
        HEADER,
        "rows[i].need if not rows[i].features & ~features else 0",
        "rows[i].need",
        f"{MALFORMED}::test_what_one_feature_allows_no_other_one_does",
    ),
    Mutant(
        "one-feature-of-two-is-enough",
        HEADER,
        "feature_mask(NET_F_GUEST_USO4) | feature_mask(NET_F_GUEST_USO6)",
        "feature_mask(NET_F_GUEST_USO4)",
        f"{MALFORMED}::test_datagrams_are_cut_for_a_receiver_that_takes_those_of_one_version_of_ip_only",
    ),
    Mutant(
        "head-read-twice",
        TRANSMITQ,
        "        if not give_head(burst, chain, chain.bytes - header_bytes, allowed):\n            return False\n",
        "        if not give_head(burst, chain, chain.bytes - header_bytes, allowed):\n            return False\n"
        "        memcpy(&burst.heads[chain.head].net, first.data, NET_HDR_LEGACY_BYTES)\n",
        f"{MALFORMED}::test_what_a_receiver_has_no_use_for_is_not_passed_on",
    ),
    Mutant(
        "head-of-the-checksum-before",
        TRANSMITQ,
        "fields != last",
        "False",
        f"{OF_A_BURST}[everything-no super-frame-one piece]",
    ),
    Mutant(
        "checksum-field-outside-the-frame-behind",
        TRANSMITQ,
        "least > length",
        "False",
        f"{MALFORMED}::test_a_frame_too_short_for_the_checksum_field_of_the_one_before_it_is_a_counted_drop",
    ),
    # Who is looked at while it takes long
    Mutant(
        "watch-headers-are-the-receivers",
        WATCH,
        "place.at != NULL and not load_acquire_u32(&place.lane.super.reading)",
        "place.at != NULL",
        f"{HELD}[split-headers]",
    ),
    Mutant(
        "watch-knows-no-pieces",
        WATCH,
        "        frames, segments = &lane.cutter.burst.frames[0], lane.cutter.burst.segments\n",
        "        pass\n",
        f"{HELD}[split-payload]",
    ),
)
