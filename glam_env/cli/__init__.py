"""The command `glam`: one module for each of its commands, with the options."""
