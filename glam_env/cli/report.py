"""`glam report`."""
from dataclasses import dataclass
from pathlib import Path
import tyro
@dataclass
class Report:
    """Options.

    Attributes:
        sweep: Folder.
    """
    sweep: tyro.conf.Positional[Path]
    def execute(self) -> int:
        return 0
