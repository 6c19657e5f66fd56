"""How oxloop is selected in other programs: what docs/integrations.md says, as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import signal
from pathlib import Path

import pytest

from tests.support import PYTHON, TIME_LIMIT, Child, child

from .integrations import OURS, TEXT, ask, block, documented, loop_of, output, serving, write


@pytest.mark.skipif(PYTHON < (3, 12), reason="asyncio.run takes a factory since 3.12")
def test_asyncio_run(folder: Path) -> None:
    line = documented("asyncio.run(main(), loop_factory=oxloop.new_event_loop)")
    assert loop_of(folder, line) == OURS


@pytest.mark.skipif(PYTHON < (3, 11), reason="asyncio.Runner is new in 3.11")
def test_asyncio_runner(folder: Path) -> None:
    line = documented("asyncio.Runner(loop_factory=oxloop.new_event_loop)")
    assert loop_of(folder, f"with {line} as runner:\n    runner.run(main())") == OURS


def test_run(folder: Path) -> None:
    assert loop_of(folder, documented("oxloop.run(main())")) == OURS


@pytest.mark.skipif(PYTHON >= (3, 16), reason="3.16 has no policies")
def test_install(folder: Path) -> None:
    line = documented("oxloop.install()")
    assert loop_of(folder, f"{line}\nasyncio.run(main())") == OURS


def test_anyio(folder: Path) -> None:
    line = documented('anyio.run(main, backend_options={"loop_factory": oxloop.new_event_loop})')
    assert loop_of(folder, line) == OURS


@pytest.mark.skipif(PYTHON < (3, 14), reason="new in 3.14")
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_tasks_seen_from_outside(folder: Path, command: str) -> None:
    documented(f"python -m asyncio {command} PID")
    code = """
        import asyncio, oxloop

        async def inner():
            print("waiting", flush=True)
            await asyncio.Event().wait()

        async def outer():
            async with asyncio.TaskGroup() as group:
                group.create_task(inner(), name="the inner one")

        oxloop.run(outer())
    """
    write(folder, "program.py", code)
    with child("program.py", cwd=folder) as program:
        program.expect("waiting")
        program.wait_until_asleep()
        seen = Child("-m", "asyncio", command, str(program.process.pid)).finish()
    if "permission" in seen.errors.lower():
        pytest.skip(f"the system forbids it: {seen.last_error}")
    assert seen.code == 0, seen.errors
    assert "the inner one" in seen.output
    assert "TaskGroup" in seen.output


def test_uvicorn(folder: Path) -> None:
    line = documented("uvicorn app:app --loop oxloop:new_event_loop")
    with serving(folder, "-m", *shlex.split(line), "--uds", "http") as server:
        assert ask(server, folder / "http") == OURS


def test_gunicorn_with_the_worker_of_uvicorn(folder: Path) -> None:
    (folder / "workers.py").write_text(block("UvicornWorker"))
    line = documented("gunicorn app:app --worker-class workers.OxloopWorker")
    with serving(folder, "-m", *shlex.split(line), "--bind", "unix:http") as server:
        assert ask(server, folder / "http") == OURS
        assert server.stop(signal.SIGTERM) == 0, server.output


@pytest.mark.skipif(PYTHON >= (3, 16), reason="3.16 has no policies")
def test_gunicorn_alone(folder: Path) -> None:
    [settings] = re.findall(r"`settings.py`.*?```python\n(.*?)```", TEXT, re.S)
    (folder / "settings.py").write_text(settings)
    line = documented(
        "gunicorn app:app --worker-class asgi --asgi-loop asyncio --config settings.py"
    )
    with serving(folder, "-m", *shlex.split(line), "--bind", "unix:http") as server:
        assert ask(server, folder / "http") == OURS
        assert server.stop(signal.SIGTERM) == 0, server.output


def test_hypercorn(folder: Path) -> None:
    line = documented("oxloop.run(hypercorn.asyncio.serve(app, config))")
    code = f"""
        import hypercorn.asyncio, oxloop
        from app import app

        config = hypercorn.Config()
        config.bind = ["unix:http"]
        {line}
    """
    write(folder, "serve.py", code)
    with serving(folder, "serve.py") as server:
        assert ask(server, folder / "http") == OURS


def test_granian(folder: Path) -> None:
    code = block("granian.loops")
    assert 'loop="asyncio")' in code
    (folder / "serve.py").write_text(
        code.replace('loop="asyncio")', 'loop="asyncio", uds=pathlib.Path("http"))').replace(
            "import asyncio\n", "import asyncio\nimport pathlib\n"
        )
    )
    with serving(folder, *shlex.split(documented("python serve.py"))[1:]) as server:
        assert ask(server, folder / "http") == OURS


def test_aiohttp(folder: Path) -> None:
    line = documented("web.run_app(app, loop=oxloop.new_event_loop())")
    code = f"""
        import asyncio, oxloop
        from aiohttp import web

        async def which(request):
            loop = type(asyncio.get_running_loop())
            return web.Response(text=f"{{loop.__module__}}.{{loop.__qualname__}}")

        app = web.Application()
        app.router.add_get("/", which)
        {line.replace("run_app(app", "run_app(app, path='http'")}
    """
    write(folder, "serve.py", code)
    with serving(folder, "serve.py") as server:
        assert ask(server, folder / "http") == OURS


@pytest.mark.parametrize(
    ("plugin", "mark", "options"),
    [
        ("pytest_asyncio_loop_factories", "asyncio", ("-p", "asyncio")),
        ("anyio_backend", "anyio", ("-p", "anyio")),
    ],
)
def test_pytest(folder: Path, plugin: str, mark: str, options: tuple[str, ...]) -> None:
    (folder / "conftest.py").write_text(block(plugin))
    code = f"""
        import asyncio, oxloop, pytest

        @pytest.mark.{mark}
        async def test_loop():
            assert isinstance(asyncio.get_running_loop(), oxloop.Loop)
            await asyncio.sleep(0.001)
    """
    write(folder, "test_it.py", code)
    said = output(folder, "-m", "pytest", "-q", "--disable-plugin-autoload", *options, ".")
    assert "1 passed" in said


def test_ipython(folder: Path) -> None:
    lines = [
        documented("%autoawait oxloop.run"),
        "import asyncio",
        "await asyncio.sleep(0.001, type(asyncio.get_running_loop()))",
    ]
    arguments = ("-m", "IPython", "--simple-prompt", "--colors=NoColor", "--no-banner")
    with child(*arguments, cwd=folder, env={**os.environ, "IPYTHONDIR": str(folder)}) as shell:
        said, errors = shell.process.communicate("\n".join([*lines, ""]), TIME_LIMIT)
    assert f"Out[3]: {OURS}" in said, f"{said}\n{errors}"


def test_nest_asyncio_refuses(folder: Path) -> None:
    assert f"`ValueError: Can't patch loop of type <class '{OURS}'>`" in TEXT
    code = """
        import asyncio, nest_asyncio, oxloop

        loop = oxloop.new_event_loop()
        try:
            nest_asyncio.apply(loop)
        except ValueError as error:
            print(f"ValueError: {error}")
        print(loop.run_until_complete(asyncio.sleep(0.001, "works on")))
        loop.close()
    """
    write(folder, "program.py", code)
    said = output(folder, "program.py").splitlines()
    assert said == [f"ValueError: Can't patch loop of type <class '{OURS}'>", "works on"]
