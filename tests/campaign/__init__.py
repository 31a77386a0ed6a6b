"""The reliability campaign: what docs/reliability.rst promises, tried many times on real processes.

    python -m tests.campaign            all of it, and the table of that page
    python -m tests.campaign.kills      one script of it; --help names its options

It is no part of `make test`, which runs each script in its smallest form (test_campaign.py). It
needs Linux: processes are forked and killed by SIGKILL, disks are filled.
"""
