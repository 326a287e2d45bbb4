"""Training runs from a configuration, and loading models from run folders."""
