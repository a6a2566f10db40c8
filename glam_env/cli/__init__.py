"""The command ``glam``: one file a command."""
