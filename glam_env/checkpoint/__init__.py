"""Checkpoint folders: config, weights, start contexts, and the Hugging Face Hub."""
