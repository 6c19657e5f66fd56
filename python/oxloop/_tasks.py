"""Creating tasks (asyncio: "Creating Futures and Tasks").

`create_future` is native. What `create_task` takes, and what it hands to a task factory, changed
from one Python to the next; here it is the running one's.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import tasks
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from ._base import LoopBase

_T = TypeVar("_T")

_tasks: Any = tasks  # untyped: it is older Pythons' private names as well

# The keywords create_task takes; None where it passes on whatever it is given.
_KEYWORDS: frozenset[str] | None
if sys.version_info >= (3, 13, 3):
    _KEYWORDS = None
elif sys.version_info >= (3, 11):
    _KEYWORDS = frozenset({"name", "context"})
else:
    _KEYWORDS = frozenset({"name"})

# A factory sees every keyword as given from 3.14 on (3.13.3 tried, 3.13.4 took it back). Before, it
# sees no name, which is set afterwards, and only a context that is not None.
_FACTORY_SEES_ALL = sys.version_info >= (3, 14) or sys.version_info[:3] == (3, 13, 3)


class TaskMixin(LoopBase):
    """`create_task` and the task factory."""

    _task_factory: Any = None

    def create_task(
        self, coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T], **kwargs: Any
    ) -> asyncio.Task[_T]:
        """Schedules a coroutine, or starts it where the factory or `eager_start` says so.

        Keywords are those of the running Python: `name`; `context` from 3.11; any that the Task
        class or the factory takes from 3.13.3.
        """
        self._check_closed()
        if kwargs and _KEYWORDS is not None:
            for keyword in kwargs:
                if keyword not in _KEYWORDS:
                    raise TypeError(f"create_task() got an unexpected keyword argument {keyword!r}")
        task: Any
        if self._task_factory is None:
            task = _tasks.Task(coro, loop=self, **kwargs)
            if task._source_traceback:
                del task._source_traceback[-1]
        elif _FACTORY_SEES_ALL:
            task = self._task_factory(self, coro, **kwargs)
        else:
            name = kwargs.pop("name", None)
            if kwargs.get("context", ...) is None:
                del kwargs["context"]
            task = self._task_factory(self, coro, **kwargs)
            _set_name(task, name)
        try:
            return task  # type: ignore[no-any-return]
        finally:
            # An eager task may have failed already: its traceback must not lead back to it.
            del task

    def set_task_factory(self, factory: Callable[..., asyncio.Future[Any]] | None) -> None:
        """Makes `factory(loop, coro, **kwargs)` create the tasks; None restores `asyncio.Task`."""
        if factory is not None and not callable(factory):
            raise TypeError("task factory must be a callable or None")
        self._task_factory = factory

    def get_task_factory(self) -> Any:
        """The task factory, None for the default one."""
        return self._task_factory


if sys.version_info >= (3, 13):

    def _set_name(task: Any, name: str | None) -> None:
        task.set_name(name)

else:
    # Copes with tasks that have no set_name, as the running version does (a warning from 3.11).
    _set_name = _tasks._set_task_name
