"""Files of a run: written whole or not at all, read without executing anything."""

import json
import os
from pathlib import Path
from typing import Any

import torch

VERSION = 1


class BadCheckpoint(ValueError):
    """The file is not a checkpoint of this version of lightops; the message says what is wrong."""


def save(state: dict[str, Any], path: Path) -> None:
    """Writes `state` so that `path` holds the old checkpoint or the new one, whatever happens in between."""
    beside = path.with_name(path.name + ".part")
    torch.save(state | {"version": VERSION}, beside)
    os.replace(beside, path)


def load(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote; raises `BadCheckpoint`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BadCheckpoint(f"there is no {path}") from error
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise BadCheckpoint(
            f"{path} cannot be read: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from error
    found = state.get("version") if isinstance(state, dict) else None
    if found != VERSION:
        raise BadCheckpoint(f"{path} is a checkpoint of version {found}, this lightops reads version {VERSION}")
    return state


def write_log(records: list[dict[str, Any]], path: Path) -> None:
    """One JSON object a line: the run, then each epoch."""
    beside = path.with_name(path.name + ".part")
    beside.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    os.replace(beside, path)
