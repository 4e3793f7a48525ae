"""The application knows nothing of whoever looks at it."""

import subprocess
import sys
from pathlib import Path

import sample_app

SOURCES = [path for path in Path(sample_app.__file__).parent.rglob("*") if path.suffix in {".py", ".html"}]


def test_no_source_mentions_the_agent() -> None:
    """No file of the application holds the agent's name, not even in a comment."""
    assert len(SOURCES) >= 8
    assert [path.name for path in SOURCES if "flowtrace" in path.read_text(encoding="utf-8").lower()] == []


def test_import_loads_nothing_of_the_agent() -> None:
    """A process that imports the application has loaded neither the agent nor its plugins."""
    program = "import sys, sample_app; print([name for name in sys.modules if name.startswith('flowtrace')])"

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(sample_app.__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "[]"
