"""The GLAM world model in pure PyTorch: it knows no environment, no file and no agent."""
