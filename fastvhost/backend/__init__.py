"""The back-end whatever wire its front-end speaks over: what that one shared, its rings, its lines in the log.

vhost-user's socket and vhost-net's device file, the rooms vhostuser and vhostcuse, each bring the requests; what these
come to is the same and stands here. Pure Python on purpose, like them: what a front-end sends is not to be trusted.
"""
