"""One burst from an ingress to its egress. No Python face: workers call it."""
