"""Searches and experiments made of the stages' parts, beside the pipeline."""
