import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, onnx_export, verify_net_in_out
from monai.data import MetaTensor
from monai.transforms import SaveImaged
from scipy import ndimage
from test_images import affine_of, heart, write_like_acdc, write_stack

import cardiac_cine
from cardiac_cine.anatomy import degenerated_slices
from cardiac_cine.errors import InputError
from cardiac_cine.files import sha256
from cardiac_cine.images import read_frame
from cardiac_cine.labels import NUM_CLASSES, STRUCTURE_IDS, STRUCTURES
from cardiac_cine.postprocess import RepairAnatomyd, largest_components
from cardiac_cine.weights import checksum_file

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
INFERENCE = BUNDLE / "configs" / "inference.json"
METADATA = BUNDLE / "configs" / "metadata.json"
SCHEMA = json.loads(Path(__file__).with_name("zoo_metadata_schema.json").read_text())
PROMISED_IDS = ["bundle_root", "device", "dataset_dir", "output_dir", "network_def", "preprocessing", "inferer"]
PROMISED_IDS += ["postprocessing", "dataset", "dataloader", "evaluator", "initialize", "run"]
pytestmark = pytest.mark.usefixtures("one_thread")
# The shipped kind of network with six levels of few channels, so that tests take seconds.
TINY_FILTERS = [4] * 6


@pytest.fixture
def metadata():
    return json.loads(METADATA.read_text())


def read_config(**overrides):
    parser = ConfigParser()
    parser.read_config(str(INFERENCE))
    parser.update({"filters": TINY_FILTERS, "device": "cpu", **overrides})
    return parser


