"""How the agent attaches to modules: wrapt's post-import hooks, and code instrumented on its way in.

Three doors, each opened once and closed again by `Importer.remove`:

- a finder in front of all others, which finds nothing itself: it asks wrapt for a post-import hook for each name that
  may be a target (wrapt knows exact names only, and its own finder has to stand behind ours);
- the ``get_code`` of ``importlib``'s loaders of source and bytecode files and of zip files, so that a target's code is
  instrumented, and a library's spliced, before anything of it has run;
- a path hook for scripts: ``python app.py`` asks no loader for its code, but before it runs the file it asks
  ``sys.path_hooks`` whether the file is something to import ``__main__`` from, as a zip file would be.
"""

from __future__ import annotations

import _frozen_importlib_external as external
import _imp
import contextlib
import functools
import os
import sys
import types
import zipimport
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec

from flowtrace import late
from flowtrace.constants import FOLDER
from flowtrace.patcher import CALLS_WRAPPED
from flowtrace.selection import Selection
from flowtrace.splices import Splices
from flowtrace.typed import Any, Protocol
from flowtrace.unpatched import _thread


class Attaches(Protocol):
    """What the importer asks of `flowtrace.attachment.Attachment`."""

    selection: Selection

    def instrument(self, names: Sequence[str], path: str, plain: types.CodeType) -> types.CodeType:
        """The code to run for a module, in place of its plain code; does not raise."""

    def complete(self, module: types.ModuleType) -> None:
        """Called with each module that may be a target, once it is imported; does not raise."""


class Importer:
    """Watches imports for targets, and for what is to be spliced."""

    def __init__(self, attachment: Attaches, splices: Splices) -> None:
        self._attachment, self._splices = attachment, splices
        self._watched: set[str] = set()
        self._plain: list[tuple[Any, Any]] = []  # loaders, and their own `get_code`
        self._expected: dict[str, Callable[[], object]] = {}

    def install(self) -> None:
        """Open the three doors."""
        selection = self._attachment.selection
        if selection.wants_standard_library or any(selection.may_match(name, ()) for name in ("wrapt", "orjson")):
            import wrapt  # noqa: F401  # they import some of them: not in the middle of the program's own import

            _wrapt_importer()
            late.load()
        sys.meta_path.insert(0, self)
        for loader in (external.SourceLoader, external.SourcelessFileLoader, zipimport.zipimporter):
            self._plain.append((loader, loader.get_code))
            loader.get_code = _as_importlib(self._get_code(loader.get_code), loader.get_code)  # type: ignore[method-assign]
        sys.path_hooks.insert(0, self._script_importer)

    def expect(self, name: str, then: Callable[[], object]) -> None:
        """Call ``then`` when the import of a module begins, which may have happened already."""
        self._expected[name] = then
        if name in sys.modules:
            then()

    def remove(self) -> None:
        """Close them; modules that are being imported still finish."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for loader, get_code in self._plain:
            loader.get_code = get_code
        self._plain.clear()
        if self._script_importer in sys.path_hooks:
            sys.path_hooks.remove(self._script_importer)

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        """Find nothing, but have the module completed after its import."""
        try:
            if name in self._expected:
                self._expected[name]()
            is_target = not is_main_program(name) and self._attachment.selection.may_match(name, path)
            if is_target or name == "bdb":
                self._watch(name)
            if not self._is_in_front():
                self._go_to_front()
                return next((spec for each in _wrapts() if (spec := each.find_spec(name, path, target))), None)
        except Exception:  # noqa: BLE001  # an import of the program's must not fail because of us
            return None
        return None

    def _watch(self, name: str) -> None:
        if name in self._watched:  # wrapt's finder searches again, and so asks us a second time
            return
        self._watched.add(name)
        _wrapt_importer().register_post_import_hook(self._imported, name)

    def _is_in_front(self) -> bool:
        """Whether we are asked first, wrapt next: others put their finders in front too, as pytest does."""
        return all(one is other for one, other in zip((self, *_wrapts()), sys.meta_path, strict=False))

    def _go_to_front(self) -> None:
        first = [self, *_wrapts()]
        sys.meta_path[:] = [*first, *(each for each in sys.meta_path if all(each is not one for one in first))]

    @property
    def is_importing(self) -> bool:
        """Whether a module that may be a target is being imported, or failed to be."""
        return bool(self._watched)

    def _imported(self, module: types.ModuleType) -> None:
        self._watched.discard(module.__name__)  # wrapt has dropped the hook; the module may be imported anew
        if module.__name__ == "bdb":
            _pass_by_ours(module)
        if self in sys.meta_path:  # wrapt keeps the hooks of modules whose import has failed
            self._attachment.complete(module)

    def _get_code(self, plain: Any) -> Callable[[Any, str], types.CodeType | None]:
        instrumented = self._instrumented

        def get_code(self: Any, fullname: str) -> types.CodeType | None:
            code: types.CodeType | None = plain(self, fullname)
            return instrumented(self, fullname, code)

        return get_code

    def _instrumented(self, loader: Any, name: str, code: types.CodeType | None) -> types.CodeType | None:
        if type(code) is not types.CodeType:
            return code
        result = spliced = self._splices.code(name, code)
        with contextlib.suppress(Exception):
            path = loader.get_filename(name)
            if self._attachment.selection.module(name, path) is not None:
                result = self._attachment.instrument([name], path, spliced)
        return result if spliced is code or self._splices.is_on else code

    def _script_importer(self, path: str) -> _ScriptImporter:
        """The path hook: an importer of ``__main__`` for a script that is a target.

        Raises:
            ImportError: for anything else, as path hooks do.
        """
        try:
            names = ["__main__", os.path.basename(path).removesuffix(".py")]
            if path.endswith(".py") and os.path.isfile(path) and self._attachment.selection.module(names, path):
                with open(path, "rb") as file:  # what cannot be compiled is Python's to run
                    plain = compile(file.read(), path, "exec", dont_inherit=True)
                return _ScriptImporter(self._attachment, path, names, plain)
        except Exception as error:
            raise ImportError(str(error)) from error
        raise ImportError(f"{path!r} is not a script to trace")


class _ScriptImporter:
    """Gives ``runpy`` the instrumented code of a script as the module ``__main__``."""

    def __init__(self, attachment: Attaches, path: str, names: Sequence[str], plain: types.CodeType) -> None:
        self._attachment, self._path, self._names, self._plain = attachment, path, names, plain

    def find_spec(self, name: str, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, origin=self._path) if name == "__main__" else None  # type: ignore[arg-type]

    def get_code(self, name: str) -> types.CodeType:
        """One call that makes ``__main__`` what it is for a plain script, and runs the script's instrumented code."""
        script = Script(self._attachment.instrument(self._names, self._path, self._plain), self._path)
        return _call_of(script, "run")


