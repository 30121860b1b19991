"""Which lanes a worker visits in a round. No Python face: workers call it."""
