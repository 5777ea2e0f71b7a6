"""How fast this project is against the baseline."""
