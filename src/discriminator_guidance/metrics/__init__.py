"""Distances, manifold metrics and classification scores with their intervals."""
