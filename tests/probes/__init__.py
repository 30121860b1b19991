"""def wrappers over nogil functions, built with FASTVHOST_PROBES=1."""
