"""Nothing leaves this machine: no telemetry is announced, and no name is looked up but those that
a command names. Each command is called at a terminal with an empty home, where the libraries would
announce theirs; a library that is loaded into every process refuses the network and records.
"""

from __future__ import annotations

import sys

import pytest

from tests.support.outside import Outside

_ANNOUNCED = ("usage data", "opt out", "opt-out")


def nothing_left(outside: Outside, said: str) -> None:
    assert outside.refused == []
    assert not any(word in said.lower() for word in _ANNOUNCED), said


def test_the_record_sees_python_and_native_code_and_children(outside: Outside) -> None:
    code = (
        "import socket, subprocess, contextlib\n"
        "with contextlib.suppress(OSError): socket.getaddrinfo('a.example', 80)\n"
        "with contextlib.suppress(OSError): socket.gethostbyname('b.example')\n"
        "with contextlib.suppress(OSError): socket.create_connection(('192.0.2.1', 80), 1)\n"
        "udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "with contextlib.suppress(OSError): udp.sendto(b'query', ('192.0.2.53', 53))\n"
        "subprocess.run(['getent', 'ahosts', 'c.example'])\n"
        "socket.getaddrinfo('localhost', 80); socket.getaddrinfo('127.0.0.1', 80)\n"
    )
    status, said = outside.call("-c", code, program=sys.executable)
    assert status == 0, said
    seen = [line.split(maxsplit=2)[2] for line in outside.refused]
    assert [what.split()[-1] for what in seen] == [
        "a.example",
        "b.example",
        "192.0.2.1:80",
        "192.0.2.53:53",
        "c.example",
    ]


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["methods", "ties"],
        ["merge", "recipe.yaml", "merged"],
        ["gc", "--no-registry"],
        *(
            pytest.param(command, marks=pytest.mark.slow)
            for command in (
                ["status"],
                ["env"],
                ["verify", "recipe.yaml"],
                ["plan", "recipe.yaml"],
                ["explain", "recipe.yaml"],
                ["profile", "recipe.yaml", "--plot", "profile.png"],
                ["merge", "recipe.yaml", "merged", "--processes", "2"],
                ["task-vector", "extract", "zoo/base", "zoo/code-expert", "vector"],
                ["evaluate", "zoo/base", "suite"],
            )
        ),
    ],
    ids=" ".join,
)
def test_a_command_calls_nobody(outside: Outside, command: list[str]) -> None:
    status, said = outside.call(*command)
    expected = {"status": 1, "profile": 2}  # nothing is up; this recipe has no base
    assert status == expected.get(command[0], 0), said
    nothing_left(outside, said)


@pytest.mark.slow
@pytest.mark.parametrize("told", ["0", ""], ids=["told to track", "told nothing"])
def test_a_pipeline_and_what_follows_it_call_nobody(outside: Outside, told: str) -> None:
    pipeline = outside.directory / "pipeline.yaml"
    pipeline.write_text(pipeline.read_text() + "register: {model: tiny}\n")
    outside.variables |= {"DO_NOT_TRACK": told, "PREFECT_SERVER_ANALYTICS_ENABLED": "true"}
    for command, expected in (
        (["run", "pipeline.yaml"], 0),
        (["average", "average.yaml"], 0),
        (["lineage", "models:/tiny@champion"], 0),
        (["audit", "--all"], 0),
        (["promote", "tiny", "1", "--why", "tried by hand"], 0),
        (["history", "tiny"], 0),
        (["gc"], 0),
        (["lineage", "models:/nobody@champion"], 2),
    ):
        status, said = outside.call(*command)
        assert status == expected, said
        nothing_left(outside, said)


def test_a_name_that_a_command_names_is_looked_up(outside: Outside) -> None:
    outside.variables["HF_ENDPOINT"] = "http://hub.example"
    recipe = outside.directory / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("zoo/base", "somebody/model"))
    status, said = outside.call("plan", "recipe.yaml")
    assert status == 1, said
    assert {line.split()[-1] for line in outside.refused} == {"hub.example"}


@pytest.mark.slow
def test_prefect_alone_would_have_called(outside: Outside) -> None:
    """What these tests are for is there: it is Prefect that is silenced, not the record."""
    code = "import prefect, time; time.sleep(5)"
    status, said = outside.call("-c", code, program=sys.executable)
    assert status == 0
    assert "usage data" in said
    assert outside.refused


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_calls_nobody(outside: Outside) -> None:
    status, said = outside.call("demo", seconds=850)
    assert status == 0, said
    nothing_left(outside, said)
