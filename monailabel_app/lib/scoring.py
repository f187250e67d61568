"""Scores of every sample by the live model, made in a child process."""

import os
import threading
from contextlib import suppress
from typing import Any

from monailabel.interfaces.tasks.scoring import ScoringMethod

from cardiac_cine.annotation.library import Library
from cardiac_cine.annotation.model_versions import ModelVersions
from monailabel_app.lib.state import State

NAME = "cine_scores"
NICENESS = 10


class CineScores(ScoringMethod):
    """Has :class:`cardiac_cine.annotation.scores.Scores` brought up to date, without holding up others."""

    def __init__(self, state: State, models: ModelVersions) -> None:
        super().__init__("Uncertainty, temporal disagreement, spread of EF and features of every sample")
        self._state, self._models = state, models

    def __call__(self, request: dict[str, Any], datastore: Library) -> dict[str, Any]:
        """Score what is missing; return how many samples have scores, and the reason for each that has none."""
        with suppress(OSError):  # on Linux, of this thread and those it starts
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        return self._state.scores.update(datastore, self._models)
