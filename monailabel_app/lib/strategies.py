"""Which sample an annotator gets next and holds; the choice itself is cardiac_cine.annotation.sampling's."""

from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

from cardiac_cine.annotation import assignments
from cardiac_cine.annotation.assignments import Assignments
from cardiac_cine.annotation.sampling import CRITERIA, Criterion, Pool, Sample, choose
from monailabel_app.lib.access import current_user
from monailabel_app.lib.scoring import scores

FILE = "assignments.json"
FINAL = "final"


def release(state: Any, image_id: str) -> None:
    """Let others have the case of an image whose label has been saved."""
    with assignments.opened(state.root / FILE, state.lock) as book:
        book.free(lambda hold: hold.image == image_id)


def assignment(state: Any, image_id: str, case: str) -> dict[str, Any]:
    """Return "locked_by", "locked_until" and "skipped_by" of an image, as far as there are any, for its info."""
    return assignments.read(state.root / FILE).about(image_id, case)


def all_strategies(state: Any, models: Any) -> dict[str, "CineStrategy"]:
    """Return the strategies by name, the default first."""
    return {name: CineStrategy(name, criterion, state, models) for name, criterion in CRITERIA.items()}


class CineStrategy(Strategy):
    """Offers an unlabelled sample that nobody else works on and holds it; asking again gives it back.

    Params: client_id, seed (of chance), and skip, an image that this client never wants again; its case comes last.
    """

    def __init__(self, name: str, criterion: Criterion, state: Any, models: Any) -> None:
        super().__init__(criterion.about)
        self._name, self._criterion, self._state, self._models = name, criterion, state, models

    def info(self) -> dict[str, Any]:
        """Return the description and the params that clients may set."""
        return {"description": self.description, "config": {"skip": "", "seed": 0}}

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Return id, strategy, reason and score (None: by chance) of the next sample, {} where nothing is left."""
        user = current_user.get()  # rather than the client's id, which is the same for all at first
        client = user if user not in ("anonymous", "token") else request.get("client_id") or user
        with assignments.opened(self._state.root / FILE, self._state.lock) as book:
            if request.get("skip"):
                book.skip(client, datastore.resolve(request["skip"]))
            found = self._next(client, book, int(request.get("seed") or 0), datastore)
        return {"strategy": self._name, **found} if found else {}

    def _next(self, client: str, book: Assignments, seed: int, datastore: Any) -> dict[str, Any]:
        entries = {entry.id: entry for entry in datastore.entries(all_phases=True)}
        unlabelled = {image_id for image_id in datastore.get_unlabeled_images(FINAL) if image_id in entries}
        book.free(lambda hold: hold.client == client and hold.image not in unlabelled)
        for case, hold in book.held.items():
            if hold.client == client:
                book.take(client, case, hold.image)
                return {"id": hold.image, "reason": "You hold this sample already.", "score": None}
        offered = unlabelled.difference(book.skipped.get(client, ()))
        begun = {*datastore.get_labeled_images(FINAL), *(hold.image for hold in book.held.values())}
        live = scores(self._state, self._models.live.sha256)
        samples = [Sample(entry.id, entry.patient, entry.group, entry.key) for entry in entries.values()]
        pool = Pool(
            samples,
            left=[each for each in samples if each.id in offered and entries[each.id].case not in book.held],
            begun=[each for each in samples if each.id in begun],
            # Descriptors hold whatever the model.
            records={i: live.get(i, {"descriptor": r.get("descriptor")}) for i, r in scores(self._state).items()},
        )
        if not pool.left:
            return {}
        doubtful = {entries[i].case for ids in book.skipped.values() for i in ids if i in entries}
        last = {entry.id for entry in entries.values() if entry.case in doubtful}
        ranks = self._criterion.rank(pool)
        best = choose(pool, ranks, last=last, seed=seed)
        book.take(client, entries[best.id].case, best.id)
        if best.id in ranks:
            return {"id": best.id, "reason": self._criterion.reason(ranks[best.id][0]), "score": ranks[best.id][0]}
        reason = f"The patient has {sum(e.patient == best.patient for e in pool.begun)} phases labelled or in work."
        return {"id": best.id, "reason": "No score yet; by chance. " * (self._name != "random") + reason, "score": None}
