"""What a run's data is, in short: whether it is still the same when the run goes on, and if not, what differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

#: In a run's folder: {split: {id of a sample: size and content of its label map, in short}}.
DATA_FILE = "data.json"

Samples = Mapping[str, Mapping[str, str]]


def fingerprint(samples: Samples, label_space: Mapping[str, Any]) -> dict[str, Any]:
    """
    Args:
        samples: as `DATA_FILE` has them.
        label_space: `LabelSpace.to_dict()`.

    Returns:
        `labels`, and of each split `images` and `digest`: of ids in their order, sizes and label maps.
    """
    splits = {name: {"images": len(rows), "digest": _digest(list(rows.items()))} for name, rows in samples.items()}
    return {"labels": _digest(label_space), **splits}


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], old_samples: Samples | None, new_samples: Samples
) -> list[str]:
    """What is not as it was, in words.

    Args:
        old, new: fingerprints; splits that the old one does not have are passed over.
        old_samples: those of the old fingerprint, if they are known; what is not of it is not looked at.
    """
    found = []
    if old.get("labels") not in (None, new["labels"]):
        found.append("the label space is another")
    for split in new_samples:
        then, now = old.get(split), new[split]
        if then is None or then == now:
            continue
        before, after = (old_samples or {}).get(split), new_samples[split]
        if before is None or _digest(list(before.items())) != then["digest"]:
            counts = f"{then['images']} images then, {now['images']} now"
            found.append(f"{split}: other ids, sizes or masks ({counts})")
            continue
        gone = [name for name in before if name not in after]
        added = [name for name in after if name not in before]
        changed = [name for name, entry in after.items() if before.get(name, entry) != entry]
        told = [
            f"{len(names)} {what} ({_some(names)})"
            for names, what in ((gone, "gone"), (added, "new"), (changed, "with another mask"))
            if names
        ]
        found.append(f"{split}: {', '.join(told) or 'in another order'}")
    return found


def _digest(data: Any) -> str:
    return hashlib.blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=16).hexdigest()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
