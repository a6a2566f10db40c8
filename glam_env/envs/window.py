"""``Window``: shows frames through pygame, for ``render_mode="human"``."""

from __future__ import annotations

import numpy as np

from glam_env.errors import GlamError

_SIDE = 512  # pixels that the shorter side of a small picture is scaled up to


class Window:
    """A window that opens with the first frame and limits the frame rate.

    Args:
        title: title of the window.
        fps: maximum number of frames a second.

    Raises:
        GlamError: pygame is not installed.
    """

    def __init__(self, title: str, fps: int) -> None:
        try:
            import pygame
        except ModuleNotFoundError as error:
            raise GlamError(
                'render_mode="human" needs pygame: pip install "glam-env[human]"'
            ) from error
        self._pygame = pygame
        self._title, self._fps = title, fps
        self._screen = None

    def show(self, image: np.ndarray) -> None:
        """Show one (H, W, 3) uint8 picture, scaled by a whole number.

        Raises:
            GlamError: there is no display.
        """
        pygame = self._pygame
        scale = max(1, _SIDE // min(image.shape[:2]))
        size = (image.shape[1] * scale, image.shape[0] * scale)
        try:
            if self._screen is None or self._screen.get_size() != size:
                pygame.display.init()
                pygame.display.set_caption(self._title)
                self._screen = pygame.display.set_mode(size)
                self._clock = pygame.time.Clock()
            pygame.event.pump()
            surface = pygame.surfarray.make_surface(image.swapaxes(0, 1))  # pygame counts x first
            self._screen.blit(pygame.transform.scale(surface, size), (0, 0))
            pygame.display.flip()
        except pygame.error as error:
            raise GlamError(
                f'no window can be opened here ({error}); use render_mode="rgb_array"'
            ) from error
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window."""
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None
