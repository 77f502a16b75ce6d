"""What `openenv.yaml` names."""
