"""Play of the real game and in dreams, recorded for the measures."""
