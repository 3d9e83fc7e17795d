"""
One file a process with boto3, as a job script that calls a command for each file does.

    python -m benchmarks.peers.boto3_one get|put BUCKET KEY FILE
"""

from __future__ import annotations

import sys

import boto3


def main() -> None:
    verb, bucket, key, file = sys.argv[1:]
    client = boto3.client("s3")
    if verb == "get":
        client.download_file(bucket, key, file)
    else:
        client.upload_file(file, bucket, key)


if __name__ == "__main__":
    main()
