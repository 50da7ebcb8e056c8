"""Which plugins are loaded, and what a user is told of those that are not."""

import logging
from collections.abc import Collection, Mapping

import pytest

from easytier_hooks import PluginConfigError, PluginInfo, PluginLoadError, PluginManager, PluginState
from easytier_hooks.loading import HOOK_NAMES, listing
from tests.unit.hooks.conftest import SitePackages

WATCHER = """
    @hookimpl
    def on_tcp_flow(flow, event): pass
"""


def manager_for(
    site: SitePackages,
    table: Mapping[str, object],
    *,
    defaults: Collection[str] = (),
    environ: Mapping[str, str] | None = None,
) -> PluginManager:
    return PluginManager(table, defaults=defaults, environ=environ or {}, installed=site.entry_points())


def states(manager: PluginManager) -> dict[str, PluginState]:
    return {row.name: row.state for row in manager.describe()}


def test_only_what_the_table_or_the_defaults_name_is_loaded(site: SitePackages) -> None:
    for name in ("wanted", "unwanted", "refused", "default", "refused_default"):
        site.install(name, WATCHER)
    manager = manager_for(
        site, {"wanted": True, "refused": False, "refused_default": False}, defaults=["default", "refused_default", "elsewhere"]
    )
    manager.load()
    assert states(manager) == {
        "default": PluginState.LOADED,
        "refused": PluginState.DISABLED,
        "refused_default": PluginState.DISABLED,
        "unwanted": PluginState.INSTALLED,
        "wanted": PluginState.LOADED,
    }


def test_a_plugin_that_is_not_wanted_is_not_imported(site: SitePackages) -> None:
    site.install("bomb", "raise RuntimeError('imported')")
    manager = manager_for(site, {})
    manager.load()
    assert manager.describe() == [PluginInfo("bomb", PluginState.INSTALLED, "dist-bomb", "1.0")]


