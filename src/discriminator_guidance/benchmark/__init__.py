"""How fast this project is, against the official way of computing and against the machine."""
