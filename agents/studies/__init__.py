"""Studies: variants of one configuration over seeds."""
