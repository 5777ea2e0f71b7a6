"""What a profile will cost: counts of network passes, their FLOPs, and seconds from measured rates."""
