"""Bugs in ports towards this host and towards programs, and in the figures of all ports."""

from tests.mutants.mutant import Mutant

CUT = "dataplane/ports/segmentation.pyx"
PIECES = "unit/test_segmentation.py::test_pieces_of_a_super_frame_are_frames_of_their_own_with_all_of_its_payload"

AT_THE_DOOR = "unit/test_host_door.py"

MUTANTS = (
    Mutant(
        "host-frames-outlive-their-files",
        "dataplane/ports/host_port.pyx",
        "        change.port.epoch += change.lends  # frames of the files before are gone with them\n",
        "        pass\n",
        "unit/test_packet_ring.py::test_frames_of_a_ring_that_another_one_replaced_are_neither_delivered_nor_counted",
    ),
    Mutant(
        "host-memory-kept",
        "dataplane/ports/packet.pyx",
        "            self.holds = False\n            PyBuffer_Release(&self.lent)\n",
        "            pass\n",
        f"{AT_THE_DOOR}::test_what_is_attached_is_let_go_of_once_the_next_is_in_effect[packet]",
    ),
    Mutant(
        "host-sockets-kept",
        "dataplane/ports/xdp.pyx",
        "            socket.in_use = False\n",
        "            pass\n",
        f"{AT_THE_DOOR}::test_what_was_to_be_attached_is_let_go_of_where_a_worker_is_stuck[xdp]",
    ),
    Mutant("cut-ip-id-the-same", CUT, "super.at // super.piece_bytes", "0", PIECES),
    Mutant("cut-fin-in-every-piece", CUT, "    if not last:\n        tcp[13] &= ~TCP_FIN_PSH\n", "    pass\n", PIECES),
    Mutant(
        "cut-length-of-the-whole", CUT, "super.header_bytes - super.ip_at + piece", "super.bytes - super.ip_at", PIECES
    ),
    Mutant(
        "cut-sum-of-none",
        CUT,
        "    put_sum(transport + offset, checksum if checksum else 0xffff)\n",
        "    put_sum(transport + offset, checksum)\n",
        "unit/test_segmentation.py::test_a_datagram_whose_sum_comes_out_as_none_says_so_in_the_other_way",
    ),
    Mutant(
        "checksum-field-outside",
        CUT,
        "offset > bytes - start - 2",
        "offset > bytes - start",
        "unit/test_public_api.py::test_a_checksum_field_that_lies_outside_its_frame_is_not_written",
    ),
    Mutant(
        "endpoint-oversize-copied",
        "dataplane/ports/endpoint.pyx",
        "frames[i].bytes > side.slot_bytes",
        "frames[i].bytes > side.slot_bytes + 64",
        "unit/test_endpoint.py::test_a_frame_longer_than_the_buffers_drops_as_oversize",
    ),
    Mutant(
        "pcap-length-without-its-end",
        "dataplane/ports/pcap_file.pyx",
        "                header.caplen = header.len = parcels[i].bytes\n",
        "                header.caplen = header.len = parcels[i].bytes - 4\n",
        "unit/test_pcap_file.py::test_what_arrives_is_recorded_to_the_last_frame",
    ),
    Mutant(
        "pcap-cut-frames-played",
        "dataplane/ports/pcap_file.pyx",
        "self.header.caplen == self.header.len and self.header.caplen >= ETHER_HEADER_BYTES",
        "self.header.caplen >= ETHER_HEADER_BYTES",
        "unit/test_pcap_file.py::test_frames_that_cannot_be_sent_are_skipped_and_counted",
    ),
    Mutant(
        "endpoint-bytes-not-counted",
        "dataplane/ports/endpoint.pyx",
        "        port.rx[pair].bytes += parcel.bytes\n",
        "        pass\n",
        "unit/test_endpoint.py::test_frames_arrive_as_they_were_sent_and_in_order",
    ),
)
