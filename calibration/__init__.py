"""Offline: from a trained multi-label classifier and data to a certified early-exit bundle."""
