"""How modules become traced as they are imported, and that imports are otherwise as they were."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import py_compile
import subprocess
import sys
import traceback
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.program import Program, config, program

ALL = {"modules": ["shop", "shop.*"]}
PROJECT = {"modules": ["@project"]}
SIMPLE = "def f(x):\n    return x + 1\n"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Program]:
    """A program whose modules ``shop`` and below are targets."""
    with program(tmp_path, ALL) as running:
        yield running


def test_a_module_is_traced_from_its_first_instruction(shop: Program) -> None:
    """Calls made while it is imported are recorded, and what decorators keep of its functions is traced."""
    module = shop.load(
        "shop", "KEPT = []\ndef keep(f):\n    KEPT.append(f)\n    return f\n@keep\ndef f(x): return x\nf(1)\n"
    )

    assert shop.calls() == ["shop:keep", "shop:f"]
    assert module.KEPT[0](2) == 2
    assert shop.calls() == ["shop:f"]
    assert shop.how("shop") == {"keep": "instrumented", "f": "instrumented"}


def test_modules_match_by_pattern_whenever_they_are_imported(shop: Program) -> None:
    """A pattern takes modules that are imported late, from inside functions, and of packages."""
    shop.write("shop/__init__.py", "def late():\n    import shop.cart.items as items\n    return items.f(1)\n")
    shop.write("shop/cart/__init__.py", "")
    shop.write("shop/cart/items.py", SIMPLE)

    assert shop.load("shop").late() == 2

    assert shop.calls() == ["shop:late", "shop.cart.items:f"]
    assert "shop.cart.items" in shop.attachment.modules


def test_other_modules_have_the_code_python_gave_them(shop: Program) -> None:
    """What no rule names is imported as ever: same code, no event."""
    module = shop.load("other", SIMPLE)

    assert module.__spec__.loader.get_code("other") == compile(SIMPLE, module.__file__, "exec", dont_inherit=True)
    assert module.f(1) == 2
    assert (shop.calls(), shop.said) == ([], [])


def test_project_takes_its_own_modules_only(tmp_path: Path) -> None:
    """``@project`` traces files below the folder, namespace packages too, but no environment's."""
    with program(tmp_path, PROJECT) as running:
        running.write("venv/pyvenv.cfg", "")
        running.write("venv/lib/dep.py", SIMPLE)
        sys.path.append(str(tmp_path / "venv/lib"))

        assert running.load("space.inner", SIMPLE).f(1) == running.load("dep").f(1) == 2

        assert running.calls() == ["space.inner:f"]


def test_what_a_module_imports_from_elsewhere_is_no_target(shop: Program) -> None:
    """Functions belong to the module that defines them."""
    shop.write("other.py", SIMPLE)

    module = shop.load("shop", "from other import f\nfrom os.path import join\ndef g(): return f(1), join('a', 'b')\n")
    module.g()

    assert shop.calls() == ["shop:g"]


def test_a_target_that_fails_to_import_fails_as_untraced(shop: Program) -> None:
    """The exception passes, the module is gone, and a second try runs it again."""
    shop.write("shop.py", "def f(): raise KeyError('x')\nf()\n")

    for _ in range(2):
        with pytest.raises(KeyError, match="x"):
            shop.load("shop")

    assert shop.calls() == ["shop:f", "shop:f"]
    assert "shop" not in sys.modules


@pytest.mark.parametrize(
    "source", ["def f(:\n", "x = 'é\n", "def f():\n  return\n x\n", "import nothing_like_it\n", "1/0\n"]
)
def test_errors_of_a_module_read_as_untraced(tmp_path: Path, source: str) -> None:
    """The traceback of a module that cannot be imported is the same text.

    ``import_module``, unlike ``import``, shows importlib's own frames, and with them that of wrapt's loader.
    """
    texts = []
    for number, rule in enumerate([{"modules": ["nothing"]}, ALL]):
        with program(tmp_path, rule) as running:
            try:
                running.load("shop", source)
            except Exception:
                texts.append(traceback.format_exc())
        assert len(texts) == number + 1

    plain, traced = ([line for line in text.splitlines() if "_self_exec_module" not in line] for text in texts)
    assert traced == plain


