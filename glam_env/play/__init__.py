"""Play by hand: a session of dream and real game, and a window that shows it."""
