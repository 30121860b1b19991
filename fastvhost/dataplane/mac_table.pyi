"""The forwarding table as workers read it. For Cython; the Python face is forwarding_table."""
