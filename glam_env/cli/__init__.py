"""The command `glam`: one file a command, its options beside its code."""
