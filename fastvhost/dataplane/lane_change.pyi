"""Which lanes workers are to have, and the step in which they get them. Nothing here is for Python."""
