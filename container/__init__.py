"""Container images: Bentos that carry their bundle, and proof that their images work."""
