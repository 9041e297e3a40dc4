"""What one model's settings are, from a file to the struct."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gnomon_server.config import load, to_toml
from gnomon_server.errors import InvalidRequest
from gnomon_server.settings import ModelSettings, Policy, SessionSettings, Settings


def read(text: str, folder: Path) -> Settings:
    file = folder / "gnomon.toml"
    file.write_text(text)
    return load({}, file, {})


def test_a_model_takes_what_it_leaves_out_from_the_star(tmp_path: Path) -> None:
    settings = read(
        """
        [models."*"]
        max_batch = 8
        session.threads = 2
        [models.churn]
        max_queue = 5
        session.arena = false
        """,
        tmp_path,
    )
    churn = settings.model("churn")
    assert (churn.max_batch, churn.max_queue, churn.session) == (8, 5, SessionSettings(threads=2, arena=False))
    assert settings.model("other") == ModelSettings(max_batch=8, session=SessionSettings(threads=2))


def test_a_policy_of_one_model_lies_over_that_of_all(tmp_path: Path) -> None:
    settings = read("[policy]\nmin_requests = 7\n[models.churn.policy]\ntolerance = 0.5", tmp_path)
    assert settings.policy_of("churn") == Policy(tolerance=0.5, min_requests=7)
    assert settings.policy_of("other") == Policy(min_requests=7)


@pytest.mark.parametrize(
    "text",
    [
        "[models.m]\nmax_batch = 0",
        "[models.m]\nmax_queue_delay = -1",
        "[models.m]\nsession = 3",
        "[models.m.policy]\ntolerance = 'much'",
        "[models.'*']\nmisspelt = 1",
    ],
)
def test_a_wrong_setting_of_a_model_names_the_model(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"gnomon\.toml:2: models\.[m*]\."):
        read(text, tmp_path)


def test_tolerances_of_outputs_lie_over_those_of_all_models(tmp_path: Path) -> None:
    text = """
        [policy.outputs]
        score = 0.2
        rank = 0.1
        [models.churn.policy.outputs]
        score = 0.05
        """
    settings = read(text, tmp_path)
    assert settings.policy_of("churn").outputs == {"score": 0.05, "rank": 0.1}
    assert settings.policy_of("other").outputs == {"score": 0.2, "rank": 0.1}


def test_a_policy_is_named_by_what_it_says() -> None:
    assert Policy().digest == Policy(tolerance=0.01).digest
    assert Policy().digest != Policy(tolerance=0.02).digest
    assert Policy().digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("text", "line", "setting"),
    [
        ("workers = 1\n\nwrokers = 2", 3, "wrokers"),
        ("[policy]\n# so much\ntolerance = 1.5", 3, "policy.tolerance"),
        ("[policy]\nblock = 5\nbloc = 5", 3, "policy.bloc"),
        ("policy.block = 0", 1, "policy.block"),
        ("[models.a]\n[models.b.policy]\nalpha_reject = 0", 3, "models.b.policy.alpha_reject"),
        ("[models.'a.b']\npolicy.bloc = 7", 2, "models.a.b.policy.bloc"),
        ("[models.a]\n[models.'*']\nmax_batch = 0", 3, "models.a.max_batch"),
        ("[policy]\nblock = 5\n[models.a]\npolicy = { bloc = 7 }", 4, "models.a.policy.bloc"),
        ("[policy]\n[policy.outputs]\nscore = 2", 2, "policy.outputs"),
        (
            "[policy]\n[policy.segments.far]\ntolerance = 0.1\nwhere = 'x >> 1'",
            4,
            "policy.segments.far.where",
        ),
        (
            "[models.a.policy.segments.far]\nwhere = 'x'\ntolerance = 0.1",
            2,
            "models.a.policy.segments.far.where",
        ),
        (
            "[policy]\nlabels = 60\n[models.a.feedback]\nkeep_seconds = 30",
            4,
            "models.a.feedback.keep_seconds",
        ),
        ('repository = """\nx = y = z\n"""\n[mirror]\ndeadline = -1', 5, "mirror.deadline"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_line(text: str, line: int, setting: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=rf"gnomon\.toml:{line}: {setting}: "):
        read(text, tmp_path)


def test_every_setting_of_a_model_survives_being_printed(tmp_path: Path) -> None:
    text = """
        transport = "grpcio"
        [models."odd \\"name"]
        max_queue_delay = 0.002
        [models."odd \\"name".session]
        spinning = true
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        provider_options.CUDAExecutionProvider.device_id = "1"
        [models."odd \\"name".delivery]
        steps = [{weight = 0.05, seconds = 1, requests = 2}, {weight = 0.5}]
        """
    settings = read(text, tmp_path)
    printed = to_toml(settings)
    assert settings.model('odd "name').session.provider_options == {"CUDAExecutionProvider": {"device_id": "1"}}
    assert tomllib.loads(printed)["models"] == settings.models
    assert read(printed, tmp_path) == settings


def test_what_clients_may_change_or_read_is_off_until_someone_says_otherwise() -> None:
    usual = load({}, None, {})
    assert (usual.repository_control, usual.shared_memory) == (False, False)
    environment = {"GNOMON_REPOSITORY_CONTROL": "true", "GNOMON_SHARED_MEMORY": "1"}
    allowed = load({}, None, environment)
    assert (allowed.repository_control, allowed.shared_memory) == (True, True)
    assert not load({"shared_memory": False}, None, environment).shared_memory
    with pytest.raises(InvalidRequest, match="shared_memory"):
        load({}, None, {"GNOMON_SHARED_MEMORY": "perhaps"})
