"""Which module serves a bucket."""

from __future__ import annotations

import pytest

from htcjob.errors import ConfigurationError
from htcjob.storage import engines, sdks
from htcjob.storage.access import Access


class TestEngines:
    def test_what_is_opened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fast is the default where it is installed and can; else the SDK; what is missing is named."""
        installed = {"obstore", "botocore"}
        monkeypatch.setattr(sdks, "is_installed", lambda package: package in installed)
        monkeypatch.setattr(sdks, "import_module", lambda name: _SdkModule(name.split(".")[2]))
        monkeypatch.setattr("htcjob.storage.fast.bucket.FastBucket", lambda *_: "fast")
        monkeypatch.setattr(
            "htcjob.storage.fast.choice.why_not",
            lambda _scheme, _container, access: "with something" if "NOT" in access.environ else "",
        )

        def opened(engine: str, **environ: str) -> object:
            return engines.open_bucket("s3", "bucket", Access(engine=engine, environ=environ))

        assert opened("auto") == opened("fast") == "fast"
        assert opened("auto", NOT="") == opened("fast", NOT="") == opened("sdk") == "s3"
        installed.remove("botocore")
        with pytest.raises(ConfigurationError, match=r"with something.*'\.\[s3\]'"):
            opened("auto", NOT="")
        with pytest.raises(ConfigurationError, match=r"'\.\[s3\]'"):
            opened("sdk")
        installed.clear()
        with pytest.raises(ConfigurationError, match=r"'\.\[fast\]'"):
            opened("fast")
        with pytest.raises(ConfigurationError, match=r"'\.\[s3\]'"):
            opened("auto")
        with pytest.raises(ConfigurationError, match="expected one of auto, fast, sdk"):
            opened("slow")

    def test_buckets_are_shared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A bucket is opened once for each access, however many stores lie in it."""
        monkeypatch.setattr(engines, "_open", lambda *_: object())
        access = Access(environ={})
        assert engines.open_bucket("s3", "a", access) is engines.open_bucket("s3", "a", access)
        assert engines.open_bucket("s3", "a", access) is not engines.open_bucket("gs", "a", access)
        assert engines.open_bucket("s3", "a", access) is not engines.open_bucket(
            "s3", "a", Access(environ={})
        )


class _SdkModule:
    """Stands for the module of an SDK; opens its own name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def open_bucket(self, *_: object) -> str:
        return self._name
