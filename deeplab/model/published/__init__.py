"""Weights of others: their files, the names of their tensors, and how they become this network's."""
