"""JSON that carries a checksum, so that what was damaged or edited is not taken for what was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_SEAL = "sha256"


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, as JSON keeps them, and their checksum."""
    plain = json.loads(json.dumps(values))
    return {**plain, _SEAL: _digest(plain)}


def unsealed(text: bytes) -> dict[str, Any] | None:
    """The values that `sealed` was given, None where they are not whole."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    seal = found.pop(_SEAL, None)
    return found if seal == _digest(found) else None


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