class Script:
    """A script's code, to be run in the namespace that ``runpy`` has prepared as for a zip file."""

    def __init__(self, code: types.CodeType, path: str) -> None:
        self._code, self._path = code, path

    def run(self) -> None:
        """Run it as ``python script.py`` would: same globals, same ``sys.path``, same traceback, same exit status."""
        frame: types.FrameType = sys._getframe(1)
        namespace = frame.f_globals
        is_main = _called_by(frame) == "_run_module_as_main"
        loader = SourceFileLoader("__main__", self._path) if is_main else None
        namespace.update(__spec__=None, __package__=None if is_main else "", __cached__=None, __loader__=loader)
        if is_main:
            self._restore_path()
        try:
            exec(self._code, namespace)
        except SystemExit:
            raise
        except BaseException:
            if is_main:
                sys.excepthook = _without_our_frames(sys.excepthook)
            raise

    def _restore_path(self) -> None:
        sys.path_importer_cache.pop(self._path, None)
        if sys.path and sys.path[0] == self._path:
            sys.path[:1] = [] if sys.flags.safe_path else [os.path.dirname(os.path.realpath(self._path))]


def _called_by(frame: types.FrameType) -> str:
    """Of runpy's functions, the one that runs: ``exec`` is called by `_run_code`, and that by this one."""
    outer = frame.f_back and frame.f_back.f_back
    return outer.f_code.co_name if outer else ""


def _without_our_frames(hook: Callable[..., Any]) -> Callable[..., Any]:
    def excepthook(kind: type[BaseException], error: BaseException, traceback: types.TracebackType | None) -> None:
        while traceback is not None and traceback.tb_frame.f_code.co_filename in ("<frozen runpy>", __file__):
            traceback = traceback.tb_next
        hook(kind, error.with_traceback(traceback), traceback)
        if isinstance(error, KeyboardInterrupt):
            # so Python knows that it is to die of SIGINT: it looks for what leaves code that was run from text
            with contextlib.suppress(KeyboardInterrupt):
                exec("raise error", {"error": error})

    return excepthook


