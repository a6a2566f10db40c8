"""The learned simulator: start contexts, the engine over the world model, the two env classes."""
