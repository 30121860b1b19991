"""What a back-end keeps of a front-end, whatever protocol brings its requests: its memory, its rings, its log lines.

Requests come over a vhost-user socket (room `vhostuser`) or over vhost-net's device file (room `vhostcuse`); what they
change is the same and stands here. Pure Python on purpose: what a front-end sends is not to be trusted.
"""
