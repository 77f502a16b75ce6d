"""One iteration, and the loop around it."""
