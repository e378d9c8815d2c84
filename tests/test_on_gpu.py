"""The accelerator's script, on a processor: a result file a part, and a part that fails is told and stops nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "on_gpu.sh"


def run(*arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": python, "OMP_NUM_THREADS": "1"}
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env=environment, timeout=280)


def test_a_part_leaves_its_table(tmp_path: Path) -> None:
    done = run("--device", "cpu", "--tiny", "--out", str(tmp_path), "equality")
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "equality.md").read_text()
    assert text.startswith("# equality\n") and "torch 2" in text and "Done in" in text
    # on the device that is the processor, a score is what it is there
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| mask2former")]
    assert [float(row[2]) for row in rows] == [0.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["equality.md"]


def test_parts_that_fail_are_told_and_counted(tmp_path: Path) -> None:
    """With `false` for a Python, every part fails; the files say so, and all of them were tried."""
    done = run("--device", "cpu", "--tiny", "--out", str(tmp_path), python="false")
    parts = "models steps loss inference compile memory equality training".split()
    assert done.returncode == len(parts)
    for part in parts:
        assert "Not complete: failed with status 1" in (tmp_path / f"{part}.md").read_text()
    slow = tmp_path / "slow"
    slow.write_text('#!/bin/sh\n[ "$2" = machine ] || exec sleep 30\n')
    slow.chmod(0o755)
    done = run("--device", "cpu", "--limit", "1", "--out", str(tmp_path), "loss", python=str(slow))
    assert done.returncode == 1 and "stopped after 1 s" in (tmp_path / "loss.md").read_text()


@pytest.mark.parametrize("arguments", [["nothing"], ["--nothing"], ["--limit"]])
def test_what_there_is_not_is_refused(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 64
