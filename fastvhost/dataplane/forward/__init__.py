"""What becomes of the frames of a burst: which egress gets which, and what happens with those that find no room."""
