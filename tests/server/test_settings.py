"""What one model's settings are, from a file to the struct."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gnomon_server.config import ModelSettings, Policy, SessionSettings, Settings, load, to_toml
from gnomon_server.errors import InvalidRequest


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
    settings = read("[policy]\nmin_requests = 7\n[models.churn.policy]\nmin_agreement = 0.5", tmp_path)
    assert settings.policy_of("churn") == Policy(min_agreement=0.5, min_requests=7)
    assert settings.policy_of("other") == Policy(min_requests=7)


@pytest.mark.parametrize(
    "text",
    [
        "[models.m]\nmax_batch = 0",
        "[models.m]\nmax_queue_delay = -1",
        "[models.m]\nsession = 3",
        "[models.m.policy]\nmin_agreement = 'much'",
        "[models.'*']\nmisspelt = 1",
    ],
)
def test_a_wrong_setting_of_a_model_names_the_model(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"gnomon\.toml: models\.[m*]"):
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
        """
    settings = read(text, tmp_path)
    printed = to_toml(settings)
    assert settings.model('odd "name').session.provider_options == {"CUDAExecutionProvider": {"device_id": "1"}}
    assert tomllib.loads(printed)["models"] == settings.models
    assert read(printed, tmp_path) == settings
