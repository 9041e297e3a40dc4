"""A second gnomon as a remote shadow, over TLS: compared like a local one, counted honestly while it is away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_models as models
import pytest
from load import Load
from servers import ServerProcess, eventually
from tallying import adds_up, at_rest, mirrored

from gnomon_client import Client, Control, FailedPrecondition, Retries
from gnomon_server.shadow.recording import Segment, segments

CERTIFICATES = Path(__file__).parents[1] / "client" / "certificates"
SERVERS_OWN = {"certificate": "server.pem", "key": "server.key", "client_ca": "authority.pem"}


def rows(number: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Zeros, on which the versions agree, in every second request."""
    return np.full((1, 3), number % 2, np.float32)


def status(control: Control, version: int) -> tuple[str, str, str]:
    (model,) = control.models("m").models
    return next((v.role, v.state, v.reason) for v in model.versions if v.version == version)


def test_a_second_server_is_compared_in_the_same_way_and_what_it_misses_is_dropped(tmp_path: Path) -> None:
    for folder, version, scale in (("near", 3, 1.0), ("near", 4, 1.1), ("far", 9, 1.1)):
        models.write(tmp_path / folder, "m", version, models.affine(scale))
    tls = "[tls]\n" + "".join(f"{name} = '{CERTIFICATES / file}'\n" for name, file in SERVERS_OWN.items())
    far = ServerProcess(tmp_path / "far", tmp_path / "far-state", config=tls)
    with far:
        config = (
            "grace = 1.0\n[mirror]\ndeadline = 60.0\n"
            # A number below the primary's, which makes it no primary all the same.
            f"[models.m.remotes.1]\naddress = '{far.grpc}'\nversion = '9'\nrows = 4\npatience = 2\npause = 0.2\n"
            f"tls = true\nca = '{CERTIFICATES / 'authority.pem'}'\n"
            f"key = '{CERTIFICATES / 'client.key'}'\ncertificate = '{CERTIFICATES / 'client.pem'}'\n"
            "[models.m.shadows.4]\nqueue_bytes = 1048576\ndeadline = 50.0\n"
            "[models.m.recording]\nenabled = true\n"
        )
        with ServerProcess(tmp_path / "near", tmp_path / "state", config=config) as near, near.control() as control:
            mirrored(control, "m", 4)
            mirrored(control, "m", 1)
            (route,) = [model.route for model in control.models("m").models]
            assert (route.primary, [shadow.version for shadow in route.shadows]) == (3, [1, 4])
            with Load(near.grpc, "m", rows) as load:
                load.reach(200)
            assert load.failures == []
            local, remote = (at_rest(control, "m", load.ended, shadow=shadow) for shadow in (4, 1))
            assert (local.compared, remote.compared) == (load.ended, load.ended)
            one, other = control.report("m", 4), control.report("m", 1)
            assert 0 < one.agreement.estimate == other.agreement.estimate < 1
            assert [o.disagreements for o in one.outputs] == [o.disagreements for o in other.outputs]
            # What a shadow sends goes to shadows here, and to none elsewhere: two servers would go on for ever.
            with Load(near.grpc, "m", rows, name="marked", metadata={"gnomon-shadow": "true"}) as marked:
                marked.reach(20)
            assert at_rest(control, "m", load.ended + marked.ended, shadow=4).compared == load.ended + marked.ended
            assert at_rest(control, "m", load.ended, shadow=1).compared == load.ended
            # The far side answered what was mirrored, and nothing that a user sent.
            with far.control() as theirs:
                (there,) = theirs.models("m").models
                assert 0 < there.versions[0].requests <= load.ended
            # Gone: nobody notices, status says so, and what is selected meanwhile is dropped.
            far.kill()
            with Load(near.grpc, "m", rows, name="alone") as alone:
                alone.reach(50)
                eventually(lambda: "was not reached" in status(control, 1)[2])
                alone.reach(50)
            assert alone.failures == []
            found = at_rest(control, "m", load.ended + alone.ended, shadow=1)
            assert adds_up(found)
            assert found.dropped > 0
            assert found.compared + found.dropped == load.ended + alone.ended
            # It cannot be promoted: nothing of it is here.
            with pytest.raises(FailedPrecondition, match="version '1' runs elsewhere"):
                control.promote("m", 1, force=True, reason="all the same")
            with Client(near.grpc, retries=Retries(0)) as client:
                assert client.infer("m", rows(1)).version == "3"
    # Its own deadline is written down with what the shadow with settings of its own was given.
    (path,) = segments(tmp_path / "state" / "recordings" / "m" / "4")
    with Segment(path) as segment:
        assert segment.head is not None
        assert segment.head.deadline_ns == 50 * 10**9
