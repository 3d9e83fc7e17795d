"""
List a prefix with a store of ours, and print how many keys there are.

    python -m benchmarks.peers.htcjob_list BUCKET PREFIX
"""

from __future__ import annotations

import sys

from htcjob.storage.urls import open_store


def main() -> None:
    bucket, prefix = sys.argv[1:]
    print(sum(1 for info in open_store(f"s3://{bucket}").list(prefix) if info.key and info.size_bytes >= 0))


if __name__ == "__main__":
    main()
