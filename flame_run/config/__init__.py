"""Composition of the configuration with Hydra, its types, and clear errors for what Hydra refuses."""
