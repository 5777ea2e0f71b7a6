"""Training loops of the four networks: arrays in, weights and curves out."""