def write_bundle(root, **overrides):
    """Copy what inference needs of the bundle, with a tiny network of random weights."""
    shutil.copytree(BUNDLE / "configs", root / "configs")
    shutil.copytree(BUNDLE / "cardiac_cine", root / "cardiac_cine", ignore=shutil.ignore_patterns("__pycache__"))
    config = json.loads(INFERENCE.read_text()) | {"filters": TINY_FILTERS, **overrides}
    (root / "configs" / "inference.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    (root / "models").mkdir()
    network = read_config(**overrides).get_parsed_content("network_def")
    torch.save(network.state_dict(), root / "models" / "model.pt")
    return root


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle") / "cardiac_cine_segmentation")


def write_dataset(root):
    """Frames as they come, each with its case name, among files that are no frames."""
    frames = {
        "patient001_frame01": write_like_acdc(root / "patient001_frame01.nii.gz"),
        "oblique": write_stack(root / "study" / "oblique.nii.gz"),
        "odd.size": write_stack(root / "study" / "odd.size.nii", heart((101, 67, 3)), affine_of((0.9, 1.9, 6))),
    }
    for name in ("patient001_frame01_gt", "patient001_4d", "earlier/patient001_frame01_seg", "study/.hidden"):
        write_stack(root / f"{name}.nii.gz", np.ones((4, 4)))
    return frames


def run_inference(bundle, dataset_dir, output_dir, **overrides):
    workflow = ConfigWorkflow(
        workflow_type="inference",
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(dataset_dir),
        output_dir=str(output_dir),
        device="cpu",
        **overrides,
    )
    workflow.initialize()
    workflow.run()


def test_metadata_keeps_the_zoos_rules(metadata):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(metadata, SCHEMA)
    assert metadata["version"] in metadata["changelog"]
    assert metadata["version"] == cardiac_cine.__version__


@pytest.mark.parametrize(
    "edit",
    [
        lambda metadata: metadata.pop("authors"),
        lambda metadata: metadata.update(version="1"),
        lambda metadata: metadata.update(description=""),
        lambda metadata: metadata.update(eval_metrics={}),
        lambda metadata: metadata.update(optional_packages_version={}),
        lambda metadata: metadata["network_data_format"]["inputs"].pop("image"),
        lambda metadata: metadata["network_data_format"]["outputs"]["pred"].pop("channel_def"),
        lambda metadata: metadata["network_data_format"]["inputs"]["image"].update(spatial_shape=["32*n", "32*n"]),
        lambda metadata: metadata["network_data_format"]["inputs"]["image"].update(format="picture"),
    ],
)
def test_metadata_rules_refuse(metadata, edit):
    edit(metadata)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(metadata, SCHEMA)


def test_metadata_is_true(metadata):
    image, pred = (
        metadata["network_data_format"][side][key] for side, key in (("inputs", "image"), ("outputs", "pred"))
    )
    config = read_config()
    network = config.get_parsed_content("network_def")
    assert (image["num_channels"], pred["num_channels"]) == (network.in_channels, network.out_channels)
    assert (network.in_channels, network.out_channels) == (1 + 2 * config["context"], NUM_CLASSES)
    assert pred["channel_def"] == {"0": "background"} | {str(item.id): item.name for item in STRUCTURES}
    for item in STRUCTURES:
        assert f"{item.id} {item.name}" in metadata["label_classes"]
    assert image["spatial_shape"] == config["crop_size"]
    assert pred["spatial_shape"] == image["spatial_shape"]


def test_metadata_versions_are_installed_or_older(metadata):
    declared = {
        name: metadata[f"{key}_version"] for name, key in (("monai", "monai"), ("torch", "pytorch"), ("numpy", "numpy"))
    }
    declared |= metadata["required_packages_version"]

    def parts(text):
        return [int(part) for part in re.match(r"[\d.]*\d", text)[0].split(".")]

    assert {name: version(name) for name, needed in declared.items() if parts(version(name)) < parts(needed)} == {}


def imported(path):
    """Top-level names that a module imports, but for those that only type checkers see."""
    found, waiting = set(), [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            waiting += ast.iter_child_nodes(node)
    return found


def test_metadata_declares_what_the_bundle_imports_as_pinned(metadata):
    names = set().union(*(imported(path) for path in (BUNDLE / "cardiac_cine").rglob("*.py")))
    third_party = names - sys.stdlib_module_names - {"cardiac_cine"}
    distributions = packages_distributions()
    needed = {distributions[name][0].lower() for name in third_party} - {"markupsafe"}  # Jinja2's own
    needed |= {"fire", "tensorboard"}  # MONAI's command line, and train.json's TensorBoardStatsHandler
    declared = metadata["required_packages_version"] | {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
    }
    assert {name.lower() for name in declared} == needed
    pinned = dict(re.findall(r"(?m)^([\w-]+)==([\d.]+)", (BUNDLE.parent / "requirements.txt").read_text()))
    assert declared == pinned


def test_config_needs_little_beside_monai():
    text = INFERENCE.read_text()
    config = read_config()
    for name in PROMISED_IDS:
        assert name in config
    targets = re.findall(r'"_target_": "([\w.]+)"', text)
    assert len(targets) == text.count("_target_")
    assert {target for target in targets if "." in target} == {
        "cardiac_cine.training.amp_dtype",
        "cardiac_cine.handlers.LoadWeights",
        "cardiac_cine.images.check_frames",
        "cardiac_cine.images.find_frames",
        "cardiac_cine.inferers.HeartWindowInferer",
        "cardiac_cine.inferers.window_size",
        "cardiac_cine.postprocess.MostLikelyd",
        "cardiac_cine.postprocess.RepairAnatomyd",
        "cardiac_cine.transforms.RightHandedd",
    }
    stock = [target for target in targets if "." not in target]
    assert all(config.locator.get_component_module_name(target).startswith("monai.") for target in stock)


def test_properties_are_complete(tiny_bundle, tmp_path):
    workflow = ConfigWorkflow(
        workflow_type="inference",
        config_file=str(tiny_bundle / "configs" / "inference.json"),
        logging_file=False,
        bundle_root=str(tiny_bundle),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_runs_from_another_directory(tiny_bundle, tmp_path):
    frames = write_dataset(tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", tiny_bundle / "configs" / "inference.json"]
    command += ["--bundle_root", tiny_bundle, "--dataset_dir", "../data", "--output_dir", "../out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += ["--device", "cpu"]
    subprocess.run(command, cwd=tmp_path / "elsewhere", env=environment, check=True, capture_output=True)
    written = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*") if path.is_file()
    }
    assert written == {f"{name}/{name}_seg.nii.gz" for name in frames}
    assert not list((tmp_path / "elsewhere").iterdir())
    for name, path in frames.items():
        mask, frame = nib.load(tmp_path / "out" / name / f"{name}_seg.nii.gz"), read_frame(path)
        assert mask.get_data_dtype() == np.uint8
        assert mask.shape == frame.array.shape
        np.testing.assert_allclose(mask.affine, frame.affine, atol=1e-5)
        np.testing.assert_allclose(mask.header.get_zooms(), frame.spacing_mm, rtol=1e-5)
        array = np.asarray(mask.dataobj)
        assert set(np.unique(array)) <= {0, *STRUCTURE_IDS}
        assert all(ndimage.label(array == item, np.ones((3, 3, 3)))[1] <= 1 for item in STRUCTURE_IDS)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "data: no such folder, expected one that holds NIfTI frames"),
        (["a_gt.nii.gz", "a_4d.nii.gz"], "data: no frame below it; only 3D NIfTI frames"),
        (["p1/a.nii.gz", "b.nii", "p2/a.nii"], "p1/a.nii.gz and .*p2/a.nii: the results of both would be named a"),
    ],
)
def test_unusable_dataset_dir_ends_the_run(tiny_bundle, tmp_path, names, message):
    for name in names:
        write_stack(tmp_path / "data" / name)
    with pytest.raises(RuntimeError) as caught:
        run_inference(tiny_bundle, tmp_path / "data", tmp_path / "out")
    causes = [caught.value]
    while causes[-1].__cause__:
        causes.append(causes[-1].__cause__)
    assert isinstance(causes[-1], InputError) and re.search(message, str(causes[-1]))
    assert not (tmp_path / "out").exists()


def test_frames_that_cannot_be_segmented_are_listed_before_any_is(tiny_bundle, tmp_path):
    def changed(name, change):
        path = tmp_path / "data" / name
        image = nib.load(write_stack(path))
        array, affine = change(np.asanyarray(image.dataobj).astype(np.float32), image.affine.copy())
        nib.save(nib.Nifti1Image(array, affine), path)

    def with_nan(array, affine):
        array[0, 0, 0] = np.nan
        return array, affine

    def sheared(array, affine):
        affine[:3, 2] += affine[:3, 0] * 4
        return array, affine

    write_stack(tmp_path / "data" / "good.nii.gz")
    changed("cine.nii.gz", lambda array, affine: (np.stack([array, array], -1), affine))
    changed("constant.nii.gz", lambda array, affine: (np.ones_like(array), affine))
    changed("leaning.nii.gz", sheared)
    changed("nan.nii.gz", with_nan)
    changed("single.nii.gz", lambda array, affine: (array[..., :1], affine))
    with pytest.raises(RuntimeError) as caught:
        run_inference(tiny_bundle, tmp_path / "data", tmp_path / "out")
    problems = caught.value.__cause__.problems
    for name, problem in {
        "cine": "4D image",
        "constant": "all voxels",
        "leaning": "",
        "nan": "NaN",
        "single": "",
    }.items():
        assert any(f"{name}.nii.gz: " in said and problem in said for said in problems), (name, problems)
    assert not any("good" in said for said in problems)
    assert not (tmp_path / "out").exists()


def test_the_data_can_be_given_as_in_any_bundle(tiny_bundle, tmp_path):
    path = write_stack(tmp_path / "data" / "a.nii.gz")
    run_inference(tiny_bundle, tmp_path / "nowhere", tmp_path / "out", **{"dataset#data": [{"image": str(path)}]})
    assert (tmp_path / "out" / "a" / "a_seg.nii.gz").is_file()


def test_missing_weights_end_the_run_by_name(tiny_bundle, tmp_path):
    write_stack(tmp_path / "a.nii.gz")
    with pytest.raises(RuntimeError) as caught:
        run_inference(tiny_bundle, tmp_path, tmp_path, ckpt_path=str(tmp_path / "nowhere.pt"))
    assert isinstance(caught.value.__cause__, InputError)
    assert "nowhere.pt: no such file" in str(caught.value.__cause__)


def test_weights_are_checked_against_their_checksum(tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    model = bundle / "models" / "model.pt"
    write_stack(tmp_path / "data" / "a.nii.gz")
    digest = sha256(model)
    checksum_file(model).write_text(f"{digest}  model.pt\n")
    run_inference(bundle, tmp_path / "data", tmp_path / "out")
    changed = f"{int(digest[0], 16) ^ 1:x}{digest[1:]}"
    checksum_file(model).write_text(f"{changed}  model.pt\n")
    with pytest.raises(RuntimeError) as caught:
        run_inference(bundle, tmp_path / "data", tmp_path / "refused")
    assert f"SHA-256 is {digest}, expected {changed}" in str(caught.value.__cause__)
    assert not (tmp_path / "refused").exists()


def test_preprocessing_resamples_in_plane_only(tmp_path):
    array = np.zeros((96, 80, 6))
    array[..., 2] = heart()[..., 2]
    preprocessing = read_config().get_parsed_content("preprocessing")
    image = preprocessing({"image": str(write_stack(tmp_path / "a.nii.gz", array))})["image"]
    # 96 x 1.6 mm and 80 x 1.3 mm at 1.4 mm are 110 and 74 pixels.
    assert image.shape == (1, 110, 74, 6)
    np.testing.assert_allclose(image.pixdim, (1.4, 1.4, 8.0))
    assert image.min() == 0 and image.max() == 1
    filled = image[0].amax((0, 1))
    assert filled[2] == 1
    np.testing.assert_allclose(filled[[0, 1, 3, 4, 5]], 0, atol=1e-5)


def test_preprocessing_takes_the_true_spacing(tmp_path):
    preprocessing = read_config().get_parsed_content("preprocessing")
    image = preprocessing({"image": str(write_like_acdc(tmp_path / "a.nii.gz"))})["image"]
    assert image.shape == (1, 110, 74, 6)
    np.testing.assert_allclose(image.pixdim, (1.4, 1.4, 8.0), rtol=1e-6)


@pytest.mark.parametrize("write", [write_stack, write_like_acdc])
def test_postprocessing_inverts_the_preprocessing(tmp_path, write):
    config = read_config(output_dir=str(tmp_path / "out"))
    path = write(tmp_path / "a.nii.gz")
    data = config.get_parsed_content("preprocessing")({"image": str(path)})
    # A network that tells intensities apart: the bright ring, the middle inside it, the dark outside.
    image = data["image"][0].as_tensor()
    classes = (image > 0.4).long() + 2 * (image > 0.75).long()
    logits = 20 * torch.nn.functional.one_hot(classes, NUM_CLASSES).movedim(-1, 0).float()
    result = {**data, "pred": MetaTensor(logits)}
    for step in config.get_parsed_content("postprocessing").transforms:
        if not isinstance(step, RepairAnatomyd):  # this ring is no heart
            result = step(result)
    mask = largest_components(np.asarray(nib.load(tmp_path / "out" / "a" / "a_seg.nii.gz").dataobj))
    frame = read_frame(path).array
    for label, truth in ((1, (frame > 200) & (frame < 380)), (3, frame > 380)):
        dice = 2 * np.count_nonzero(truth & (mask == label)) / (truth.sum() + np.count_nonzero(mask == label))
        assert dice > 0.9, f"label {label}: Dice {dice:.3f}"


def test_postprocessing_leaves_one_plausible_heart(tmp_path):
    config = read_config(output_dir=str(tmp_path / "out"))
    data = config.get_parsed_content("preprocessing")({"image": str(write_stack(tmp_path / "a.nii.gz"))})
    classes = torch.zeros(data["image"].shape[1:], dtype=torch.long)
    classes[36:64, 36:64, 1:5] = 2
    classes[40:60, 40:60, 1:5] = 3
    classes[70:76, 70:76] = 3
    classes[20:36, 40:60, 1:5] = 1
    classes[20:24, 66:70, 5] = 1
    logits = 20 * torch.nn.functional.one_hot(classes, NUM_CLASSES).movedim(-1, 0).float()
    steps = config.get_parsed_content("postprocessing").transforms
    assert isinstance(steps[-1], SaveImaged)
    result = {**data, "pred": MetaTensor(logits)}
    for step in steps[:-1]:
        result = step(result)
    mask = result["pred"][0].numpy()
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    for label in (1, 2, 3):
        assert ndimage.label(mask == label, np.ones((3, 3, 3)))[1] == 1
    assert degenerated_slices(mask, (1.6, 1.6, 8.0)) == {}


def test_net_in_out_is_as_in_metadata(tiny_bundle):
    verify_net_in_out("network_def", meta_file=str(METADATA), config_file=str(INFERENCE), device="cpu")


@pytest.fixture
def exported(tiny_bundle, tmp_path):
    """Arguments that the exporters share, an input, and what PyTorch makes of it."""
    network = read_config().get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(tiny_bundle / "models" / "model.pt", weights_only=True))
    torch.manual_seed(1)
    image = torch.rand(1, network.in_channels, 160, 160)
    configs = {
        name: str(tiny_bundle / "configs" / f"{key}.json")
        for name, key in (("meta_file", "metadata"), ("config_file", "inference"))
    }
    arguments = {"net_id": "network_def", "ckpt_file": str(tiny_bundle / "models" / "model.pt"), **configs}
    with torch.no_grad():
        return arguments, image, network(image)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_torchscript_export_agrees(exported, tmp_path):
    arguments, image, expected = exported
    ckpt_export(filepath=str(tmp_path / "model.ts"), **arguments)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_onnx_export_agrees(exported, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    arguments, image, expected = exported
    onnx_export(filepath=str(tmp_path / "model.onnx"), **arguments)
    model = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    [found] = model.run(None, {model.get_inputs()[0].name: image.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)
