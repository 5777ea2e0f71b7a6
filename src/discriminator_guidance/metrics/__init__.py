"""Distances and manifold metrics with their intervals, and the networks of their features."""
