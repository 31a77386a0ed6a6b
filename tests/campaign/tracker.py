"""Writers of the table killed, its last record torn, sixteen at once: no acknowledged row is lost.

python -m tests.campaign.tracker --kills 200 --repeats 10
"""

import itertools
import os
import random
import time
import warnings
from pathlib import Path

from tests.campaign.common import Figures, fork, kill, list_temps, run_script, say
from utils.logging.csv import CsvTracker, read_tracker

KILLS = "writers of the table killed, half of them slowed to a byte per write"
TORN = "rounds of four in which a record or the table was half written"
ROWS = "rows acknowledged by them"
CUTS = "bytes at which a last record was cut"
AT_ONCE = "rows of sixteen writers at once"


def run(
    place: Path, kills: int = 200, repeats: int = 10, writers: int = 16, seed: int = 0
) -> Figures:
    """Kill writers, tear records, write from many processes, and compare the table each time."""
    figures = dict.fromkeys((KILLS, TORN, ROWS, CUTS, AT_ONCE, "lost"), 0)
    kill_writers(place, kills, random.Random(seed), figures)
    tear_records(place, figures)
    write_at_once(place, repeats, writers, figures)
    return figures


def kill_writers(place: Path, kills: int, draw: random.Random, figures: Figures) -> None:
    """Kill four writers at a time; each acknowledged its rows over a pipe."""
    expected: dict[str, str] = {}  # status by run
    path = place / "killed.csv"
    while figures[KILLS] < kills:
        pipes, processes = [], []
        for i in range(4):
            read, write = os.pipe()
            processes.append(fork(write_for_ever, path, write, f"{figures[KILLS] + i}", i % 2))
            os.close(write)
            pipes.append(open(read, "rb"))
        lines = [pipe.readline() for pipe in pipes]  # all four are at work
        processes[0].join(draw.uniform(0, 0.05))
        for process in draw.sample(processes, 4):
            figures[KILLS] += kill(process)
        for pipe in pipes:
            with pipe:
                lines += pipe.readlines()
        data = path.read_bytes()
        figures[TORN] += not data.endswith(b"\n") or bool(list_temps(place))
        expected |= dict(line.decode().split() for line in lines if line.endswith(b"\n"))
        figures["lost"] += compare(path, expected)
        say(f"tracker, kill {figures[KILLS]}/{kills}: {len(expected)} rows acknowledged")
    figures[ROWS] = len(expected)


def write_for_ever(path: Path, pipe: int, writer: str, is_slow: bool) -> None:
    """Append and update rows, and acknowledge each change over a pipe."""
    if is_slow:
        write = os.write

        def write_slowly(fd: int, data: bytes) -> int:
            time.sleep(0 if fd == pipe else 1e-4)
            return write(fd, data if fd == pipe else data[:1])

        os.write = write_slowly
    tracker = CsvTracker(path)
    warnings.simplefilter("ignore")  # of records that others were cut in
    for i in itertools.count():
        run = f"{writer}-{i}"
        tracker.append({"RUN": run, "STATUS": "running", f"COLUMN_{i % 7}": "x\ny" * 20})
        os.write(pipe, f"{run} running\n".encode())
        if i % 5 == 0:
            tracker.update(run, {"STATUS": "done", f"COLUMN_{writer}": i})
            os.write(pipe, f"{run} done\n".encode())


def compare(path: Path, expected: dict[str, str]) -> int:
    """Return how many acknowledged rows are missing, doubled or older than acknowledged."""
    found: dict[str, list[str]] = {}
    for row in read_tracker(path):
        found.setdefault(row["RUN"], []).append(row["STATUS"])
    # a change can be in the table before it is acknowledged
    good = {"running": (["running"], ["done"]), "done": (["done"],)}
    return sum(found.get(run) not in good[status] for run, status in expected.items())


def tear_records(place: Path, figures: Figures) -> None:
    """Cut the last record at every byte, and append another one."""
    path = place / "torn.csv"
    tracker = CsvTracker(path)
    first = [{"RUN": f"{i}", "NOTE": 'new\nline, "quoted"'} for i in range(3)]
    for row in first:
        tracker.append(row)
    start = path.stat().st_size
    tracker.append(first[0])
    whole = path.read_bytes()
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        with warnings.catch_warnings(action="ignore"):
            tracker.append({"RUN": "after", "NOTE": ""})
        figures[CUTS] += 1
        figures["lost"] += read_tracker(path) != [*first, {"RUN": "after", "NOTE": ""}]
    say(f"tracker, {figures[CUTS]} torn records")


def write_at_once(place: Path, repeats: int, writers: int, figures: Figures) -> None:
    """Write 50 rows from each of many processes, whose columns differ."""
    for repeat in range(repeats):
        path = place / f"at_once_{repeat}.csv"
        processes = [fork(write_rows, path, writer) for writer in range(writers)]
        for process in processes:
            process.join()
        rows = read_tracker(path)
        expected = {f"{writer}-{i}": "done" for writer in range(writers) for i in range(50)}
        figures[AT_ONCE] += len(expected)
        figures["lost"] += compare(path, expected) + (len(rows) != len(expected))
        figures["lost"] += sum(process.exitcode != 0 for process in processes)
        say(f"tracker, {writers} writers: {len(rows)} of {len(expected)} rows")


def write_rows(path: Path, writer: int) -> None:
    """Append 50 rows."""
    tracker = CsvTracker(path)
    for i in range(50):
        row = {"RUN": f"{writer}-{i}", "STATUS": "done", f"COLUMN_{(writer + i) % 30}": i}
        tracker.append(row)


if __name__ == "__main__":
    run_script(run)
