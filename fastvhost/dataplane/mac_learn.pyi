"""Workers write to the forwarding table. For Cython; the Python face is forwarding_table."""
