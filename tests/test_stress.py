import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import cli
import nibabel as nib
import numpy as np
import pytest
import stress
from conftest import REPO
from test_inference_bundle import write_bundle

from cardiac_cine import perturbations
from cardiac_cine.cases import Case
from cardiac_cine.errors import InputError
from cardiac_cine.labels import MYO
from cardiac_cine.perturbations import Perturbation
from cardiac_cine.segmenter import Segmenter


def run(*arguments):
    script = REPO / "scripts" / "stress.py"
    return subprocess.run([sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True)


class Oracle:
    """Reads the mask off an image that shows its labels as evenly spaced greys."""

    ckpt_path = Path("none.pt")

    def __init__(self):
        self.seen = []

    def segment(self, frame):
        self.seen.append(frame)
        low, high = frame.array.min(), frame.array.max()
        return np.rint(3 * (frame.array - low) / (high - low)).astype(np.uint8)


@pytest.fixture
def readable(phantom_acdc, tmp_path):
    """The phantoms with their labels for images."""
    root = tmp_path / "readable"
    shutil.copytree(phantom_acdc, root)
    for path in root.rglob("*_gt.nii.gz"):
        label = nib.load(path)
        image = nib.Nifti1Image(np.asarray(label.dataobj).astype(np.int16) * 100, label.affine)
        nib.save(image, path.with_name(path.name.replace("_gt", "")))
    return root


@pytest.fixture
def oracle(monkeypatch):
    found = Oracle()
    monkeypatch.setattr(Segmenter, "from_bundle", lambda *_, **__: found)
    return found


def table(folder):
    found = json.loads((folder / "stress.json").read_text())
    return found, {(row["perturbation"], row["level"]): row for row in found["perturbations"]}


def test_references_follow_every_change_of_grid(readable, oracle, tmp_path):
    moves = "rotations,flips,slice_order,field_of_view,missing_slice,image_size,intensity,storage"
    assert stress.stress(str(readable), output_dir=str(tmp_path / "out"), frames=2, only=moves) == 0
    found, rows = table(tmp_path / "out")
    assert len(rows) == 3 + 2 + 1 + 1 + 2 + 2 + 4 + 3
    assert found["clean"] == {"mean": 1, "rv": 1, "myo": 1, "lv": 1}
    assert {row["dice"]["mean"] for row in rows.values()} == {1}
    assert len(found["frames"]) == 2
    assert found["clean_dice_of_frames"] == rows["flips", "along x"]["dice_of_frames"] == [1, 1]
    assert all(row["within"] for row in rows.values()) and found["within_limits"]
    shapes = {frame.array.shape[:2] for frame in oracle.seen}
    assert {(112, 128), (128, 112), (512, 512), (111, 127)} <= shapes
    assert all(frame.array.dtype == np.float32 for frame in oracle.seen)


def test_resampled_references_have_the_images_grid(readable, oracle, tmp_path):
    stress.stress(str(readable), output_dir=str(tmp_path / "out"), frames=1, only="pixel_size")
    rows = table(tmp_path / "out")[1]
    # Linear greys against nearest labels differ at the edges alone, most so in the thin wall.
    assert all(row["dice"]["lv"] > 0.9 for row in rows.values())
    spacings = [frame.spacing_mm[0] for frame in oracle.seen]
    assert spacings == pytest.approx([2, 1.2, 1.6, 2.5, 3.2])


def test_beyond_a_limit_the_table_is_written_and_the_exit_code_is_2(readable, oracle, tmp_path, capsys, monkeypatch):
    # The greys of RV and MYO, 1/3 and 2/3, become 0.19 and 0.54, which are read as before, or 0.04 and 0.30, which are
    # read as background and RV.
    levels = tuple(
        Perturbation("gamma", str(power), power == 3, lambda stack, _, power=power: perturbations.gamma(stack, power))
        for power in (1.5, 3)
    )
    monkeypatch.setattr(perturbations, "PERTURBATIONS", levels)
    assert stress.stress(str(readable), output_dir=str(tmp_path / "out"), frames=1) == 2
    found, rows = table(tmp_path / "out")
    weak, strong = rows["gamma", "1.5"], rows["gamma", "3"]
    assert (weak["difference"], weak["limit"], weak["within"]) == (0, 0.02, True)
    assert strong["dice"] == {"mean": pytest.approx(1 / 3), "rv": 0, "myo": 0, "lv": 1}
    assert (strong["difference"], strong["limit"], strong["within"]) == (pytest.approx(-2 / 3), 0.04, False)
    assert not found["within_limits"]
    text = (tmp_path / "out" / "stress.md").read_text()
    lines = text.splitlines()
    assert lines[2] == "| none |  | 1.0000 | 1.0000 | 1.0000 | 1.0000 |  |  |  |"
    assert lines[4] == "| gamma | 3 | 0.3333 | 0.0000 | 0.0000 | 1.0000 | -0.6667 | -0.04 | no |"
    assert lines[-1] == "Frames: 1, of the validation section of split tutorial. Within the limits: 1 of 2."
    assert text in capsys.readouterr().out


def test_inverted_contrast_informs_only(readable, oracle, tmp_path):
    assert stress.stress(str(readable), output_dir=str(tmp_path), frames=1, only="inverted_contrast") == 0
    row = table(tmp_path)[0]["perturbations"][0]
    assert row["difference"] < -0.5 and row["limit"] is None and row["within"] is None
    assert "Within the limits: 0 of 0." in (tmp_path / "stress.md").read_text()


def test_what_neither_mask_holds_is_left_out(readable, oracle, tmp_path):
    for path in readable.rglob("*_gt.nii.gz"):
        label = nib.load(path)
        array = np.asarray(label.dataobj).copy()
        array[array == MYO] = 0
        for name, values in ((path.name, array), (path.name.replace("_gt", ""), array.astype(np.int16) * 100)):
            nib.save(nib.Nifti1Image(values, label.affine), path.with_name(name))
    assert stress.stress(str(readable), output_dir=str(tmp_path), frames=1, only="flips") == 0
    found = table(tmp_path)[0]
    assert found["clean"] == {"mean": 1, "rv": 1, "myo": None, "lv": 1}
    assert (
        "| flips | along x | 1.0000 | 1.0000 | - | 1.0000 | +0.0000 | -0.02 | yes |"
        in (tmp_path / "stress.md").read_text()
    )


def test_the_command_line_runs_a_bundle(phantom_acdc, tmp_path, monkeypatch, capsys):
    shutil.copytree(phantom_acdc, tmp_path / "thin")
    for path in (tmp_path / "thin").rglob("*.nii.gz"):
        nib.save(nib.load(path).slicer[:, :, 4:6], path)  # what a random network finds takes long to repair
    bundle, out = write_bundle(tmp_path / "bundle"), tmp_path / "out"
    arguments = [tmp_path / "thin", "--output_dir", out, "--frames", 1, "--only", "rotations,storage"]
    arguments += ["--bundle_root", bundle, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["stress.py", *map(str, arguments)])
    code = cli.main(stress.stress, "stress.py")
    found, rows = table(out)
    assert code == (0 if found["within_limits"] else 2)
    assert list(rows) == [("rotations", f"{n} degrees") for n in (90, 180, 270)] + [
        ("storage", dtype) for dtype in ("float32", "int16", "uint8")
    ]
    assert rows["storage", "float32"]["difference"] == 0  # the file gives back the frame
    assert found["ckpt_path"] == str(bundle / "models" / "model.pt") and len(found["frames"]) == 1
    assert (out / "stress.md").read_text() in capsys.readouterr().out


def test_wrong_input_is_named(phantom_acdc, tmp_path):
    done = run(phantom_acdc, "--output_dir", tmp_path / "out", "--only", "rotations,turns,tilts")
    assert (done.returncode, done.stdout) == (1, "")
    assert "only: no perturbations named 'turns', 'tilts', expected some of ['rotations', 'flips'" in done.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="frames is 0, expected at least 1"):
        stress.stress(str(phantom_acdc), frames=0)


