"""Noise levels, VP time and per-sample random streams."""
