"""Weights: pretrained files read without executing anything in them, and the project's own safetensors."""
