"""One iteration, and all of them."""
