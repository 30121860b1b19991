"""The first bytes of frames, read once. No Python face: workers call it."""
