"""`htcjob env`: what was injected, and no secret."""

import json

TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJwbGFudGVkLXRva2VuIn0.planted-signature"


def test_env_shows_what_was_injected_and_no_secret(htcjob):
    """Variables, and what we make of them."""
    variables = {"RESCALE_HTC_BEARER_TOKEN": TOKEN, "BATCH_TASK_INDEX": "3", "BATCH_TASK_COUNT": "4"}
    for arguments in (("env",), ("env", "--json")):
        done = htcjob(*arguments, **variables)
        assert done.returncode == 0
        assert "google-batch" in done.stdout
        assert "planted" not in done.stdout + done.stderr
        assert "<redacted>" in done.stdout
    assert json.loads(done.stdout)["context"]["array_index"] == 3


def test_env_shows_the_variables_even_when_they_make_no_sense(htcjob):
    """That is when one looks; then comes the problem, and the status is 78."""
    done = htcjob("env", BATCH_TASK_INDEX="x", BATCH_TASK_COUNT="4")
    assert done.returncode == 78
    assert "BATCH_TASK_INDEX=x" in done.stdout
    assert "BATCH_TASK_INDEX" in done.stderr
    found = json.loads(htcjob("env", "--json", BATCH_TASK_INDEX="x").stdout)
    assert found["variables"]["BATCH_TASK_INDEX"] == "x"
    assert "BATCH_TASK_INDEX" in found["problem"]
