"""Which shard a worker takes next: the one that goes on where it stands, so that no video is read anew."""

from __future__ import annotations

from collections.abc import Collection

from dedos_deploy.corpus.manifest import Manifest


class Plan:
    """Shards that are still to be labelled, by stretches that go on in one source.

    A worker stays on its stretch; one without takes the first that is free, and when there is none half
    of the longest that another works on.
    """

    left: int
    """How many shards nobody has taken."""

    def __init__(self, manifest: Manifest, done: Collection[int]) -> None:
        self.left = 0
        self._free: list[list[int]] = []
        """Stretches, the first one last, of shards in falling order: the next one is last."""
        self._taken: dict[int, list[int]] = {}
        """What is left of the stretch of each worker."""
        finished, last = frozenset(done), -1
        for shard in reversed(range(len(manifest))):
            if shard in finished:
                continue
            self.left += 1
            if last == shard + 1 and manifest.continues(last):
                self._free[-1].append(shard)
            else:
                self._free.append([shard])
            last = shard

    def next(self, worker: int) -> int | None:
        """Return the shard that a worker takes now, None when none is left."""
        if self.left == 0:
            return None
        self.left -= 1
        if not self._taken.get(worker):
            self._taken[worker] = self._free.pop() if self._free else self._half()
        return self._taken[worker].pop()

    def leave(self, worker: int, shard: int | None) -> None:
        """Let others have what a worker that is gone had not done. shard: what it was at."""
        rest = self._taken.pop(worker, [])
        if shard is not None:
            self.left += 1
            rest.append(shard)
        if rest:
            self._free.append(rest)

    def _half(self) -> list[int]:
        """Take the later half of the longest stretch from its worker."""
        longest = max(self._taken.values(), key=len)
        count = (len(longest) + 1) // 2
        half = longest[:count]
        del longest[:count]
        return half
