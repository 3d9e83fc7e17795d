"""The built wheel, in a clean environment without the developers' tools, works."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this tree."""
    directory = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, REPOSITORY], check=True
    )
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory, skip_or_fail) -> Path:
    """The folder of commands of an environment that has only the wheel and what it depends on."""
    directory = tmp_path_factory.mktemp("package")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "venv"], check=True)
    commands = directory / "venv" / "bin"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", commands / "python"]
    done = subprocess.run(
        [*pip, "install", wheel],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        skip_or_fail("HTCJOB_REQUIRE_INDEX", f"the wheel's dependencies cannot be installed: {done.stderr}")
    return commands


def test_the_wheel_has_htcjob_and_nothing_else(wheel):
    """No other name is taken at the top: not the reference app's, not that of the tests."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"htcjob"}


def test_the_wheel_brings_the_command_and_its_types(installed):
    """`htcjob --help` and every subcommand's, and the marker that says it is typed."""
    environment = {"PATH": f"{installed}:{os.environ['PATH']}"}
    for arguments in ([], ["run"], ["simulate"], ["chunk"], ["check"], ["env"]):
        subprocess.run(
            ["htcjob", *arguments, "--help"], env=environment, check=True, stdout=subprocess.DEVNULL
        )
    assert list((installed.parent / "lib").rglob("htcjob/py.typed"))
    assert not list((installed.parent / "lib").rglob("site-packages/tests"))


def test_the_wheel_runs_an_array(installed, tmp_path):
    """One simulation, from a folder where no source lies about."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / name).write_text(name)
    (tmp_path / "in" / "list").write_text("a\nb\n")
    subprocess.run(
        [
            *("htcjob", "simulate", "--array-size", "2", "--project-store", "in", "--task-store", "out"),
            *("--", "--manifest", "list", "--each", "--", "cp", "{input}", "{output_dir}"),
        ],
        cwd=tmp_path,
        env={"PATH": f"{installed}:{os.environ['PATH']}"},
        check=True,
    )
    assert (tmp_path / "out" / "a").read_text() == "a"


def test_without_opencv_the_face_tagger_says_what_to_install(installed, tmp_path):
    """One line with the cure, no traceback; it is run from the tree, as a user's program."""
    shutil.copytree(REPOSITORY / "reference_app", tmp_path / "reference_app")
    (tmp_path / "a.jpg").write_bytes(b"")
    for arguments in (("face_tagger", "a.jpg"), ("synthetic", "photos")):
        done = subprocess.run(
            [installed / "python", "-m", f"reference_app.{arguments[0]}", *arguments[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 78
        assert "pip install '.[reference]' in the clone" in done.stderr
        assert "Traceback" not in done.stderr
