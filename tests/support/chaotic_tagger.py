"""The face tagger on a bad machine: at times it crashes, hangs, or asks for another try."""

from __future__ import annotations

import os
import random
import signal
import time

from reference_app.face_tagger import tag_entry


def tag(input: str, output_dir: str, key: str) -> dict[str, int]:  # noqa: A002
    luck = random.Random(f"{os.environ['CHAOS_SEED']} {os.environ['HTCJOB_ATTEMPT']} {key}")
    what = luck.choices(["crash", "hang", "vanish", "again", "raise", "work"], weights=[2, 1, 1, 2, 1, 93])[0]
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang":
        time.sleep(1000)
    if what == "vanish":
        os._exit(0)
    if what == "again":
        raise SystemExit(75)
    if what == "raise":
        raise RuntimeError("bad luck")
    return tag_entry(input, output_dir, key)
