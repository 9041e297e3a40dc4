from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gnomon_server.control.program import LOWEST, STEP, Program, _starter

# In a process of its own: a priority that was lowered stays so.
STEPS_BACK = """
import asyncio, os, sys
from gnomon_server.control.program import Program, step_back

ASK = "import os, sys; os.write(int(sys.argv[1]), str(os.getpriority(os.PRIO_PROCESS, 0)).encode())"

async def main():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    step_back()
    reading, writing = os.pipe()
    program = await Program.started((sys.executable, "-c", ASK, str(writing)), writing, dict(os.environ))
    assert await program.wait() == 0
    print(before, os.getpriority(os.PRIO_PROCESS, 0), os.read(reading, 10).decode())

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere priorities are not those of threads")
def test_who_steps_back_lets_the_programs_that_it_starts_go_first() -> None:
    ran = subprocess.run((sys.executable, "-c", STEPS_BACK), capture_output=True, text=True, check=True)
    before, after, child = map(int, ran.stdout.split())
    assert (after, child) == (min(LOWEST, before + STEP), before)


async def started(code: str) -> Program:
    reading, writing = os.pipe()
    try:
        return await Program.started((sys.executable, "-c", code), writing, dict(os.environ))
    finally:
        os.close(reading)
        os.close(writing)


async def test_a_program_tells_how_it_ended_to_everybody_who_waits() -> None:
    program = await started("raise SystemExit(7)")
    assert tuple(await asyncio.gather(program.wait(), program.wait())) == (7, 7)
    assert await program.wait() == 7


async def test_a_killed_program_has_ended_and_may_be_killed_again() -> None:
    program = await started("import time; time.sleep(600)")
    program.kill()
    assert await program.wait() == -signal.SIGKILL
    program.kill()


async def test_who_gives_up_waiting_does_not_end_the_wait_of_others() -> None:
    program = await started("import time; time.sleep(600)")
    patient = asyncio.create_task(program.wait())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(program.wait(), 0.01)
    program.kill()
    assert await patient == -signal.SIGKILL


async def test_a_program_that_is_not_there_cannot_be_started() -> None:
    with pytest.raises(FileNotFoundError):
        await Program.started(("/nowhere",), 1, {})


async def test_who_gives_up_starting_a_program_leaves_none_behind(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(600)"
    for _ in range(20):
        starting = asyncio.create_task(started(code))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    # Those that were about to start have started.
    await asyncio.get_running_loop().run_in_executor(_starter, int)
    async with asyncio.timeout(30):
        while psutil.Process().children():
            await asyncio.sleep(0.01)
