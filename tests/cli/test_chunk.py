"""`htcjob chunk`: which entries an index gets."""

import json
import subprocess
import sys


def test_chunk_lists_the_entries_of_an_index(htcjob):
    """Position and entry, a bad line with its reason; silence on standard error."""
    htcjob.manifest("a.jpg", "../b", "c.jpg")
    done = htcjob("chunk", "--array-size", "2", "--array-index", "0")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "0\ta.jpg"
    assert lines[1].startswith("1\t../b\t# manifest line 2: ")
    assert json.loads(htcjob("chunk", "--json", HTCJOB_ARRAY_INDEX="1", HTCJOB_ARRAY_SIZE="2").stdout) == {
        "array_index": 1,
        "array_size": 2,
        "manifest_entries": 3,
        "chunk": [2, 3],
        "entries": ["c.jpg"],
    }


def test_chunk_answers_what_if_without_a_manifest(htcjob):
    """Pure arithmetic for an imagined number of entries."""
    assert (
        htcjob("chunk", "--entries", "5001", "--array-size", "1000", "--array-index", "0").stdout == "0 6\n"
    )
    assert htcjob("chunk", "--entries", "0", "--array-size", "3", "--array-index", "2").stdout == "0 0\n"
    assert htcjob("chunk", "--entries", "5", "--array-size", "3", "--array-index", "3").returncode == 78


def test_a_reader_that_leaves_early_is_no_error(htcjob):
    """`htcjob chunk | head -1` ends quietly, as if by SIGPIPE."""
    htcjob.manifest(*(f"entry-{n:06d}" for n in range(50_000)))
    command = f"{sys.executable} -m htcjob chunk; echo status=$? >&2"
    with subprocess.Popen(
        ["bash", "-c", f"({command}) | head -1"], env=htcjob.variables, stdout=-1, stderr=-1, text=True
    ) as shell:
        out, err = shell.communicate(timeout=60)
    assert out == "0\tentry-000000\n"
    assert err == "status=141\n"
