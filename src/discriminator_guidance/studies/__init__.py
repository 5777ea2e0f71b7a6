"""Optuna studies: searches that can be stopped, joined by more workers, and watched."""
