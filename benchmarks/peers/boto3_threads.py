"""
Many files with boto3 and a thread pool, as one writes it by hand.

    python -m benchmarks.peers.boto3_threads get|put BUCKET PREFIX DIRECTORY
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

THREADS = 16


def main() -> None:
    verb, bucket, prefix, directory = sys.argv[1:]
    client = boto3.client("s3", config=Config(max_pool_connections=THREADS))

    def get(key: str) -> None:
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        with open(os.path.join(directory, key.removeprefix(prefix)), "wb") as file:
            file.write(body)

    def put(name: str) -> None:
        with open(os.path.join(directory, name), "rb") as file:
            client.put_object(Bucket=bucket, Key=prefix + name, Body=file)

    with ThreadPoolExecutor(THREADS) as pool:
        if verb == "get":
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            keys = [item["Key"] for page in pages for item in page["Contents"]]
            list(pool.map(get, keys))
        else:
            list(pool.map(put, sorted(os.listdir(directory))))


if __name__ == "__main__":
    main()
