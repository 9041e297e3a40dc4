"""What a folder holds that can be served."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from gnomon_server.errors import InvalidRequest, NotFound
from gnomon_server.models.sources import source


def put(root: Path, *files: str) -> None:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(url: Path | str) -> set[tuple[str, int]]:
    return {(ref.model, ref.version) for ref in source(str(url)).versions()}


def test_a_version_is_a_numbered_folder_with_a_model_or_a_manifest(tmp_path: Path) -> None:
    put(tmp_path, "churn/1/model.onnx", "churn/12/manifest.json", "churn/3/other.bin", "iris-2.b_c/1/model.onnx")
    (tmp_path / "churn" / "4").mkdir()
    assert found(tmp_path) == {("churn", 1), ("churn", 12), ("iris-2.b_c", 1)}
    assert {ref.folder for ref in source(str(tmp_path)).versions() if ref.version == 12} == {str(tmp_path / "churn/12")}


def test_names_that_are_none_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, *(f"churn/{name}/model.onnx" for name in ("0", "01", "-1", "1a", "latest", ".2", "1" * 19, "\u0661")))
    put(tmp_path, ".hidden/1/model.onnx", "-x/1/model.onnx", "a b/1/model.onnx", "README.md", "churn/config.pbtxt")
    assert found(tmp_path) == set()


def test_half_written_versions_beside_are_not_seen(tmp_path: Path) -> None:
    put(tmp_path, "churn/1/model.onnx", ".churn-2/model.onnx", "churn/.2.tmp/model.onnx")
    assert found(tmp_path) == {("churn", 1)}


def test_links_are_followed(tmp_path: Path) -> None:
    put(tmp_path, "store/abc/model.onnx")
    (tmp_path / "models" / "churn").mkdir(parents=True)
    (tmp_path / "models" / "churn" / "1").symlink_to(tmp_path / "store" / "abc")
    (tmp_path / "models" / "churn" / "2").symlink_to(tmp_path / "nowhere")
    assert found(tmp_path / "models") == {("churn", 1)}


def test_each_look_is_anew(tmp_path: Path) -> None:
    looked = source(str(tmp_path))
    assert looked.versions() == frozenset()
    put(tmp_path, "churn/1/model.onnx")
    assert len(looked.versions()) == 1
    (tmp_path / "churn/1/model.onnx").unlink()
    assert looked.versions() == frozenset()


def test_a_file_url_names_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "mit Leerzeichen"
    put(root, "churn/1/model.onnx")
    assert found(f"file://{quote(str(root))}") == {("churn", 1)}


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_folder_that_cannot_be_read_is_not_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotFound, match=f"repository {tmp_path / name} cannot be read"):
        found(tmp_path / name)


def test_an_unknown_scheme_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="expected a folder or one of file://, received 'gopher://models'"):
        source("gopher://models")
