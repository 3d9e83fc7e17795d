"""
One small job with boto3 and static keys: 5 files down, one after the other, 10 up.

    python -m benchmarks.peers.boto3_job BUCKET PREFIX DIRECTORY
"""

from __future__ import annotations

import os
import sys

import boto3


def main() -> None:
    bucket, prefix, directory = sys.argv[1:]
    client = boto3.client("s3")
    for n in range(5):
        client.download_file(bucket, f"{prefix}{n:05}", os.path.join(directory, f"in{n}"))
    for n in range(10):
        client.upload_file(os.path.join(directory, f"in{n % 5}"), bucket, f"job/out{n}")


if __name__ == "__main__":
    main()
