"""PEFT knows the method as soon as both packages are imported, whichever comes first; until then neither is loaded.

The method stands on PEFT and PyTorch, which take seconds to load, and `loraweave --help` needs neither. So importing
this package only watches for `peft`: where it is there already the method is registered at once, else right after it.
"""

import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_METHOD = "loraweave.tuner"


class _Watcher(MetaPathFinder):
    """Finds nothing itself; adds a step after `peft`, and after the outermost of this package's modules, which may be
    what imported `peft`: while one of them is half loaded the method cannot be."""

    def __init__(self, register: Callable[[], Any] = lambda: __import__(_METHOD)) -> None:
        self.thread = threading.local()
        self.register = register

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "peft" and not name.startswith("loraweave."):
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self and hasattr(finder, "find_spec"))
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            self._extend(spec.loader, name)
        return spec

    def _extend(self, loader: Any, name: str) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.thread.depth = getattr(self.thread, "depth", 0) + 1
            try:
                execute(module)
            finally:
                self.thread.depth -= 1
            if self.thread.depth == 0 and (name == "peft" or _is_loaded("peft")):
                self._register()

        loader.exec_module = exec_module

    def _register(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        self.register()


def _is_loaded(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def _when_finished(module: ModuleType, then: Callable[[], None]) -> None:
    """Call `then` as soon as a module that is being loaded is there: Python marks it so in the module's spec."""

    class Watched(ModuleSpec):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_initializing" and not value:
                object.__setattr__(self, "__class__", ModuleSpec)
                then()

    spec: Any = module.__spec__
    spec.__class__ = Watched


def register_with_peft() -> None:
    """Register the method now if PEFT is loaded, else as soon as it is."""
    if _is_loaded("peft"):
        __import__(_METHOD)
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def register_without_import() -> None:
    """As `register_with_peft`, for a program that never says `import loraweave`: what goes wrong is a warning there,
    and PEFT is loaded all the same."""

    def register() -> None:
        try:
            __import__(_METHOD)
        except Exception as error:
            warnings.warn(f"loraweave: its method is not registered with PEFT: {error!r}", stacklevel=2)

    if _is_loaded("peft"):
        register()
    elif "peft" in sys.modules:
        _when_finished(sys.modules["peft"], register)
    else:
        sys.meta_path[:] = [_Watcher(register), *(each for each in sys.meta_path if not isinstance(each, _Watcher))]
