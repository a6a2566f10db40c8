"""The learned simulator: options, start contexts, engine, envs and snapshots.

The engine steps the world model, and the two env classes step the engine.
"""
