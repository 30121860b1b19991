"""The vhost-user protocol, back-end side. Pure Python on purpose: it parses bytes of an untrusted peer."""
