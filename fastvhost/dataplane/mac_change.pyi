"""Control writes to the forwarding table. For Cython; the Python face is forwarding_table."""
