"""The digest of what a role is asked to run: equal at the job and at its sites, so that a site can approve exactly that."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

COVERED = ("job", "algorithm", "selector", "sampler", "privacy", "model")
"""Groups of the job's configuration that say what is computed. The others say how it travels, or are the site's own."""
DIGEST = re.compile(r"[0-9a-fA-F]{64}")


def digest_of(part: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of role, code, functions and configuration of a worker's part of the plan.

    The workers of one role have the same.
    """
    asked = {
        "role": part["worker"]["role"],
        "code": part["code"],
        "tags": part["tags"],
        "config": {key: part["config"].get(key) for key in COVERED},
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
