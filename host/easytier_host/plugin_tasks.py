"""A task group for each plugin: its tasks end with the node, and what one of them raises ends those of this plugin alone.

In a group that all share, the exception of one plugin's task would end those of all others, and then the node.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import anyio
from anyio.abc import TaskGroup, TaskStatus


class PluginTasks:
    """The group of one plugin, which is made anew after a task of it has failed."""

    def __init__(self, plugin: str) -> None:
        self._plugin = plugin
        self._group: TaskGroup | None = None

    @property
    def group(self) -> TaskGroup:
        """The group of this moment; raises RuntimeError before `run` has begun and after it has ended."""
        if self._group is None:
            raise RuntimeError(f"the node does not run the tasks of plugin {self._plugin}")
        return self._group

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Hold the group until cancelled.  Failures are logged; a plugin that cancels its group gets another one, too."""
        logger = logging.getLogger(f"easytier.plugin.{self._plugin}")
        try:
            while True:
                try:
                    async with anyio.create_task_group() as self._group:
                        task_status.started()
                        task_status = anyio.TASK_STATUS_IGNORED
                        await anyio.sleep_forever()
                except* Exception:
                    logger.exception("plugin %s: a task of its own failed, and with it all others of it", self._plugin)
        finally:
            self._group = None


async def open_groups(plugins: Iterable[str], parent: TaskGroup) -> dict[str, PluginTasks]:
    """A group inside of `parent` for each of these."""
    groups = {plugin: PluginTasks(plugin) for plugin in plugins}
    for plugin, tasks in groups.items():
        await parent.start(tasks.run, name=f"plugin {plugin}")
    return groups
