"""What the doctor says: findings, and the report that holds them, as text and as plain data."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from typing import Any, Literal

from ..errors import DataError
from ..figures import percent

Level = Literal["error", "warning", "info"]
_ORDER: tuple[Level, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor noticed.

    Attributes:
        level: `error` if training on this would fail or teach something that is not meant, `warning` if it may,
            `info` if it is only good to know.
        code: its name, the same in every version; docs/doctor.md lists them.
        seen: what was seen, with figures and file names.
        cure: what to write in the recipe, or to do about the files.
    """

    level: Level
    code: str
    seen: str
    cure: str


class DoctorError(DataError):
    """Data that would train something else than was meant; the message holds every error finding."""


@dataclass(frozen=True)
class Report:
    """Findings, errors first, and an overview of what was read.

    Attributes:
        overview: plain data: `num_labels`, `splits` (rows and how many were read), `ids` (shares of pixels), of a
            recipe `magnification` (see `data.magnification`) and, of a checkpoint, `checkpoint` (its mean IoU here and
            in its own evaluation).
    """

    findings: tuple[Finding, ...] = ()
    overview: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.findings, key=lambda finding: _ORDER.index(finding.level)))
        object.__setattr__(self, "findings", ordered)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        found = [(sum(finding.level == level for finding in self.findings), level) for level in _ORDER]
        counts = [f"{n} {level}{'' if n == 1 or level == 'info' else 's'}" for n, level in found if n]
        codes = ", ".join(dict.fromkeys(finding.code for finding in self.findings))
        return f"Report({', '.join(counts)}: {codes})" if counts else "Report(no findings)"

    def _repr_html_(self) -> str:
        """For notebooks."""
        return f"<pre>{escape(self.text())}</pre>"

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def codes(self) -> set[str]:
        return {finding.code for finding in self.findings}

    def with_findings(self, more: Sequence[Finding]) -> Report:
        """The same report with further findings."""
        return Report((*self.findings, *more), self.overview)

    def joined(self, other: Report) -> Report:
        """Both reports as one."""
        return Report((*self.findings, *other.findings), {**self.overview, **other.overview})

    def with_warnings(self, codes: Collection[str]) -> Report:
        """The same report, in which the findings of these codes are warnings at most."""
        lowered = [replace(f, level="warning") if f.level == "error" and f.code in codes else f for f in self.findings]
        return Report(tuple(lowered), self.overview)

    def without(self, other: Report) -> Report:
        """The same report without what another one says in the same words."""
        return Report(tuple(finding for finding in self.findings if finding not in other.findings), self.overview)

    def raise_on_error(self, hint: str = "") -> None:
        """Stop where there are errors.

        Args:
            hint: a last line, such as how to go on regardless.

        Raises:
            DoctorError: with every error finding.
        """
        if self.errors:
            told = [_finding_text(finding) for finding in self.errors]
            raise DoctorError("\n".join(["the data contradict the recipe.", *told, *([hint] if hint else [])]))

    def to_dict(self) -> dict[str, Any]:
        """`findings` (a list of dicts with level, code, seen, cure), `errors`, `warnings` (counts), `overview`."""
        counts = {f"{level}s": sum(finding.level == level for finding in self.findings) for level in _ORDER[:2]}
        return {"findings": [asdict(finding) for finding in self.findings], **counts, "overview": self.overview}

    def to_json(self) -> str:
        """`to_dict` as a JSON document."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def text(self) -> str:
        """For people: the overview, the findings, and a line that sums them up."""
        lines = _overview_lines(self.overview)
        for finding in self.findings:
            lines += ["", _finding_text(finding)]
        counts = [sum(finding.level == level for finding in self.findings) for level in _ORDER[:2]]
        words = [f"{n} {word}{'' if n == 1 else 's'}" for n, word in zip(counts, _ORDER[:2], strict=True)]
        return "\n".join([*lines, "", f"{', '.join(words)}."]).lstrip("\n")


def _finding_text(finding: Finding) -> str:
    return f"{finding.level}: {finding.code}\n  {finding.seen}\n  {finding.cure}"


def _overview_lines(overview: dict[str, Any]) -> list[str]:
    splits = overview.get("splits", {})
    lines = [f"{name}: {split['rows']} pairs, {split['read']} read" for name, split in splits.items()]
    if rows := overview.get("ids", []):
        width = max(len("class"), *(len(row["name"]) for row in rows)) + 2
        lines.append(f"{overview['num_labels']} classes are learned; shares of all pixels:")
        lines.append(f"{'id':>6}  {'class':{width}}" + "".join(f"{name:>12}" for name in splits))
        for row in rows:
            shares = "".join(f"{share_text(row['shares'].get(name, 0.0)):>12}" for name in splits)
            lines.append(f"{row['id']:>6}  {row['name']:{width}}{shares}")
    if shown := overview.get("magnification"):
        low, high = shown["training_range"]
        lines.append(
            f"stored images are shown {shown['training']:.2f} times as large in training (mean; {low:.2f} to "
            f"{high:.2f}) and {shown['evaluation']:.2f} times in evaluation; {share_text(shown['padding'])} of the "
            "crops is padding"
        )
    if checkpoint := overview.get("checkpoint"):
        lines.append(_checkpoint_line(checkpoint))
    return lines


def _checkpoint_line(measured: dict[str, Any]) -> str:
    here, stored, images = measured["mean_iou"], measured["stored_mean_iou"], measured["stored_images"]
    on = f" on {images} images" if images else ""
    return f"checkpoint: mean IoU {percent(here, 1)} on {measured['images']} images of this dataset, " + (
        f"{percent(stored, 1)}{on} in its metrics.json" if stored is not None else "none in its metrics.json"
    )


def share_text(share: float) -> str:
    """A share for reading: `0 %`, `0.004 %`, `12.3 %`."""
    percent = 100 * share
    return "0 %" if percent == 0 else f"{percent:.1f} %" if percent >= 0.1 else f"{percent:.2g} %"


def some(names: Sequence[Any], most: int = 4) -> str:
    """The first few of many: `a, b and 7 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
