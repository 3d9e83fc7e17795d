"""
One small job with our stores, credentials vended by the HTC API: 5 files down, 10 up.

    python -m benchmarks.peers.htcjob_job PREFIX DIRECTORY
"""

from __future__ import annotations

import os
import sys

from htcjob.environment.context import read_context
from htcjob.environment.variables import current_environ
from htcjob.job_stores import open_job_stores
from htcjob.retry import RetryPolicy
from htcjob.transfer.transfers import Transfers


def main() -> None:
    prefix, directory = sys.argv[1:]
    retry = RetryPolicy()
    stores = open_job_stores(read_context(current_environ()), retry)
    with Transfers(retry) as transfers:

        def get(n: int) -> None:
            transfers.get(stores.project, f"{prefix}{n:05}", os.path.join(directory, f"in{n}"))

        def put(n: int) -> None:
            transfers.put(stores.task, os.path.join(directory, f"in{n % 5}"), f"out{n}")

        for act, count in ((get, 5), (put, 10)):
            for result in transfers.each(act, range(count)):
                if isinstance(result, Exception):
                    raise result


if __name__ == "__main__":
    main()
