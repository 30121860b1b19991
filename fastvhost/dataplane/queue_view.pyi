"""What a queue's rings say now, for show and diagnosis."""