def _wrapts() -> list[Any]:
    """wrapt's finder, once it is there."""
    return [each for each in sys.meta_path if type(each).__module__ == "wrapt.importer"]


@functools.cache
def _wrapt_importer() -> Any:
    """wrapt's post-import hooks, imported late, and alone: the rest of wrapt takes 40 ms, as it imports asyncio.

    Its loader stands between importlib's frames; under importlib's name it is cut out of tracebacks as these are.
    """
    with _import_lock_released():
        _defer("wrapt")
        import wrapt.importer

    for name in ("_self_exec_module", "_self_load_module"):
        function: Any = getattr(wrapt.importer._ImportHookChainedLoader, name, None)
        if type(function) is types.FunctionType:
            function.__code__ = function.__code__.replace(co_filename=_IMPORTLIB)
    return wrapt.importer


class _Deferred(types.ModuleType):
    """A package whose own code runs as soon as something of it is asked for that is not there yet."""

    def __getattr__(self, name: str) -> Any:
        loader: Any = self.__spec__ and self.__spec__.loader
        with _deferring:
            if name.startswith("__") and name not in ("__all__", "__version__"):
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
            if type(self) is _Deferred and self.__name__ not in _being_run:
                _being_run.add(self.__name__)
                try:
                    loader.exec_module(self)
                    self.__class__ = types.ModuleType  # type: ignore[assignment]
                finally:
                    _being_run.discard(self.__name__)
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None


_deferring = _thread.RLock()
_being_run: set[str] = set()


def _defer(name: str) -> None:
    """Have a package's submodules be imported without the package's own code being run."""
    spec = None if name in sys.modules else PathFinder.find_spec(name)
    if spec is not None and type(spec.loader) is SourceFileLoader:
        package = module_from_spec(spec)
        package.__class__ = _Deferred
        sys.modules[name] = package


@contextlib.contextmanager
def _import_lock_released() -> Iterator[None]:
    """Give back the lock that importlib asks finders under, meanwhile.

    A fork takes it too, after its hooks: that of `logging` holds a lock that what is imported here waits for.
    """
    held = 0
    with contextlib.suppress(RuntimeError):  # when it is no longer held by this thread
        while True:
            _imp.release_lock()
            held += 1
    try:
        yield
    finally:
        for _ in range(held):
            _imp.acquire_lock()


def _pass_by_ours(bdb: Any) -> None:
    """Debuggers made of `bdb` step over the calls that traced code makes of us."""
    plain = bdb.Bdb.stop_here

    @functools.wraps(plain)
    def stop_here(self: Any, frame: types.FrameType) -> bool:
        return not _is_called_by_us(frame) and bool(plain(self, frame))

    bdb.Bdb.stop_here = stop_here


def _is_called_by_us(frame: types.FrameType) -> bool:
    """Whether a frame is one of ours, or was called by one that is not there to call the program."""
    ours: types.FrameType | None = frame
    while ours is not None and not ours.f_code.co_filename.startswith(FOLDER):
        ours = ours.f_back
    return ours is not None and (ours is frame or ours.f_code.co_name not in (Script.run.__name__, CALLS_WRAPPED))


def _call_of(value: object, name: str) -> types.CodeType:
    """Code of a module that calls a method, and leaves no name behind."""
    code = compile(f"(0).{name}()", __file__, "exec", dont_inherit=True)
    return code.replace(co_consts=tuple(value if each == 0 else each for each in code.co_consts))


def _as_importlib(function: Callable[..., Any], plain: Any) -> Callable[..., Any]:
    """``function`` with the looks of ``plain`` and a file name that Python cuts out of the tracebacks of imports."""
    code, qualname = function.__code__, plain.__qualname__
    function.__code__ = code.replace(co_filename=_IMPORTLIB, co_qualname=qualname)
    function.__qualname__, function.__module__, function.__doc__ = qualname, plain.__module__, plain.__doc__
    return function


_IMPORTLIB = external.SourceLoader.get_code.__code__.co_filename


def is_main_program(name: str) -> bool:
    """Whether ``name`` is searched for ``python -m``: that module is run, never imported, and so has no import hook."""
    if not sys.argv or sys.argv[0] != "-m":
        return False
    return any(name in (wanted, wanted + ".__main__") for wanted in sys.orig_argv)
