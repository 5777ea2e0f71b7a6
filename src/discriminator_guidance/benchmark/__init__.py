"""How fast this project is against the published way of computing."""
