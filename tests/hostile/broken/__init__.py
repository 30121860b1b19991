"""A deliberately broken mini back-end, and what it can leave out."""
