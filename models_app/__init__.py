"""The registry: which weights exist, made from what, and which version a model serves."""
