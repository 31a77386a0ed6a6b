"""`python -m tests.campaign`: the whole campaign, and the table of docs/reliability.rst."""

import sys

from tests.campaign import disk_full, flips, kills, processes, saves, tracker
from tests.campaign.common import run_in_temp

TITLES = {
    kills: "**Runs killed** (``kills``)",
    processes: "**Runs of two processes killed** (``processes``)",
    saves: "**Checkpoints of 40 MB** (``saves``)",
    disk_full: "**Full disks** (``disk_full``)",
    flips: "**Damaged files** (``flips``)",
    tracker: "**The table experiments.csv** (``tracker``)",
}


def main() -> int:
    """Run every script with its own numbers; return 1 if anything was lost."""
    figures = {script: run_in_temp(script.run) for script in TITLES}
    print('\n.. csv-table::\n   :header: "What was done", "Times"\n   :widths: 80 20\n')
    for script, title in TITLES.items():
        print(f'   "{title}", ""')
        for name, count in figures[script].items():
            print(f'   "{name}", "{count:,}"')
    return int(any(counts["lost"] for counts in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
