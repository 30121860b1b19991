"""`--forward learn`. No Python face: workers call it."""
