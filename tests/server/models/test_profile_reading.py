from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from google.protobuf import json_format

from gnomon_protos.profile_pb2 import Chunk, Feature, Profile, Ranges, Texts, Values
from gnomon_server.errors import LoadError
from gnomon_server.models import profile

GOOD = Feature(name="x", tensor="x", values=Values(values=[1, 2]), counts=[3, 4, 0, 0])


def write(folder: Path, text: str, file: str = "profile.json", digest: str | None = None) -> None:
    found = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    manifest = {"format": 1, "model_file": "model.onnx", "profile_file": file, "profile_digest": digest or found}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "profile.json").write_text(text)


def written(*features: Feature) -> str:
    return json_format.MessageToJson(Profile(rows=7, features=features))


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path, written(GOOD))
    known = profile.read(tmp_path)
    assert known is not None
    assert known.profile == Profile(rows=7, features=[GOOD])
    assert known.digest.startswith("sha256:")


def test_a_version_without_a_profile_has_none(tmp_path: Path) -> None:
    assert profile.read(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"format": 1}')
    assert profile.read(tmp_path) is None


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        (Feature(name="x"), "feature 'x': expected ranges, values or texts"),
        (Feature(name="x", values=Values(values=[2, 1]), counts=[0] * 4), "expected ascending, finite numbers"),
        (Feature(name="x", ranges=Ranges(edges=[float("inf")]), counts=[0] * 4), "expected ascending, finite numbers"),
        (Feature(name="x", texts=Texts(listed=["a"]), counts=[1]), "expected 4 counts, received 1"),
        (Feature(name="x", values=Values(values=[1]), counts=[1, -1, 0]), "a count below 0"),
        (
            Feature(name="x", values=Values(values=[1]), counts=[1, 0, 0], chunks=[Chunk(counts=[1])]),
            "expected 3 counts",
        ),
    ],
)
def test_a_profile_that_contradicts_itself_is_refused(feature: Feature, words: str, tmp_path: Path) -> None:
    write(tmp_path, written(feature))
    with pytest.raises(LoadError, match=words):
        profile.read(tmp_path)


def test_a_profile_that_is_gone_altered_or_no_profile_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "nothing")
    with pytest.raises(LoadError, match=r"profile\.json is not a profile"):
        profile.read(tmp_path)
    write(tmp_path, written(GOOD), digest="sha256:0")
    with pytest.raises(LoadError, match=r"profile\.json: expected the digest sha256:0, received sha256:"):
        profile.read(tmp_path)
    write(tmp_path, written(GOOD), file="../profile.json")
    with pytest.raises(LoadError, match="profile_file: expected a file name"):
        profile.read(tmp_path)
    write(tmp_path, written(GOOD))
    (tmp_path / "profile.json").unlink()
    with pytest.raises(LoadError, match=r"profile\.json cannot be read"):
        profile.read(tmp_path)
