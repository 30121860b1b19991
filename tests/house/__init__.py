"""The house's own rules as tests: who may import whom, how large a file grows, what the data plane must not contain."""
