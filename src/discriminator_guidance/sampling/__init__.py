"""Sampling with guidance: the sampler, what discriminators add to it, their ensembles, denoisers of other libraries."""
