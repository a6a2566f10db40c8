"""A session of play in two worlds, without a window.

:class:`~glam_env.play.session.session.Session` is the whole of it; nothing here imports pygame.
"""
