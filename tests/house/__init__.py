"""Rules of this code base as tests: imports, sizes of files, what the data plane must not contain."""
