"""Training from the clients: :mod:`cardiac_cine.annotation.label_training` in MONAI Label's terms."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.tasks.train import TrainTask

from cardiac_cine.annotation.label_training import RUNNING, STARTS, LabelTraining, Options
from cardiac_cine.annotation.model_versions import ModelVersions
from cardiac_cine.annotation.training_runs import KEY_METRIC
from cardiac_cine.files import plain
from monailabel_app.lib.datastore import CineDatastore
from monailabel_app.lib.state import State


class CineTraining(TrainTask):
    """Trains on the final labels; the new model goes live if it is not worse."""

    def __init__(self, state: State, models: ModelVersions, bundle_root: Path, conf: Mapping[str, str]) -> None:
        super().__init__("Trains the cardiac cine model on the labels made so far")
        overrides = json.loads(conf.get("train_overrides") or "{}")
        self.runs = LabelTraining(state.root, state.lock, models, bundle_root, overrides)
        found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] + ["cpu"]
        self._devices = list(dict.fromkeys([conf.get("device") or found[0], *found]))

    def config(self) -> dict[str, Any]:
        """Return what a client may set, with the defaults; of a list, the first."""
        return {**asdict(Options()), "initial": list(STARTS), "device": self._devices}

    def stats(self) -> dict[str, Any]:
        """Return how the last training goes as both clients read it; ``total_time`` says that it is over."""
        last = self.runs.status()
        if last is None:
            return {}
        running, done, time = last.state == RUNNING, last.progress, str(timedelta(seconds=round(last.seconds)))
        # Slicer computes with these two; it has a default for what is not there.
        known = {} if done.best is None else {"best_metric": done.best}
        best = {"best_metric": done.best, "best_metric_epoch": done.best_epoch, "key_metric_name": KEY_METRIC}
        return {
            **{"run": last.run, "status": last.state, "start_ts": int(done.started), "epoch": done.epoch},
            "total_epochs": max(1, done.total_epochs if running else done.epoch),
            ("current_time" if running else "total_time"): time,
            **known,
            "train": {"metrics": done.records[-1] if done.records else {}, "key_metric_name": "train_loss"},
            "eval": best,
            "curves": list(done.records),
            "result": plain(last.result),
        }

    def __call__(self, request: dict[str, Any], datastore: CineDatastore) -> dict[str, Any]:
        """Train as asked and return what came of it."""
        return self.runs.train(datastore, {"device": self._devices, **request}, self._devices)
