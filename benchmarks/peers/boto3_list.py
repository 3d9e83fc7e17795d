"""
List a prefix with boto3's paginator, and print how many keys there are.

    python -m benchmarks.peers.boto3_list BUCKET PREFIX
"""

from __future__ import annotations

import sys

import boto3


def main() -> None:
    bucket, prefix = sys.argv[1:]
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    print(sum(1 for page in pages for item in page["Contents"] if item["Key"] and item["Size"] >= 0))


if __name__ == "__main__":
    main()
