"""What leaves the run folder: model cards, merged models, uploads."""
