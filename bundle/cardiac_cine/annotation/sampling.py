"""Which of many samples to annotate next: ways to rank them, and a choice that keeps patients in balance.

A sample is a phase of a cine. Pure functions; nothing depends on the order in which samples are given. The formulas
behind the ranks are in :mod:`cardiac_cine.annotation.active_learning`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from cardiac_cine.annotation.active_learning import novelty, standardise
from cardiac_cine.labels import STRUCTURE_KEYS


@dataclass(frozen=True)
class Sample:
    """What tells samples apart: ``group`` is a pathology or "", ``key`` is "ED", "ES" or ""."""

    id: str
    patient: str
    group: str = ""
    key: str = ""


# Sample's id to what it is ranked by, higher before lower, the first value first.
Ranks = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Pool:
    """What there is to choose from.

    Attributes:
        samples: all that there are.
        left: those that may be chosen.
        begun: those that are labelled or being labelled.
        records: sample's id to what is known of it by name, numbers and vectors; None or absent where unknown.
    """

    samples: Sequence[Sample]
    left: Sequence[Sample]
    begun: Sequence[Sample]
    records: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Criterion:
    """A way to rank samples.

    Attributes:
        about: what comes first, in words.
        rank: ranks the samples of a pool; one without a rank comes after all that have one.
        reason: says in a sentence why a sample with this first value was chosen.
    """

    about: str
    rank: Callable[[Pool], Ranks]
    reason: Callable[[float], str] = str


def choose(pool: Pool, ranks: Ranks, *, last: Collection[str] = (), seed: int = 0) -> Sample:
    """Choose a sample.

    The highest rank comes first, and what has none after all that have one. Between equals, and so throughout where
    nothing is ranked, the order is: the patient with the fewest samples begun; the group with the fewest; chance, the
    same for one seed whatever else there is to choose from; end-diastole and end-systole before other phases, that one
    of the two begun less often, end-diastole where they are level; the id. So new patients come before further phases
    of the same, and there are as many end-systolic as end-diastolic labels at any time.

    Args:
        pool: what there is.
        ranks: of some or all samples.
        last: ids that come after all others.
        seed: of chance.

    Raises:
        ValueError: nothing is left.
    """
    if not pool.left:
        raise ValueError("nothing is left to choose from")
    patients = Counter(sample.patient for sample in pool.begun)
    groups = Counter(sample.group for sample in pool.begun)
    keys = Counter(sample.key for sample in pool.begun)

    def order(sample: Sample) -> tuple:
        rank = ranks.get(sample.id)
        chance = sha256(f"{seed}:{sample.patient}".encode()).hexdigest()
        balance = (patients[sample.patient], groups[sample.group], chance)
        phase = (not sample.key, keys[sample.key], sample.key)
        return sample.id in last, rank is None, [-value for value in rank or ()], balance, phase, sample.id

    return min(pool.left, key=order)


def rank_by_score(pool: Pool, *names: str) -> Ranks:
    """Rank samples by numbers in their records, the first name first; one that lacks any of them has no rank."""
    values = {key: [record.get(name) for name in names] for key, record in pool.records.items()}
    return {key: tuple(v for v in found if v is not None) for key, found in values.items() if None not in found}


def rank_by_novelty(pool: Pool, name: str, prepare: Callable[[np.ndarray], np.ndarray] = np.asarray) -> Ranks:
    """Rank samples by how far their patient is from all patients begun, see :func:`~.active_learning.novelty`.

    Args:
        pool: what there is; records with the name have vectors of one length, in which None is unknown.
        name: of the vectors. A patient's is the mean of their samples'.
        prepare: makes the patients' vectors, (n, d), comparable.

    Returns:
        One value for each sample of a patient with a vector, the same for all samples of a patient.
    """
    vectors: dict[str, list[np.ndarray]] = defaultdict(list)
    for sample in pool.samples:
        vector = pool.records.get(sample.id, {}).get(name)
        if vector is not None:
            vectors[sample.patient].append(np.array(vector, float))
    if not vectors:
        return {}
    begun, patients = {sample.patient for sample in pool.begun}, sorted(vectors)
    points = prepare(np.array([np.mean(vectors[patient], axis=0) for patient in patients]))
    values = dict(zip(patients, novelty(points, points[[p in begun for p in patients]]).tolist(), strict=True))
    return {sample.id: (values[sample.patient],) for sample in pool.samples if sample.patient in values}


def _by_uncertainty(name: str, of: str) -> Criterion:
    return Criterion(
        f"Lowest overlap that the model itself expects, {of}",
        lambda pool: rank_by_score(pool, name),
        lambda value: f"The model expects a Dice of {1 - value:.2f}, {of}.",
    )


def _distance(value: float) -> str:
    return "The most typical patient, to begin with." if value < 0 else f"{value:.2f} from the nearest patient begun."


# By name, the default first. Scores of one cine are equal in all its phases, but for uncertainty and temporal_phase.
CRITERIA: Mapping[str, Criterion] = {
    "random": Criterion("Patients in balance, by chance", lambda pool: {}),
    "uncertainty": _by_uncertainty("uncertainty", "mean of the structures"),
    **{
        f"uncertainty_{key}": _by_uncertainty(f"uncertainty_{key}", f"of the {key.upper()} alone")
        for key in STRUCTURE_KEYS
    },
    "temporal": Criterion(
        "Most disagreement between the masks of neighbouring phases",
        lambda pool: rank_by_score(pool, "temporal", "temporal_phase"),
        lambda value: f"Over the cycle, masks differ from their neighbours by {value:.3f} (1 - Dice).",
    ),
    "clinical": Criterion(
        "Largest spread of the ejection fraction between variants of the prediction",
        lambda pool: rank_by_score(pool, "spread_lv_ef_points"),
        lambda value: f"The ejection fraction varies by {value:.1f} points.",
    ),
    "diversity": Criterion(
        "Patient least like those begun, by the network's features (core-set)",
        lambda pool: rank_by_novelty(pool, "features"),
        _distance,
    ),
    "first": Criterion(
        "Cold start without a model: patient whose scan is least like those begun",
        lambda pool: rank_by_novelty(pool, "descriptor", standardise),
        _distance,
    ),
}
