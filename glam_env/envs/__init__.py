"""Gymnasium environments: dreams and the real game in the same spaces."""
