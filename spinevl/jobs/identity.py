"""What makes two jobs the same: the resolved config and the input files, images left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# what only says where, or how fast; the results do not depend on it
_NO_MATTER = ("cache_dir", "output_dir", "logger", "trusted_targets", "feature_cache")
_NO_MATTER_IN_TRAINER = ("progress_bar", "num_workers")


def identity(config: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> str:
    """A job's identity, 16 hexadecimal digits.

    Args:
        config: the job's resolved config.
        fingerprint: of its data, see Study.fingerprint.
    """
    decides = {key: value for key, value in config.items() if key not in _NO_MATTER}
    if isinstance(trainer := decides.get("trainer"), Mapping):
        decides["trainer"] = {k: v for k, v in trainer.items() if k not in _NO_MATTER_IN_TRAINER}
    text = json.dumps({"config": decides, "data": fingerprint}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
