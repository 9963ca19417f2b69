"""Clients of a real Triton server that each change their words with every request, at once.

Half of them speak HTTP, half gRPC. Every answer is compared bit for bit with what the Python runtime
makes of the same picture and words; one of others' words anywhere would differ. Memory of the server and
of its instances is counted after half of the time and at the end.

In the environment that `.ci/triton FOLDER` makes:

    FOLDER/bin/python benchmarks/triton_clients.py --json
    FOLDER/bin/python benchmarks/triton_clients.py --seconds 5 --clients 2 --instances 1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from triton_server import PROTOCOLS, Server, ask, exported, serving

from dedos_deploy import Segmenter
from dedos_deploy.bench.memory import memory_mb
from dedos_deploy.cli._options import typed
from dedos_deploy.options import real_number, whole_number
from dedos_deploy.scenes import render_image

GOALS = {"mixed": 0, "growth_mb": 10.0}
WARM_UP = 0.5
"""Part of the time after which memory is counted for the first time."""
WORDS = (
    "road,sidewalk,car|automobile,building,tree,sky,person,grass,window,door,wall,roof,fence,lamp,"
    "bus,truck,bicycle,floor,chair,table"
).split(",")
FOREVER_S = 60.0


@dataclass
class Expected:
    """What the runtime says of one picture."""

    frame: np.ndarray[Any, Any]
    labels: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """By list of words."""

    names: dict[str, list[bytes]] = field(default_factory=dict)
    cpu_s: float = 0.0
    """Of a picture in the runtime, on one thread."""


@dataclass
class Tally:
    """What the clients got."""

    times_ms: dict[str, list[float]] = field(default_factory=lambda: {p: [] for p in PROTOCOLS})
    mixed: list[str] = field(default_factory=list)
    """Lists of words whose answer was another one."""

    failed: list[str] = field(default_factory=list)


def expected_of(frame: np.ndarray[Any, Any], vocabularies: int, seed: int = 1) -> Expected:
    """Return what different lists of words make of a frame, by segmenters of this process."""
    chosen, found = random.Random(seed), Expected(frame)
    with Segmenter.load("demo", classes=WORDS[0], threads=1) as segmenter:
        while len(found.labels) < vocabularies:
            words = ",".join(chosen.sample(WORDS, chosen.randint(1, 8)))
            view = segmenter.share(words)
            before_s = time.process_time()
            found.labels[words] = view.segment(frame).label_map
            found.cpu_s += (time.process_time() - before_s) / vocabularies
            found.names[words] = [name.encode() for name in view.classes]
    return found


def clients_at_once(server: Server, expected: Expected, count: int, seconds: float) -> Tally:
    """Let clients ask for so long and return what they got."""
    tally, until_s = Tally(), time.monotonic() + seconds
    threads = [
        threading.Thread(target=_client, args=(server, expected, number, until_s, tally))
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + FOREVER_S)
        if thread.is_alive():
            tally.failed.append("a client did not get its answer")
    return tally


def _client(server: Server, expected: Expected, number: int, until_s: float, tally: Tally) -> None:
    protocol, chosen = list(PROTOCOLS)[number % len(PROTOCOLS)], random.Random(number)
    lists = list(expected.labels)
    try:
        with server.client(protocol) as client:
            asked = 0
            while time.monotonic() < until_s or not asked:
                words = chosen.choice(lists)
                started_s = time.perf_counter()
                answer = ask(client, expected.frame, classes=words)
                tally.times_ms[protocol].append(1e3 * (time.perf_counter() - started_s))
                asked += 1
                same = np.array_equal(answer["label_map"], expected.labels[words])
                if not same or answer["class_names"].tolist() != expected.names[words]:
                    tally.mixed.append(words)
    except Exception as error:  # whatever ends a client has to be counted
        tally.failed.append(f"{type(error).__name__}: {error}")


def processes_of(server: Server) -> list[int]:
    """Return the numbers of the server and of the instances of its models."""
    assert server.process is not None
    return [server.process.pid, *server.stubs()]


def cpu_s_of(server: Server) -> float:
    """Return the seconds of processors that they have used."""
    stats = [Path(f"/proc/{pid}/stat").read_text() for pid in processes_of(server)]
    ticks = [sum(map(int, text.rpartition(")")[2].split()[11:13])) for text in stats]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def memory_of(server: Server) -> float:
    """Return MiB that they hold."""
    return sum(memory_mb(process=pid) for pid in processes_of(server))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    frame = render_image("street", seed=5, size_hw=(240, 320))[0]
    expected = expected_of(frame, args.vocabularies)
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder, "models")
        exported(repository, "--triton-instances", str(args.instances))
        with serving(repository) as server:
            warm = clients_at_once(server, expected, args.clients, WARM_UP * args.seconds)
            before_mb, before_s = memory_of(server), cpu_s_of(server)
            tally = clients_at_once(server, expected, args.clients, (1 - WARM_UP) * args.seconds)
            after_mb, after_s = memory_of(server), cpu_s_of(server)
    every = [one for times in tally.times_ms.values() for one in times]
    if not every:
        raise SystemExit(f"triton_clients.py: error: nobody was answered: {tally.failed[0]}")
    return {
        "requests": len(every) + sum(map(len, warm.times_ms.values())),
        "requests_per_s": len(every) / ((1 - WARM_UP) * args.seconds),
        "mixed": len(tally.mixed) + len(warm.mixed),
        "failed": warm.failed + tally.failed,
        "memory_mb": after_mb,
        "growth_mb": after_mb - before_mb,
        "cpu_s_per_request": (after_s - before_s) / len(every),
        "cpu_ratio": (after_s - before_s) / len(every) / expected.cpu_s,
        "p50_ms": {name: float(np.median(times)) for name, times in tally.times_ms.items()},
        "p99_ms": {name: float(np.percentile(t, 99)) for name, t in tally.times_ms.items()},
        "clients": args.clients,
        "instances": args.instances,
        "vocabularies": args.vocabularies,
        "seconds": args.seconds,
        "size_hw": list(frame.shape[:2]),
        "machine": platform.machine(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=typed(real_number(least=1)), default=120, help="default: 120"
    )
    parser.add_argument(
        "--clients", type=typed(whole_number(len(PROTOCOLS))), default=8, help="default: 8"
    )
    parser.add_argument(
        "--instances", type=typed(whole_number()), default=2, help="of the model (default: 2)"
    )
    parser.add_argument(
        "--vocabularies",
        type=typed(whole_number()),
        default=150,
        help="more than are kept ready (default: 150)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    args = parser.parse_args(argv)
    report = measure(args)
    print(
        f"{report['requests']} requests of {args.clients} clients with {args.vocabularies} lists of words, "
        f"{report['requests_per_s']:.1f} a second: {report['mixed']} with labels of other words (goal "
        f"{GOALS['mixed']}), {len(report['failed'])} clients failed {report['failed'][:1] or ''}\n"
        f"memory of server and {args.instances} instances {report['memory_mb']:.0f} MB, grew by "
        f"{report['growth_mb']:.1f} MB (goal {GOALS['growth_mb']:g})\n"
        f"a request takes {report['cpu_s_per_request']:.3f} s of a processor, {report['cpu_ratio']:.2f} times "
        "what the runtime alone takes on one thread\n"
        + ", ".join(
            f"{name} p50 {report['p50_ms'][name]:.0f} ms, p99 {report['p99_ms'][name]:.0f} ms"
            for name in PROTOCOLS
        )
    )
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
