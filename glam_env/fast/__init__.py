"""The numbers of ``glam_env.model``, computed faster."""
