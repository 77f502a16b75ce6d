"""Several processes: ranks and sharded layers."""
