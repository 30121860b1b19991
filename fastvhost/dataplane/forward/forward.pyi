"""One visit of a lane. No Python face: workers call it."""
