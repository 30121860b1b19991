"""`--forward patch`. No Python face: workers call it."""
