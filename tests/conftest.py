"""Fixtures shared by all tests: the real ACDC data where there is a copy, and phantoms where there is none."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
BUNDLE = REPO / "bundle"


@pytest.fixture(scope="session")
def acdc_dir() -> Path:
    """The ACDC root that holds training/patientXXX, or a skip with the reason."""
    if not os.environ.get("ACDC_DIR"):
        pytest.skip("needs the ACDC training data: ACDC_DIR is not set")
    root = Path(os.environ["ACDC_DIR"]).resolve()
    if not (root / "training").is_dir():
        pytest.skip(f"needs the ACDC training data: {root}/training is missing")
    return root


@pytest.fixture(scope="session")
def phantom_acdc(tmp_path_factory) -> Path:
    """Five small phantom patients laid out as ACDC, ED and ES frames with references."""
    from cardiac_cine.datasets.phantom import write_acdc

    root = tmp_path_factory.mktemp("phantoms")
    write_acdc(root, 5, seed=3, shape=(112, 128), spacing_mm=(2.0, 2.0, 12.0), oblique=False)
    return root


@pytest.fixture(scope="session")
def small_training(phantom_acdc) -> dict:
    """Overrides that make the shipped training recipe small enough for a test."""
    return {
        "dataset_dir": str(phantom_acdc),
        "bundle_root": str(BUNDLE),
        "phantoms": 0,
        "filters": [4, 8, 16],
        "spacing_mm": [2.8, 2.8, -1],
        "slice_size": [96, 96, -1],
        "crop_size": [64, 64],
        "batch_size": 8,
        "max_epochs": 2,
        "val_interval": 1,
        "warmup_iterations": 2,
        "learning_rate": 0.01,
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def one_thread():
    """Keep small networks from waiting for other processes' threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
