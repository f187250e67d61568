"""Digests and versions; how weights load is tested with the segmenter."""

import platform

import monai
import nibabel
import numpy
import pytest
import torch
from conftest import BUNDLE

import cardiac_cine
from cardiac_cine.errors import InputError
from cardiac_cine.files import sha256
from cardiac_cine.handlers import Checkpoints
from cardiac_cine.weights import checksum_file, load_checkpoint, load_weights, versions

SHIPPED = BUNDLE / "models" / Checkpoints.MODEL


def test_weights_must_match_the_checksum_beside_them(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(1)}, path)
    checksum_file(path).write_text(f"{sha256(path)}  model.pt\n")
    assert load_checkpoint(path)["weight"] == 0
    torch.save({"weight": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"model\.pt: SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64} as in model"):
        load_checkpoint(path)
    checksum_file(path).write_bytes(b"")
    with pytest.raises(InputError, match=r"expected one as in model\.pt\.sha256; the file is damaged, or was"):
        load_checkpoint(path)


@pytest.mark.parametrize(("fewer", "more"), [(1, 3), (1, 5), (3, 5)])
def test_weights_of_a_network_that_saw_fewer_neighbours_go_on_with_more(tmp_path, fewer, more):
    old, new = (torch.nn.Sequential(torch.nn.Conv2d(n, 2, 3), torch.nn.Conv2d(2, 1, 1)) for n in (fewer, more))
    torch.save(old.state_dict(), tmp_path / "model.pt")
    load_weights(new, tmp_path / "model.pt", widen=True)
    stack, outer = torch.rand(1, more, 8, 8), (more - fewer) // 2
    torch.testing.assert_close(new(stack), old(stack[:, outer : more - outer]))
    shapes = rf"0.weight \(2, {fewer}, 3, 3\) instead of \(2, {more}, 3, 3\)"
    with pytest.raises(InputError, match=f"differs in shape: {shapes}"):
        load_weights(new, tmp_path / "model.pt")


@pytest.mark.parametrize(("given", "wanted"), [(3, 1), (1, 2), (5, 3)])
def test_weights_of_other_neighbours_do_not_fit(tmp_path, given, wanted):
    torch.save(torch.nn.Conv2d(given, 2, 3).state_dict(), tmp_path / "model.pt")
    with pytest.raises(InputError, match="differs in shape: weight"):
        load_weights(torch.nn.Conv2d(wanted, 2, 3), tmp_path / "model.pt", widen=True)


def test_versions_are_those_that_run():
    assert versions() == {
        "cardiac_cine": cardiac_cine.__version__,
        "python": platform.python_version(),
        "monai": monai.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "nibabel": nibabel.__version__,
    }


@pytest.mark.skipif(SHIPPED.with_name(Checkpoints.PREVIOUS).exists(), reason="the weights were trained anew here")
def test_the_model_card_names_the_shipped_weights():
    assert sha256(SHIPPED) in (BUNDLE / "docs" / "README.md").read_text()
    assert checksum_file(SHIPPED).read_text() == f"{sha256(SHIPPED)}  model.pt\n"
    assert SHIPPED.stat().st_size <= 25 * 2**20
