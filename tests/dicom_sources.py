"""Small DICOM cines for the tests of what is written about them."""

import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cardiac_cine.cine import Cine
from cardiac_cine.datasets.dicom_cine import scan
from cardiac_cine.datasets.phantom import PhantomCine, PhantomSpec, render
from cardiac_cine.datasets.phantom_dicom import write_dicom

SPEC = PhantomSpec(shape=(80, 96), spacing_mm=(3.0, 2.5, 15.0), phases=4, centre_mm=(-8.0, -4.0))


@cache
def phantom() -> PhantomCine:
    return render(SPEC)


def write_cine(folder: Path, layout: str = "phase_major", seed: int = 0) -> Cine:
    """Write a phantom of 4 phases as DICOM and read it as a cine; another seed makes it another study."""
    write_dicom(phantom(), folder, layout=layout, seed=seed)
    [stack] = scan(folder).stacks
    return stack.read()


def random_masks(cine: Cine, seed: int = 0) -> np.ndarray:
    """Return labels of which no slice, phase or flip is like another."""
    return np.random.default_rng(seed).integers(0, 4, cine.array.shape, dtype=np.uint8)


def conformance_problems(path: Path) -> list[str]:
    """Return what dicom3tools' dciodvfy has against a file, but for codes of the private scheme."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian: dicom3tools)")
    output = subprocess.run(["dciodvfy", path], capture_output=True, text=True).stderr
    lines = [line for line in output.splitlines() if line.startswith(("Error", "Warning"))]
    return [line for line in lines if "99CARDIACCINE" not in line]
