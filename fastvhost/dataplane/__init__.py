"""The packet path: Cython without the GIL. Guest memory, rings, net headers, ports, forwarding, workers."""
