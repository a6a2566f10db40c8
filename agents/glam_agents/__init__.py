"""Agents that learn in dreams: the bundled actor-critic, and a bridge to Stable-Baselines3."""
