"""What is in the images, and what is not; what they are made of, for both architectures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import htcjob as package
from tests.conftest import REPOSITORY
from tests.support.servers.docker import TAG

DOCKER = REPOSITORY / "docker"
LOCKS = sorted((DOCKER / "lock").glob("*.txt"))
PLANTED = "planted-0123456789"


def test_the_labels_and_the_user(docker, base_image):
    """Exec form, a user by number, as Kubernetes wants to see it, and OCI's labels."""
    (image,) = json.loads(docker("inspect", base_image).stdout)
    config = image["Config"]
    assert config["Entrypoint"] == ["htcjob", "run", "--"]
    assert config["User"] == "1000:1000"
    assert config["Labels"]["org.opencontainers.image.title"] == "htcjob"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "MIT"
    assert docker.run(base_image, "htcjob", "--version").stdout == f"htcjob {package.__version__}\n"


def test_nothing_is_left_of_the_build(docker, base_image, face_tagger_image):
    """No compiler, no cache, no tests, no settings of the builder."""
    for image in (base_image, face_tagger_image):
        look = "command -v gcc; find / -xdev '(' -path '*/.cache/*' -o -path '/run/secrets/*' -size +0 ')'; ls -A /tmp /work"
        look += "; find /opt/htcjob -name tests -o -name '*.c' -o -name pip; ls /etc/pip.conf 2> /dev/null"
        found = docker.run("--user", "0", "--entrypoint", "sh", image, "-c", look).stdout.split()
        assert found == ["/tmp:", "/work:", *(["reference_app"] if image == face_tagger_image else [])]


def test_every_module_is_compiled(docker, base_image):
    """Bytecode that does not depend on dates: each start would compile what has none, as nobody may write it."""
    code = "import importlib.util as u, glob, os, sys\n"
    code += "for f in glob.glob('/opt/htcjob/lib/**/*.py', recursive=True):\n"
    code += "    c = u.cache_from_source(f)\n"
    code += "    if not os.path.exists(c) or open(c, 'rb').read(8)[4:] != b'\\1\\0\\0\\0': print(f)"
    done = docker.run("--entrypoint", "/opt/htcjob/bin/python", base_image, "-c", code)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("engine", ["fast", "sdk"])
