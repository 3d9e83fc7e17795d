"""The documentation's example with object storage runs as it stands, on a real server."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.whole.test_docs import blocks


def test_the_example_with_s3(rgw, tmp_path):
    """What a newcomer copies from `docs/storage.md` gives the counts."""
    (example,) = (block for block in blocks("bash", "docs/storage.md") if "AWS_ACCESS_KEY_ID" in block)
    rgw.client().create_bucket(Bucket="my-bucket")
    (tmp_path / "in").mkdir()
    for name, text in (("a.txt", "one"), ("b.txt", "two words"), ("c.txt", "three of them")):
        (tmp_path / "in" / name).write_text(text + "\n")
    (tmp_path / "in" / "list.txt").write_text("a.txt\nb.txt\nc.txt\n")
    commands = [line for line in example.splitlines() if not line.startswith("export ")]
    exported = [line for line in example.splitlines() if line.startswith("export ")]
    assert {"AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL_S3"} <= {
        word.partition("=")[0] for line in exported for word in line.split()[1:]
    }
    done = subprocess.run(
        ["bash", "-ec", "\n".join(commands)],
        cwd=tmp_path,
        env={
            **rgw.environ(),
            "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = {path.name: path.read_text().strip() for path in (tmp_path / "counts-of-s3").iterdir()}
    assert counts == {"a.txt.count": "1", "b.txt.count": "2", "c.txt.count": "3"}
