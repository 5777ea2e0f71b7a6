"""Optuna studies beside the pipeline: two searches and a factorial experiment."""