def test_the_environment_switches_plugins_off(site: SitePackages, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("one", "two", "three"):
        site.install(name, WATCHER)
    manager = manager_for(
        site, {"one": True, "two": {"option": 1}, "three": True}, environ={"ET_DISABLE_PLUGINS": "one, two,,thre"}
    )
    manager.load()
    assert caplog.messages == ["ET_DISABLE_PLUGINS: plugin 'thre' is not installed (did you mean 'three'?)"]
    assert states(manager) == {"one": PluginState.DISABLED, "two": PluginState.DISABLED, "three": PluginState.LOADED}


@pytest.mark.parametrize("setting", [True, False, {}])
def test_an_unknown_name_is_an_error_with_the_nearest_and_all_names(site: SitePackages, setting: object) -> None:
    site.install("flow_log", WATCHER)
    site.install("port_policy", WATCHER)
    with pytest.raises(PluginConfigError) as caught:
        manager_for(site, {"flow_logg": setting}).load()
    assert str(caught.value) == (
        "plugin 'flow_logg' is not installed (did you mean 'flow_log'?); installed: flow_log, port_policy"
    )


def test_a_setting_of_the_wrong_type_is_an_error(site: SitePackages) -> None:
    site.install("flow_log", WATCHER)
    with pytest.raises(PluginConfigError, match="'flow_log': expected true, false or a table of options, not 'yes'"):
        manager_for(site, {"flow_log": "yes"}).load()


def test_a_class_or_factory_gets_the_options_and_a_module_is_taken_as_it_is(site: SitePackages) -> None:
    site.install("module", WATCHER)
    site.install(
        "factory",
        """
        made_with = []
        class Plugin:
            @hookimpl
            def on_tcp_flow(self, flow): pass
        def make(options):
            made_with.append(options)
            return Plugin()
        """,
        value="module_factory:make",
    )
    manager = manager_for(site, {"module": True, "factory": {"ports": [22]}})
    manager.load()
    import module_factory  # type: ignore[import-not-found]

    assert module_factory.made_with == [{"ports": [22]}]
    assert set(states(manager).values()) == {PluginState.LOADED}


BROKEN = {
    "import": ("x = {}\nx['oh']", "KeyError: 'oh' at {path}:3"),
    "missing": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module' at {path}:2"),
    "elsewhere": ("import json\njson.loads('')", "JSONDecodeError: Expecting value: line 1 column 1 (char 0) at {path}:3"),
    "syntax": ("def x(:", "(module_syntax.py, line 2)"),
    "exit": ("raise SystemExit(3)", "SystemExit: 3 at {path}:2"),
    "misspelt": (
        "@hookimpl\ndef on_tcp_flwo(flow, event): pass",
        "there is no hook 'on_tcp_flwo' (did you mean 'on_tcp_flow'?)",
    ),
    "unmarked": ("def on_tcp_flow(flow, event): pass", "no function of it is marked with @hookimpl"),
    "argument": (
        "@hookimpl\ndef on_tcp_flow(flow, evnt): pass",
        "on_tcp_flow has no argument 'evnt' (did you mean 'event'?); it has flow, event",
    ),
    "too_many": ("@hookimpl\ndef advertise_capabilities(host): pass", "has no argument 'host'; it has none"),
    "default": (
        "@hookimpl\ndef select_transport(flow, peer=None): pass",
        "select_transport would never be given its argument 'peer', which has a default: leave that out",
    ),
    "by_position": ("@hookimpl\ndef select_transport(flow, /): pass", "cannot be given its argument 'flow'"),
    "by_keyword": ("@hookimpl\ndef select_transport(*, flow): pass", "cannot be given its argument 'flow'"),
    "asynchronous": ("@hookimpl\nasync def on_tcp_flow(flow): pass", "on_tcp_flow is asynchronous"),
    "wrapper": ("@hookimpl(wrapper=True)\ndef select_transport(flow):\n    return (yield)", "select_transport is a wrapper"),
    "old_wrapper": ("@hookimpl(hookwrapper=True)\ndef select_transport(flow):\n    yield", "select_transport is a wrapper"),
}
MADE = {
    "no_argument": ("class Plugin: pass", "module_no_argument:Plugin must take one argument: its options, a mapping"),
    "two_arguments": ("def Plugin(options, more): pass", "must take one argument: its options, a mapping"),
    "of_its_own": ("def Plugin(options):\n    return options['ports']", "KeyError: 'ports' at {path}:3"),
    "of_the_user": ("def Plugin(options):\n    raise ValueError('ports: none')", "plugin 'of_the_user': ports: none"),
    "absent": ("", "AttributeError: module 'module_absent' has no attribute 'Plugin'"),
}


@pytest.mark.parametrize("fault", MADE)
def test_a_plugin_that_cannot_be_made_is_refused(site: SitePackages, fault: str) -> None:
    source, problem = MADE[fault]
    site.install(fault, source, value=f"module_{fault}:Plugin")
    with pytest.raises(PluginLoadError) as caught:
        manager_for(site, {fault: True}).load()
    assert str(caught.value).endswith(problem.format(path=site.path / f"module_{fault}.py"))


def test_a_hook_may_have_arguments_of_its_own(site: SitePackages) -> None:
    site.install("own", "@hookimpl\ndef on_tcp_flow(flow, cache={}, *args, **more): pass")
    manager = manager_for(site, {"own": True})
    manager.load()
    assert states(manager) == {"own": PluginState.LOADED}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_plugin_of_the_table_that_cannot_be_loaded_stops_the_start(site: SitePackages, fault: str) -> None:
    source, problem = BROKEN[fault]
    site.install(fault, source)
    with pytest.raises(PluginLoadError) as caught:
        manager_for(site, {fault: True}).load()
    assert caught.value.plugin == fault
    assert problem.format(path=site.path / f"module_{fault}.py") in str(caught.value)
    assert fault in str(caught.value)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_default_plugin_that_cannot_be_loaded_is_left_out(
    site: SitePackages, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, problem = BROKEN[fault]
    site.install(fault, source)
    site.install("sound", WATCHER)
    manager = manager_for(site, {"sound": True}, defaults=[fault])
    manager.load()
    assert states(manager) == {fault: PluginState.BROKEN, "sound": PluginState.LOADED}
    assert problem.format(path=site.path / f"module_{fault}.py") in caplog.text
    assert fault in caplog.text


def test_a_listing_shows_a_broken_plugin_with_its_error(site: SitePackages) -> None:
    site.install("broken", "raise RuntimeError('no such\\n  device')")
    site.install("flow_log", WATCHER, version="0.3")
    site.install("idle", WATCHER)
    manager = manager_for(site, {"broken": True, "flow_log": True})
    manager.load(strict=False)
    assert listing(manager.describe()).splitlines() == [
        "PLUGIN    VERSION  STATE      HOOKS",
        f"broken    1.0      broken     RuntimeError: no such device at {site.path}/module_broken.py:2",
        "flow_log  0.3      loaded     on_tcp_flow",
        "idle      1.0      installed  -",
    ]


def test_a_listing_without_plugins_says_so() -> None:
    assert "no plugins are installed" in listing([])


def test_a_name_that_two_distributions_offer_is_an_error(site: SitePackages) -> None:
    site.install("twin", WATCHER, distribution="first")
    site.install("twin", WATCHER, distribution="second")
    with pytest.raises(PluginLoadError, match="several distributions offer it: first, second"):
        manager_for(site, {"twin": True}).load()


def test_hooks_are_listed_in_the_order_of_the_specification(site: SitePackages) -> None:
    site.install("all", "".join(f"@hookimpl\ndef {name}(): pass\n" for name in reversed(HOOK_NAMES)))
    manager = manager_for(site, {"all": True})
    manager.load()
    assert (
        manager.describe()[0].hooks
        == HOOK_NAMES
        == (
            "on_tcp_flow",
            "on_peer_capabilities",
            "select_transport",
            "register_transports",
            "register_tcp_stacks",
            "advertise_capabilities",
        )
    )


def test_a_refused_plugin_leaves_no_hook_behind(site: SitePackages, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    site.install("half", "@hookimpl\ndef advertise_capabilities(): return 1\n@hookimpl\ndef select_transport(wrong): pass")
    manager = manager_for(site, {"half": True})
    manager.load(strict=False)
    assert not manager.asks_for_transport
    assert manager.capabilities() == frozenset()
    assert manager.counters() == {}


def test_a_name_cannot_be_registered_twice(site: SitePackages) -> None:
    site.install("one", WATCHER)
    manager = manager_for(site, {"one": True})
    manager.load()
    with pytest.raises(PluginLoadError, match="the name is taken"):
        manager.register("one", object())
