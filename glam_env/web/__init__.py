"""A static page in which trained games are played, without a server or an install."""