def test_random_perturbations_are_those_of_the_frame(readable, oracle, tmp_path):
    for folder, only in (("all", "blur,gaussian_noise"), ("alone", "gaussian_noise")):
        stress.stress(str(readable), output_dir=str(tmp_path / folder), frames=1, only=only)
    first, second = oracle.seen[1:4], oracle.seen[7:]
    assert not np.array_equal(first[0].array, oracle.seen[0].array)
    assert all(np.array_equal(*(frame.array for frame in pair)) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("mean", "strongest", "limited", "within"),
    [
        (0.90, False, True, True),
        (0.95, False, True, True),
        (0.88, False, True, True),  # 0.88 - 0.90 is a little more than 0.02 in binary fractions
        (0.8799, False, True, False),
        (0.8799, True, True, True),
        (0.86, True, True, True),
        (0.8599, True, True, False),
        (0.10, False, False, None),
        (math.nan, False, True, False),
        (math.nan, False, False, None),
    ],
)
def test_limits(mean, strongest, limited, within):
    perturbation = Perturbation("blur", "much", strongest, lambda stack, _: stack, limited)
    row = stress.row(perturbation, {"mean": mean}, 0.90)
    assert row["within"] is within
    assert row["limit"] == ((0.04 if strongest else 0.02) if limited else None)
    assert stress.within_limits([row]) is (within is not False)


def test_one_row_beyond_its_limit_is_enough():
    assert stress.within_limits([{"within": True}, {"within": None}])
    assert not stress.within_limits([{"within": True}, {"within": False}, {"within": None}])


def listed(patients):
    return [
        Case(f"p{p}", phase, Path(f"p{p}_{phase}.nii.gz"), Path(f"p{p}_{phase}_gt.nii.gz"))
        for p in range(patients)
        for phase in ("ED", "ES")
    ]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, "p0_ED"),
        (2, "p0_ED p2_ES"),
        (4, "p0_ED p1_ES p2_ED p3_ES"),
        (6, "p0_ED p0_ES p1_ES p2_ED p2_ES p3_ES"),
        (8, "p0_ED p0_ES p1_ED p1_ES p2_ED p2_ES p3_ED p3_ES"),
        (99, "p0_ED p0_ES p1_ED p1_ES p2_ED p2_ES p3_ED p3_ES"),
    ],
)
def test_frames_are_spread_over_patients(count, expected):
    assert " ".join(case.name for case in stress.spread_over_patients(listed(4), count)) == expected
