"""The commands that prove: audit and approve."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon_server.cli.screen import add_command, add_control, add_json, console, control, say, say_json
from gnomon_server.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from gnomon_client import Control
    from gnomon_protos import control_pb2
    from gnomon_server.control.audit.chain import Sealed
    from gnomon_server.control.audit.checkpoint import Checkpoint
    from gnomon_server.control.audit.signing import PublicKey

EXAMPLES = """gnomon audit flights
  gnomon audit --verify --key signing.pub.pem --against checkpoint.json
  gnomon audit --evidence 7 > promotion.json
  gnomon audit --check promotion.json --key signing.pub.pem"""


def add_parser(subparsers: Any) -> None:
    """Adds the commands."""
    audit = add_command(
        subparsers,
        "audit",
        "List the changes, newest first; verify them; export and check the evidence of a promotion.",
        EXAMPLES,
        run_audit,
    )
    audit.add_argument("model", nargs="?", default="", help="only this model")
    audit.add_argument("--limit", type=int, default=100, metavar="N", help="at most this many (default: 100)")
    task = audit.add_mutually_exclusive_group()
    task.add_argument("--verify", action="store_true", help="check every entry; exit 1 and name the first broken one")
    task.add_argument("--checkpoint", action="store_true", help="print the signed checkpoint, to be kept elsewhere")
    task.add_argument("--evidence", type=int, metavar="ID", help="print the signed statement of an entry")
    task.add_argument("--check", type=Path, metavar="FILE", help="verify such a statement, without a server")
    audit.add_argument(
        "--key",
        type=Path,
        action="append",
        default=[],
        metavar="PEM",
        help="a public key to trust (default: what the server, or the state folder, says is its own)",
    )
    audit.add_argument("--against", type=Path, metavar="FILE", help="verify: a checkpoint that was kept elsewhere")
    audit.add_argument("--state", type=Path, metavar="DIR", help="verify: a state folder, in the place of a server")
    approve = add_command(
        subparsers,
        "approve",
        "Approve a promotion that a policy asks several people for, with a key of your own.",
        "gnomon approve flights 2 --key ann.pem --reason 'reviewed in CHG-1042'",
        run_approve,
    )
    approve.add_argument("model", help="the model")
    approve.add_argument("version", type=int, help="the version")
    approve.add_argument("--key", type=Path, required=True, metavar="PEM", help="your private key, ed25519")
    approve.add_argument("--reason", default="", help="why, for the audit")
    for parser in (audit, approve):
        add_json(parser)
        add_control(parser)


def run_audit(arguments: argparse.Namespace) -> int:
    """Lists the changes, or proves something of them."""
    if arguments.check:
        return _check(arguments)
    if arguments.verify and arguments.state:
        return _verify_folder(arguments)
    with control(arguments) as server:
        if arguments.verify:
            return _verify_server(server, arguments)
        if arguments.checkpoint:
            say(server.export_audit(limit=1).checkpoint)
            return 0
        if arguments.evidence is not None:
            return _export(server, arguments.evidence)
        found = server.audit(arguments.model, arguments.limit)
    if arguments.json:
        say_json(found)
    else:
        from gnomon_server.cli import tables

        console().print(tables.audit(found.entries))
    return 0


def run_approve(arguments: argparse.Namespace) -> int:
    """Signs the approval of a promotion and hands it in."""
    from gnomon_server.control.audit import approval
    from gnomon_server.control.audit.signing import Signer

    signer = Signer.read(arguments.key)
    with control(arguments) as server:
        (model,) = server.models(arguments.model).models
        digests = {version.version: version.digest for version in model.versions}
        primary = model.route.primary
        if arguments.version not in digests:
            expected = sorted(digests)
            raise NotFound(f"model '{model.name}': version '{arguments.version}' not found: expected one of {expected}")
        wanted = approval.subjects(
            model.name, arguments.version, digests[arguments.version], primary, digests.get(primary, "")
        )
        text = approval.signed(wanted, datetime.now(UTC).isoformat(), arguments.reason, signer)
        found = server.approve(model.name, arguments.version, text, arguments.reason)
    if arguments.json:
        say_json(found)
    else:
        names = " in the place of ".join(f"{s.name} ({next(iter(s.digest.values()))[:12]})" for s in wanted)
        say(f"{found.actor} approves {names}: entry {found.id} of the audit")
    return 0


def _export(server: Control, number: int) -> int:
    found = [entry for entry in server.export_audit(number - 1, 1).entries if entry.id == number] if number > 0 else []
    if not found:
        raise NotFound(f"the audit has no entry {number}")
    entry = _sealed(found[0]).record.entry
    if not entry.evidence:
        raise NotFound(f"entry {number} of the audit ('{entry.action}') has no evidence")
    say(entry.evidence)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    """Verifies a statement by the keys that were named."""
    import msgspec

    from gnomon_server.control.audit import envelope

    if not arguments.key:
        raise InvalidRequest("audit: --check needs --key, the public key of the server that signed it")
    text = _content(arguments.check)
    keys = _keys(arguments.key)
    try:
        statement = envelope.verified(text, keys.values(), str(arguments.check))
    except envelope.Unsigned as error:
        say(str(error))
        return 1
    if arguments.json:
        say(msgspec.json.encode(statement).decode())
        return 0
    names = ", ".join(f"{s.name} ({' '.join(f'{a}:{d[:12]}' for a, d in s.digest.items())})" for s in statement.subject)
    say(f"{arguments.check}: genuine: {statement.predicate_type} on {names}")
    return 0


def _verify_server(server: Control, arguments: argparse.Namespace) -> int:
    from gnomon_server.control.audit.checkpoint import Checkpoint
    from gnomon_server.control.audit.signing import PublicKey

    first = server.export_audit(limit=1)
    own = PublicKey.parsed(first.public_key.encode(), "the server's key")
    kept = [Checkpoint.parsed(first.checkpoint, "the server's checkpoint")] if first.checkpoint else []

    def entries() -> Iterator[Sealed]:
        last = 0
        while page := server.export_audit(last).entries:
            yield from map(_sealed, page)
            last = page[-1].id

    return _verify(entries(), {own.id: own}, kept, arguments)


def _verify_folder(arguments: argparse.Namespace) -> int:
    from gnomon_server.control.audit import checkpoint, signing
    from gnomon_server.control.audit.checkpoint import Checkpoint
    from gnomon_server.control.audit.signing import PublicKey
    from gnomon_server.control.store.sqlite import entries_in

    file = arguments.state / checkpoint.FILE
    kept = [Checkpoint.parsed(_content(file), str(file))] if file.exists() else []
    own = arguments.state / signing.PUBLIC_FILE
    keys = {} if arguments.key else {key.id: key for key in (PublicKey.read(own),)}
    return _verify(entries_in(arguments.state), keys, kept, arguments)


def _verify(
    entries: Iterator[Sealed],
    own: Mapping[str, PublicKey],
    kept: list[Checkpoint],
    arguments: argparse.Namespace,
) -> int:
    from gnomon_server.control.audit import chain
    from gnomon_server.control.audit.checkpoint import Checkpoint

    if arguments.against:
        kept = [*kept, Checkpoint.parsed(_content(arguments.against), str(arguments.against))]
    try:
        count = chain.verify(entries, _keys(arguments.key) or own, kept)
    except chain.Broken as error:
        say(f"the audit is broken: {error}")
        return 1
    trust = "the keys that you named" if arguments.key else "a key that it names itself (--key names one to trust)"
    known = f"; {len(kept)} checkpoint{'s' * (len(kept) != 1)} kept" if kept else "; no checkpoint: its end is unproven"
    say(f"{count:,} entries, each as it was written and signed by {trust}{known}")
    return 0


def _sealed(entry: control_pb2.SealedEntry) -> Sealed:
    from gnomon_server.control.audit.chain import Sealed

    return Sealed(entry.id, entry.model, entry.body, entry.hash, entry.key, entry.signature)


def _keys(files: list[Path]) -> Mapping[str, PublicKey]:
    from gnomon_server.control.audit.signing import PublicKey

    keys = [PublicKey.read(file) for file in files]
    return {key.id: key for key in keys}


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{file}: cannot be read: {error.strerror}") from None
