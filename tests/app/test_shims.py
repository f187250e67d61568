import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="needs the annotation server's packages (make app)")
NAMES = ("girder_client", "itk", "pydicom_seg", "torchvision")


def run(code, *path, isolated=False):
    command = [sys.executable, *(["-I"] if isolated else []), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": ":".join(map(str, path))})
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def installed(name):
    return run(f"import {name}; print({name}.__file__)", isolated=True).startswith("/")


@pytest.mark.parametrize("name", NAMES)
def test_a_stand_in_is_offered_to_monai_label_only(name):
    if installed(name):
        pytest.skip(f"{name} itself is installed")
    assert run(f"import {name}", isolated=True) == f"ModuleNotFoundError: No module named '{name}'"
    assert run(f"import monailabel, {name}; print({name}.__name__)", isolated=True).endswith(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_real_package_is_never_shadowed(name, tmp_path):
    (tmp_path / f"{name}.py").write_text("REAL = True")
    assert run(f"import monailabel, {name}; print({name}.REAL)", tmp_path) == "True"


def test_a_stand_in_fails_when_it_is_used():
    if installed("itk") or installed("torchvision"):
        pytest.skip("a real package is installed")
    assert "itk is not installed; this is a stand-in" in run("import monailabel, itk; itk.imwrite")
    code = "import monailabel; from torchvision.utils import make_grid; make_grid([])"
    assert run(code).startswith("ImportError: torchvision.utils is not installed")


def test_monai_takes_a_stand_in_for_not_installed():
    if installed("itk") or installed("torchvision"):
        pytest.skip("a real package is installed")
    code = """
import monailabel, itk, torchvision.utils
from monai.utils import optional_import
print(optional_import("itk")[1], optional_import("torchvision")[1], optional_import("torchvision.utils", name="x")[1])
"""
    assert run(code) == "False False False"


def test_every_interpreter_has_the_finder_and_nothing_heavy():
    code = "import sys; print(*({'cardiac_label_shims', 'monailabel', 'torch', 'numpy'} & set(sys.modules)))"
    assert run(code, isolated=True) == "cardiac_label_shims"


def test_every_stand_in_is_explained():
    shims = Path(__file__).resolve().parents[2] / "monailabel_app" / "shims"
    text = (shims / "cardiac_label_shims.py").read_text()
    for name in NAMES:
        assert f"\n{name} " in text
    assert "github.com/Project-MONAI/MONAILabel/issues/1841" in text
