"""What a worker does when a round found no frame. No Python face: Worker(idle=...) chooses."""
