"""How fast this project is: against the published way of computing, and against the machine's peak."""
