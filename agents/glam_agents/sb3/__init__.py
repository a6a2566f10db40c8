"""Stable-Baselines3 in dreams."""
