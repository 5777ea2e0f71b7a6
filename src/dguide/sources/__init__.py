"""Real images of known data sets."""