@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_every_store_works_with_what_is_left_of_its_sdk(docker, base_image, request, kind, engine):
    """Put, list and read on a real server, or on what stands for it."""
    if kind == "s3":
        rgw = request.getfixturevalue("rgw")
        variables, url = rgw.environ(), f"s3://{rgw.new_bucket()}"
    elif kind == "gs":
        fake_gcs = request.getfixturevalue("fake_gcs")
        variables, url = {"STORAGE_EMULATOR_HOST": fake_gcs.endpoint}, f"gs://{fake_gcs.new_bucket()}"
    else:
        azurite = request.getfixturevalue("azurite")
        variables, url = azurite.environ(), f"az://{azurite.account}/{azurite.new_container()}"
    variables["HTCJOB_STORAGE_ENGINE"] = engine
    script = f"echo hello > file && htcjob storage put file {url}/ && htcjob storage ls {url}/ && htcjob storage cat {url}/file"
    options = [option for name, value in variables.items() for option in ("--env", f"{name}={value}")]
    done = docker.run("--network", "host", *options, "--entrypoint", "sh", base_image, "-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("file\nhello\n"), done.stdout


@pytest.fixture(scope="module")
def bare_image(docker, bottom, tmp_path_factory) -> str:
    """The base image without stores on a Debian that has neither Python nor certificates, by a builder with secrets."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "Dockerfile").write_text(
        f"FROM {bottom}\n"
        "RUN dpkg --purge --force-depends ca-certificates "
        "$(dpkg-query --show --showformat '${Package} ' 'python3*' 'libpython3*') && "
        "rm -rf /usr/bin/python /usr/local/lib/python3*\n"
    )
    bare = docker.build(folder / "Dockerfile", f"htcjob-bare:{TAG}", context=folder)
    listed = subprocess.run(
        ["python3", "-m", "pip", "config", "get", "global.cert"], capture_output=True, text=True, check=False
    )
    certificates = Path(listed.stdout.strip() or "/etc/ssl/certs/ca-certificates.crt")
    (folder / "ca").write_bytes(certificates.read_bytes() + f"# {PLANTED}\n".encode())
    # Not from the cache: what another builder made of the same files had no secrets.
    arguments = ("--no-cache", "--build-arg", f"BASE_IMAGE={bare}", "--build-arg", "STORES=none")
    settings = {"PIP_CERT": str(folder / "ca"), "PIP_TRUSTED_HOST": f"{PLANTED}.example"}
    return docker.build(DOCKER / "base.Dockerfile", f"htcjob-base-bare:{TAG}", *arguments, **settings)


def test_any_debian_will_do(docker, bare_image):
    """It gets Debian's Python; local stores work, and cloud stores say what is missing."""
    assert docker.run(bare_image, "sh", "-c", "python -c pass && exit 7").returncode == 7
    done = docker.run("--entrypoint", "htcjob", bare_image, "storage", "ls", "s3://bucket/")
    assert done.returncode == 78
    assert "make image STORES=fast" in done.stderr


def test_the_same_sources_give_the_same_bytes(docker, bottom, bare_image):
    """Built twice, on two bottoms with the same Python: the one now, the other whenever a cache has it from."""
    arguments = ("--build-arg", f"BASE_IMAGE={bottom}", "--build-arg", "STORES=none")
    other = docker.build(DOCKER / "base.Dockerfile", f"htcjob-base-none:{TAG}", *arguments)
    look = "cd /opt/htcjob && find lib bin ! -type d -exec sha256sum {} + | sort"
    found = [docker.run("--entrypoint", "sh", image, "-c", look).stdout for image in (bare_image, other)]
    assert found[0] == found[1]
    assert found[0].count("\n") > 300


def test_no_secret_of_the_builder_is_in_a_layer(docker, bare_image, tmp_path):
    """Neither pip's settings nor the certificates; the search finds what is there."""
    docker("save", "--output", tmp_path / "image.tar", bare_image)
    everything = (tmp_path / "image.tar").read_bytes()
    assert b"def run_attempt(" in everything
    assert PLANTED.encode() not in everything
    assert PLANTED not in docker("history", "--no-trunc", bare_image).stdout
    with tarfile.open(tmp_path / "image.tar") as image:
        layers = [image.extractfile(member) for member in image if member.name.endswith("layer.tar")]
        assert len(layers) > 2
        for layer in layers:
            with tarfile.open(fileobj=layer) as members:
                assert not [member.name for member in members if "secrets/" in member.name and member.size]


def test_the_locks_have_what_the_package_needs():
    """Every dependency and extra of pyproject.toml is locked, in a version that it allows."""
    from packaging.requirements import Requirement

    project = (REPOSITORY / "pyproject.toml").read_text()
    dependencies = project[project.index("\ndependencies = [") : project.index("\n[project.optional")]
    extras = dict(re.findall(r'^(\w+) = \["(.*)"\]$', project, re.MULTILINE))
    needed = {"none": re.findall(r'"(.+?)"', dependencies)}
    needed["fast"] = [*needed["none"], extras["fast"]]
    needed["all"] = [*needed["fast"], extras["s3"], extras["gcs"], extras["azure"]]
    needed["face-tagger"] = [extras["reference"], *(d for d in needed["none"] if d.startswith("click"))]
    for name, requirements in needed.items():
        locked = dict(
            re.findall(r"^([\w-]+)==([\w.]+)", (DOCKER / "lock" / f"{name}.txt").read_text(), re.MULTILINE)
        )
        for requirement in map(Requirement, requirements):
            version = locked[requirement.name.lower()]
            assert requirement.specifier.contains(version), f"{name}: {requirement}: run make lock"
    assert len(needed["none"]) >= 4


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_package_has_a_wheel_for_both_architectures(machine, tmp_path, skip_or_fail):
    """
    With the locked hashes, for the Python of the default bottom image.

    pip is asked once for all locks: what several have must have a version and a wheel that fit each of them.
    """
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(17, 37)]
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pip",
                "--quiet",
                "--disable-pip-version-check",
                "install",
                "--dry-run",
                "--no-deps",
            ),
            *("--ignore-installed", "--target", tmp_path, "--require-hashes", "--only-binary=:all:"),
            *("--python-version", "3.12", "--platform", f"manylinux2014_{machine}"),
            *(argument for platform in platforms for argument in ("--platform", platform)),
            *(argument for lock in LOCKS for argument in ("--requirement", lock)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "No matching distribution" not in done.stderr and done.returncode:
        skip_or_fail("HTCJOB_REQUIRE_INDEX", f"the index cannot be asked: {done.stderr[-500:]}")
    assert done.returncode == 0, done.stderr
    assert len(LOCKS) == 5


def test_no_index_is_named_in_a_lock():
    """Nor anything else that belongs to one builder."""
    for lock in LOCKS:
        assert not re.search(r"https?://|--index|--extra|--find", lock.read_text()), lock


def test_the_bake_file_builds_both_images_for_both_architectures():
    """Its Dockerfiles exist, and it sets only arguments that they have."""
    bake = (DOCKER / "bake.hcl").read_text()
    targets = dict(re.findall(r'^target "([\w-]+)" \{\n(.*?)^\}', bake, re.MULTILINE | re.DOTALL))
    assert set(targets) == {"base", "face-tagger"}
    for target in targets.values():
        assert 'platforms = ["linux/amd64", "linux/arm64"]' in target
        (dockerfile,) = re.findall(r'dockerfile = "(.*)"', target)
        text = (REPOSITORY / dockerfile).read_text()
        for argument in re.findall(r"^ {4}(\w+) = ", target, re.MULTILINE):
            assert re.search(rf"^ARG {argument}\b", text, re.MULTILINE), argument
        for name in re.findall(r"contexts = \{ ([\w-]+) = ", target):
            assert f"={name}\n" in text, name
