"""One adapter per dataset; each module's docstring states that dataset's facts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cardiac_cine import cases
from cardiac_cine.errors import InputError


def open_datalist(dataset_dir: str | Path) -> cases.Datalist:
    """Open a dataset, whichever form it comes in.

    Args:
        dataset_dir: a folder with a ``dataset.json``, or a raw ACDC root.

    Raises:
        InputError: it is neither, or the datalist or the ACDC root is incomplete; all problems in one message.
    """
    from cardiac_cine.datasets import acdc

    root = Path(dataset_dir)
    if (root / cases.FILENAME).is_file():
        return cases.read(root / cases.FILENAME)
    if acdc.is_acdc(root):
        datalist, problems = acdc.scan(root)
        if problems:
            raise InputError(problems, f"{root}: the ACDC copy is incomplete; prepare_dataset.py can go on without:")
        return datalist
    found = "no such folder" if not root.is_dir() else f"neither {cases.FILENAME} nor patientXXX/Info.cfg in it"
    raise InputError(f"{root}: {found}; expected a folder written by prepare_dataset.py or an ACDC root")


def sections(dataset_dir: str | Path, split: str, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return sections of a split as the checked dictionaries that MONAI's datasets take.

    Args:
        dataset_dir: as for :func:`open_datalist`.
        split: a split's name, such as "tutorial" or "fold0".
        names: "training", "validation" or both.

    Raises:
        InputError: whatever is wrong with the datalist or with any file that these sections name, in one message.
    """
    datalist = open_datalist(dataset_dir)
    chosen = {name: datalist.section(split, name) for name in names}
    cases.validate([case for section in chosen.values() for case in section])
    return {name: [case.item() for case in section] for name, section in chosen.items()}
