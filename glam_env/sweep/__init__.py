"""Many training runs as one: a matrix of games, variants and seeds on an existing engine."""
