"""Which W&B run a run folder belongs to: ``wandb_run.json``."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_advreg.files import write_json

FILE = "wandb_run.json"
"""The name of the file in the run folder."""


@dataclass(frozen=True, kw_only=True)
class WandbNote:
    """What is needed to continue a run of Weights & Biases.

    Args:
        id: The run's id.
        project: Its project.
        entity: The user or team that it belongs to; None where that is not known, as offline.
        offline: Whether the server may not know of it, since no part of it was sent at once.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_note(folder, WandbNote(id="k3x8", project="robust", entity=None, offline=True))
        >>> read_note(folder).id
        'k3x8'
    """

    id: str
    project: str | None
    entity: str | None
    offline: bool


def write_note(folder: Path, note: WandbNote) -> None:
    """Write the note into a run folder, as a whole or not at all.

    Args:
        folder: The folder; it is made.
        note: The note.

    Raises:
        OSError: If it cannot be written.
    """
    write_json(folder / FILE, asdict(note))


def read_note(folder: Path) -> WandbNote | None:
    """Read the note of a run folder.

    Args:
        folder: The folder.

    Returns:
        The note; None where there is none, or none that can be read.
    """
    try:
        content = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("id"), str) or not content["id"]:
        return None
    project, entity = (
        value if isinstance(value, str) else None for value in (content.get("project"), content.get("entity"))
    )
    return WandbNote(id=content["id"], project=project, entity=entity, offline=content.get("offline") is not False)
