"""The speed of this project relative to the baseline."""
