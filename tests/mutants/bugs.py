"""All seeded bugs, room by room."""

from tests.mutants import (
    bugs_backlog,
    bugs_learn,
    bugs_mac_table,
    bugs_memory,
    bugs_net,
    bugs_offload,
    bugs_policies,
    bugs_ports,
    bugs_protocol,
    bugs_rings,
    bugs_rules,
    bugs_vlan,
    bugs_workers,
)

MUTANTS = (
    *bugs_rings.MUTANTS,
    *bugs_rules.MUTANTS,
    *bugs_memory.MUTANTS,
    *bugs_net.MUTANTS,
    *bugs_offload.MUTANTS,
    *bugs_workers.MUTANTS,
    *bugs_ports.MUTANTS,
    *bugs_protocol.MUTANTS,
    *bugs_mac_table.MUTANTS,
    *bugs_vlan.MUTANTS,
    *bugs_learn.MUTANTS,
    *bugs_backlog.MUTANTS,
    *bugs_policies.MUTANTS,
)
