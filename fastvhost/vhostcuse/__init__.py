"""vhost-net's device file, served from user space by CUSE."""
