"""Who annotates what next: a sample that nobody else works on, held for who asked for it."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cardiac_cine.annotation import assignments
from cardiac_cine.annotation.assignments import Assignments
from cardiac_cine.annotation.library import FINAL, Library
from cardiac_cine.annotation.sampling import CRITERIA, Pool, Ranks, Sample, choose
from cardiac_cine.annotation.scores import Scores


class Worklist:
    """Hands out samples, by any of :data:`~cardiac_cine.annotation.sampling.CRITERIA`.

    Args:
        path: file of the assignments.
        lock: held while it is written, by all processes; reentrant.
        scores: what the samples are ranked by.
    """

    def __init__(self, path: Path, lock: AbstractContextManager, scores: Scores) -> None:
        self.path, self._lock, self._scores = path, lock, scores

    def next(
        self, client: str, criterion: str, library: Library, model: str, *, seed: int = 0, skip: str = ""
    ) -> dict[str, Any]:
        """Return an unlabelled sample and hold its case for the client; asked again, the one that is held.

        Args:
            client: who asks.
            criterion: name of the way to rank.
            library: the samples.
            model: hash of the live network, whose scores count.
            seed: of chance.
            skip: an image that this client never wants again; for others its case comes last.

        Returns:
            ``id``, ``reason`` and ``score`` (None: by chance), or {} where nothing is left.
        """
        with assignments.opened(self.path, self._lock) as book:
            if skip:
                book.skip(client, library.resolve(skip))
            return self._next(client, criterion, library, model, book, seed)

    def release(self, image_id: str) -> None:
        """Let others have the case that is held because of an image."""
        with assignments.opened(self.path, self._lock) as book:
            book.free(lambda hold: hold.image == image_id)

    def about(self, image_id: str, case: str) -> dict[str, Any]:
        """Return "locked_by", "locked_until" and "skipped_by" of an image, as far as there are any."""
        return assignments.read(self.path).about(image_id, case)

    def _next(
        self, client: str, criterion: str, library: Library, model: str, book: Assignments, seed: int
    ) -> dict[str, Any]:
        library.refresh_when_old()
        entries = {entry.id: entry for entry in library.entries(all_phases=True)}
        listed, labelled = {entry.id for entry in library.entries()}, set(library.labels.all(FINAL))
        unlabelled = (listed & entries.keys()) - labelled
        book.free(lambda hold: hold.client == client and hold.image not in unlabelled)
        for case, hold in book.held.items():
            if hold.client == client:
                book.take(client, case, hold.image)
                return {"id": hold.image, "reason": "You hold this sample already.", "score": None}
        offered = unlabelled.difference(book.skipped.get(client, ()))
        begun = {*labelled, *(hold.image for hold in book.held.values())}
        samples = [Sample(entry.id, entry.patient, entry.group, entry.key) for entry in entries.values()]
        pool = Pool(
            samples,
            left=[each for each in samples if each.id in offered and entries[each.id].case not in book.held],
            begun=[each for each in samples if each.id in begun],
            records=self._scores.of_network(model),
        )
        if not pool.left:
            return {}
        doubtful = {entries[i].case for ids in book.skipped.values() for i in ids if i in entries}
        last = {entry.id for entry in entries.values() if entry.case in doubtful}
        ranks = CRITERIA[criterion].rank(pool)
        best = choose(pool, ranks, last=last, seed=seed)
        book.take(client, entries[best.id].case, best.id)
        return {"id": best.id, **_why(best, criterion, ranks, pool)}


def _why(chosen: Sample, criterion: str, ranks: Ranks, pool: Pool) -> dict[str, Any]:
    """Return ``reason`` and ``score`` of a sample."""
    if chosen.id in ranks:
        score = ranks[chosen.id][0]
        return {"reason": CRITERIA[criterion].reason(score), "score": score}
    begun = sum(sample.patient == chosen.patient for sample in pool.begun)
    chance = "" if criterion == "random" else "No score yet; by chance. "
    return {"reason": f"{chance}The patient has {begun} phases labelled or in work.", "score": None}
