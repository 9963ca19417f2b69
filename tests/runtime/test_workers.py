"""The hand-over between two threads: order, policy, errors, and letting go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from runtime_fakes import SyntheticSource

from dedos_deploy.runtime.flow import Feed
from dedos_deploy.runtime.flow.workers import Handover, Worker
from dedos_deploy.runtime.sources.contract import Outcome


def test_newest_wins_and_the_rest_is_counted() -> None:
    handover: Handover[int] = Handover(1, when_full="drop_oldest")
    for number in range(5):
        assert handover.put(number)
    assert (handover.get(0.0), handover.dropped) == (4, 4)
    assert handover.get(0.0) is Outcome.TIMEOUT


def test_error_comes_after_the_items_and_again_on_every_read() -> None:
    handover: Handover[int] = Handover(4, when_full="wait")
    handover.put(1)
    handover.finish(OSError("gone"))
    assert handover.get(0.0) == 1
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            handover.get(0.0)


def test_closing_frees_a_waiting_producer() -> None:
    handover: Handover[int] = Handover(1, when_full="wait")
    kept: list[bool] = []
    producer = threading.Thread(
        target=lambda: kept.extend(handover.put(n) for n in range(2)), daemon=True
    )
    producer.start()
    time.sleep(0.05)
    handover.close()
    producer.join(5.0)
    assert not producer.is_alive()
    assert kept == [True, False]


def test_finish_wakes_a_waiting_consumer() -> None:
    handover: Handover[int] = Handover(1, when_full="wait")
    threading.Timer(0.05, handover.finish).start()
    started_s = time.monotonic()
    assert handover.get(30.0) is Outcome.END
    assert time.monotonic() - started_s < 10.0


def test_worker_passes_on_what_its_work_raised() -> None:
    def work(emit: Callable[[int], bool], stop: threading.Event) -> None:
        emit(7)
        raise RuntimeError("worker broke")

    worker = Worker("test", work, Handover(2, when_full="wait"))
    try:
        assert worker.get(5.0) == 7
        with pytest.raises(RuntimeError, match="worker broke"):
            worker.get(5.0)
    finally:
        worker.close()


def test_a_thread_that_does_not_end_is_reported_and_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = threading.Event()
    worker: Worker[int] = Worker(
        "stuck",
        lambda emit, stop: None if release.wait(30.0) else None,  # noqa: RUF034
        Handover(1, when_full="wait"),
    )
    worker.close(timeout_s=0.05)
    assert "stuck did not end within 0.05 s" in caplog.text
    release.set()


def test_a_feed_gives_all_frames_and_then_the_end() -> None:
    with Feed("synthetic", lambda: SyntheticSource(5)) as feed:
        ids = []
        while not isinstance(item := feed.read(5.0), Outcome):
            ids.append(item.frame_id)
        assert (ids, item) == ([0, 1, 2, 3, 4], Outcome.END)
