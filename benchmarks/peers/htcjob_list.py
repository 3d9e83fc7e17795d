"""
List a prefix with a store of ours, and print how many keys there are.

    python -m benchmarks.peers.htcjob_list BUCKET PREFIX
"""

from __future__ import annotations

import sys

from htcjob.job_stores import access_of_environment
from htcjob.storage.urls import open_store


def main() -> None:
    bucket, prefix = sys.argv[1:]
    store = open_store(f"s3://{bucket}", access_of_environment())
    print(sum(1 for info in store.list(prefix) if info.key and info.size_bytes >= 0))


if __name__ == "__main__":
    main()
