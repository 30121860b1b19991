"""What the frames of a built-in guest hold, and whether it arrived. No Python face: drivers call it."""
