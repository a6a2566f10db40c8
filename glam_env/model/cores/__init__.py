"""Sequence cores: what turns features e_0 … e_t into the state h_t."""
