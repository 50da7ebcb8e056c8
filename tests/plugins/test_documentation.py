"""docs/plugins.md says everything that the code has, and what it shows works."""

import inspect
import re
from dataclasses import fields
from importlib.metadata import distribution, distributions
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from easytier_hooks import (
    Candidate,
    Capability,
    FlowEvent,
    FlowKey,
    HostServices,
    PeerCapabilities,
    PeerInfo,
    PluginManager,
    PluginState,
    Selection,
    TcpFlow,
    guard,
    loading,
    manager,
    specs,
)
from easytier_hooks.loading import HOOK_NAMES, listing
from easytier_host.config.model import Flags, default_plugins
from tests.plugins.conftest import PROJECT

PAGE = (PROJECT / "docs" / "plugins.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PYTHON_BLOCKS = [text for language, text in BLOCKS if language == "python"]
PROMISES = ("Called:", "Not called:", "Thread:", "Answer:", "If it raises or is slow:")


def signature_of(hook: str) -> inspect.Signature:
    return inspect.signature(getattr(specs, hook))


def written(annotation: object) -> str:
    """An annotation as it stands in the source."""
    text = inspect.formatannotation(annotation)
    if annotation == FlowEvent:
        return "FlowEvent"
    return re.sub(r"[a-z_]+\.(?=[A-Za-z])", "", text)


def test_the_page_has_a_section_for_each_hook_and_no_other() -> None:
    assert tuple(SECTIONS) == HOOK_NAMES


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_a_section_has_the_exact_signature_and_each_argument(hook: str) -> None:
    signature = signature_of(hook)
    arguments = [f"{name}: {written(parameter.annotation)}" for name, parameter in signature.parameters.items()]
    assert f"```\n{hook}({', '.join(arguments)}) -> {written(signature.return_annotation)}\n```\n" in SECTIONS[hook]
    assert re.findall(r"^- `(\w+: .*?)`: ", SECTIONS[hook], re.MULTILINE) == arguments


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_a_section_says_when_where_and_what_if(hook: str) -> None:
    assert re.findall(r"^\*\*(.*?)\*\* \S", SECTIONS[hook], re.MULTILINE) == list(PROMISES)


@pytest.mark.parametrize("number", range(len(PYTHON_BLOCKS)))
def test_each_example_of_the_page_is_a_plugin_that_fits(number: int) -> None:
    module = ModuleType("example")
    exec(compile(PYTHON_BLOCKS[number], f"docs/plugins.md, example {number}", "exec"), vars(module))  # noqa: S102
    host = PluginManager(environ={}, installed=())
    host.register("example", module)
    for name, test in vars(module).items():
        if name.startswith("test_"):
            test()


def test_each_hook_has_an_example_of_itself() -> None:
    for hook, section in SECTIONS.items():
        assert f"@hookimpl\ndef {hook}(" in section


@pytest.mark.parametrize("file", ["pyproject.toml", "easytier_flow_log.py"])
def test_the_walk_through_is_the_example_as_it_stands(file: str) -> None:
    language = "toml" if file.endswith("toml") else "python"
    text = (PROJECT / "examples" / "flow_log" / file).read_text(encoding="utf-8")
    assert f"`{file}`:\n\n```{language}\n{text}```\n" in PAGE


def test_the_listing_of_the_page_is_what_is_printed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    installed = [entry for dist in distributions(path=[str(site)]) for entry in dist.entry_points if entry.name == "flow_log"]
    installed += distribution("easytier-kcp-plugin").entry_points.select(group=loading.ENTRY_POINT_GROUP)
    host = PluginManager({"flow_log": True}, defaults=default_plugins(Flags()), environ={}, installed=installed)
    host.load()
    assert f"```\n{listing(host.describe())}\n```\n" in PAGE


@pytest.mark.parametrize("kind", [TcpFlow, FlowKey, PeerInfo, PeerCapabilities, Candidate, Selection, *get_args(FlowEvent)])
def test_each_value_is_listed_with_all_its_fields(kind: type) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{kind.__name__}` |"))
    assert [field.name for field in fields(kind) if f"`{field.name}`" not in row] == []


def test_capabilities_states_and_services_are_listed() -> None:
    members = [name for name in vars(HostServices) if not name.startswith("_")]
    names = [*members, *(capability.name for capability in Capability), *(state.value for state in PluginState)]
    assert [name for name in names if f"`{name}`" not in PAGE] == []


def test_the_limits_and_switches_are_those_of_the_code() -> None:
    promised = [
        f"{manager.QUESTION_DEADLINE * 1000:.0f} ms for a question",
        f"After {manager.MISSES_BEFORE_REST} misses in a row it is not asked for {manager.REST:.0f} s",
        f"a queue of {manager.QUEUE_CALLS} calls",
        f"all plugins together have {manager.STOP_TIMEOUT:.0f} s to finish",
        f"of up to {manager.MAX_PEERS}",
        f"the transports, {manager.MAX_REGISTERED} at most",
        f"at most one line in {guard.LOG_INTERVAL:.0f} s",
        f"`{loading.DISABLE_VARIABLE}=a,b`",
        f"`{manager.TRACE_VARIABLE}=1`",
        f'[project.entry-points."{loading.ENTRY_POINT_GROUP}"]',
    ]
    flowing = " ".join(PAGE.split())
    assert [text for text in promised if text not in flowing] == []
