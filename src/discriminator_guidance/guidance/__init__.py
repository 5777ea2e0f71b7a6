"""Discriminator guidance: density ratio, ensemble rules and the guided sampler."""