def test_code_that_cannot_be_instrumented_runs_as_it_is(shop: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in the agent, the module is imported; it is said once and counted."""
    shop.recorder.state.strict = False

    def broken(*_: object) -> None:
        raise ValueError("broken on purpose")

    monkeypatch.setattr("flowtrace.attachment.instrument", broken)

    module = shop.load("shop", SIMPLE)

    assert module.f(1) == 2
    assert module.f.__code__ == compile(SIMPLE, module.__file__, "exec", dont_inherit=True).co_consts[0]
    assert "broken on purpose" in "".join(shop.warned)
    assert shop.recorder.state.failures == 1


def test_a_loader_may_transform_the_source(shop: Program) -> None:
    """What is traced is the code that the loader makes of the source, whatever it does to it."""

    class Transforming(importlib.machinery.SourceFileLoader):
        def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
            return compile(bytes(data).replace(b"+ 1", b"+ 100"), path, "exec", dont_inherit=True)

    path = str(shop.write("shop.py", SIMPLE))
    spec = importlib.util.spec_from_file_location("shop", path, loader=Transforming("shop", path))
    assert spec is not None

    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # type: ignore[union-attr]

    assert module.f(1) == 101
    assert shop.calls() == ["shop:f"]


def test_a_loader_that_runs_code_itself(shop: Program) -> None:
    """Where the importer sees no code, as with pytest's loader, functions are instrumented after the import."""

    class Running(importlib.abc.Loader):
        def exec_module(self, module: types.ModuleType) -> None:
            exec(compile(SIMPLE + "held = [lambda: None, f]\n", "shop.py", "exec"), vars(module))

    class Finder:
        def find_spec(self, name: str, path: object, target: object = None) -> Any:
            return importlib.util.spec_from_loader(name, Running()) if name == "shop" else None

    finder: Any = Finder()
    sys.meta_path.insert(0, finder)
    try:
        with pytest.raises(ImportError):
            importlib.import_module("nothing_like_it")  # the next import puts ours in front of it
        module = importlib.import_module("shop")
    finally:
        sys.meta_path.remove(finder)
        del sys.modules["shop"]

    assert (module.f(1), module.held[1](1)) == (2, 2)
    assert shop.calls() == ["shop:f"] * 2
    assert shop.how("shop") == {"f": "instrumented"}


def test_modules_without_source_files_are_instrumented(shop: Program) -> None:
    """A module that is only compiled, and one in a zip file, are as good as any."""
    path = shop.write("shop/compiled.py", SIMPLE)
    py_compile.compile(str(path), cfile=str(path) + "c", doraise=True)
    path.unlink()
    with zipfile.ZipFile(shop.folder / "archive.zip", "w") as archive:
        archive.writestr("shop_zipped.py", SIMPLE)
    sys.path.insert(0, str(shop.folder / "archive.zip"))
    shop.attachment.reload(config({"modules": ["shop.*", "shop_zipped"]}), project=str(shop.folder))

    assert shop.load("shop.compiled").f(1) == shop.load("shop_zipped").f(1) == 2

    assert shop.calls() == ["shop.compiled:f", "shop_zipped:f"]
    assert shop.how("shop.compiled") == shop.how("shop_zipped") == {"f": "instrumented"}


def test_a_module_that_replaces_itself_is_said_at_the_end(shop: Program) -> None:
    """Where no import ever ends with the module that began, its functions are told of all the same."""
    shop.load(
        "shop", SIMPLE + "import sys, types\nsys.modules['shop'] = types.SimpleNamespace(f=f, __name__='other')\n"
    )
    del sys.modules["shop"]

    shop.attachment.say_rest()

    assert shop.how("shop") == {"f": "instrumented"}


def test_a_module_may_be_reloaded(shop: Program) -> None:
    """After `importlib.reload` the new source is what runs and is traced."""
    module = shop.load("shop", SIMPLE)
    path = shop.write("shop.py", "def f(x):\n    return x + 1000\n")
    os.utime(path, (1, 1))

    importlib.reload(module)

    assert module.f(1) == 1001
    assert shop.calls() == ["shop:f"]


def test_the_cached_bytecode_is_pythons_own(tmp_path: Path) -> None:
    """Nothing instrumented is ever written to ``__pycache__``, and what is there is used."""
    for rule, is_plain in ((ALL, False), ({"modules": ["nothing"]}, True), (ALL, False)):
        with program(tmp_path, rule) as running:
            module = running.load("shop", SIMPLE)
            code = compile(SIMPLE, module.__file__, "exec", dont_inherit=True).co_consts[0]

            assert (module.f.__code__ == code) is is_plain


def test_lazy_and_repeated_imports_attach_once(shop: Program) -> None:
    """However often a module is imported, it is attached and announced once."""
    for _ in range(3):
        shop.load("shop", SIMPLE)
        importlib.import_module("shop")

    assert [event["event"] for event in shop.said] == ["ATTACH"]


def test_removing_leaves_importlib_as_it_was(tmp_path: Path) -> None:
    """After the last door is closed, nothing of the agent is left in importlib or sys."""
    before = importlib.machinery.SourceFileLoader.get_code, list(sys.path_hooks)

    with program(tmp_path, ALL) as running:
        assert importlib.machinery.SourceFileLoader.get_code is not before[0]

    assert (importlib.machinery.SourceFileLoader.get_code, sys.path_hooks) == before
    assert running.importer not in sys.meta_path


def test_the_patched_method_looks_like_the_original(shop: Program) -> None:
    """Name, module, docstring and file are those of importlib: it cuts its frames out of tracebacks by them."""
    patched: Any = importlib.machinery.SourceFileLoader.get_code
    shop.importer.remove()
    original: Any = importlib.machinery.SourceFileLoader.get_code

    for look in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(patched, look) == getattr(original, look)
    assert patched.__code__.co_filename == original.__code__.co_filename
    shop.importer.install()


def test_finding_raises_nothing(shop: Program) -> None:
    """Odd names and paths are somebody else's to complain about."""
    for name, path in (("shop", [1, None]), ("", ["\0"]), ("shop.\ud800", None), ("shop", 5)):
        assert shop.importer.find_spec(name, path) is None  # type: ignore[arg-type, func-returns-value]


DEFERRED = """
import sys, threading
from flowtrace.importer import _wrapt_importer

ours = _wrapt_importer()
assert "asyncio" not in sys.modules, "all of wrapt was imported"
assert not hasattr(sys.modules["wrapt"], "__warningregistry__") and "asyncio" not in sys.modules
import wrapt

found = []
threads = [threading.Thread(target=lambda: found.append(wrapt.decorator)) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(found) == 8 and len(set(found)) == 1
from wrapt import FunctionWrapper, __version__
assert wrapt.importer is ours and type(wrapt) is type(sys) and "nothing" not in dir(wrapt)
try:
    wrapt.nothing
except AttributeError as error:
    print(error)
"""


def test_wrapt_is_imported_as_far_as_it_is_needed() -> None:
    """Its importer alone, as the rest imports asyncio; the program that uses wrapt finds all of it."""
    done = subprocess.run([sys.executable, "-c", DEFERRED], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("module 'wrapt' has no attribute 'nothing'\n", "")
