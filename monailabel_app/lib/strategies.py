"""The ways to choose what an annotator gets next; the choice itself is cardiac_cine.annotation.worklist's."""

from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

from cardiac_cine.annotation.library import Library
from cardiac_cine.annotation.model_versions import ModelVersions
from cardiac_cine.annotation.sampling import CRITERIA
from monailabel_app.lib.access import current_user
from monailabel_app.lib.state import State


def all_strategies(state: State, models: ModelVersions) -> dict[str, "CineStrategy"]:
    """Return the strategies by name, the default first."""
    return {name: CineStrategy(name, state, models) for name in CRITERIA}


class CineStrategy(Strategy):
    """Offers an unlabelled sample that nobody else works on and holds it; asking again gives it back.

    Params: client_id, seed (of chance), and skip, an image that this client never wants again; its case comes last.
    """

    def __init__(self, name: str, state: State, models: ModelVersions) -> None:
        super().__init__(CRITERIA[name].about)
        self._name, self._state, self._models = name, state, models

    def info(self) -> dict[str, Any]:
        """Return the description and the params that clients may set."""
        return {"description": self.description, "config": {"skip": "", "seed": 0}}

    def __call__(self, request: dict[str, Any], datastore: Library) -> dict[str, Any]:
        """Return id, strategy, reason and score (None: by chance) of the next sample, {} where nothing is left."""
        user = current_user.get()  # rather than the client's id, which is the same for all at first
        client, model = user if user not in ("anonymous", "token") else "", self._models.live.sha256
        client, skip = client or request.get("client_id") or user, request.get("skip") or ""
        seed = int(request.get("seed") or 0)
        found = self._state.worklist.next(client, self._name, datastore, model, seed=seed, skip=skip)
        return {"strategy": self._name, **found} if found else {}
