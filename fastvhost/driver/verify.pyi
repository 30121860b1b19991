"""What a built-in guest makes of the frames that arrived. No Python face: the load calls it."""
