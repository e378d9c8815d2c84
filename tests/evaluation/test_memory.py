"""An evaluation keeps counts, and of no image its scores, prediction or truth."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_process_does_not_grow_with_the_images_it_evaluates():
    # in a process of its own: memory that others have freed would take what is kept, and nothing would grow
    command = [sys.executable, "benchmarks/bench_evaluation_memory.py", "--json", "--images", "300", "--first", "100"]
    done = subprocess.run(
        [*command, "--size", "128", "--classes", "8"],
        cwd=ROOT,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed goes back to the system
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout.splitlines()[-1])
    assert len(sizes) == 300
    kept = max(sizes[200:]) - max(sizes[:100])  # one byte a pixel of 200 images would be 4 MiB
    assert kept < 3 * 2**20, f"{kept / 2**20:.1f} MiB"
