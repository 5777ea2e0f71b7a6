"""A reproducible study of Discriminator Guidance (Kim et al., ICML 2023)."""

__version__ = "0.1.0"
