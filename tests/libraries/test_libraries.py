"""Objects of well-known libraries are captured without a query, a load, a copy or a call.

Those that are not installed are skipped; ``tox -e libraries`` has them all.
"""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
import unittest.mock
from typing import Any

import pytest

from flowtrace.redaction import MARKER, Redactor
from flowtrace.values import Encoder, Limits


def shown(value: object, **limits: int) -> Any:
    """What is recorded of a value as an argument and as a result, which are the same."""
    encoder = Encoder(limits=Limits(**limits), redactor=Redactor())
    result = json.loads(encoder.result(value))
    assert json.loads(encoder.arguments({"value": value})) == {"value": result}
    assert encoder.failures == 0
    return result


# Django


@pytest.fixture(scope="module")
def author() -> Any:
    """A Django model with two rows in a database in memory."""
    pytest.importorskip("django")
    import django
    from django.conf import settings

    settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}, USE_TZ=True)
    django.setup()
    from django.db import connection, models

    class Author(models.Model):
        name = models.CharField(max_length=20)
        password = models.CharField(max_length=20)
        editor = models.ForeignKey("self", null=True, on_delete=models.CASCADE)

        class Meta:
            app_label = "library"

    with connection.schema_editor() as editor:
        editor.create_model(Author)
    first = Author.objects.create(name="Alice", password="hunter2")
    Author.objects.create(name="Bob", password="hunter2", editor=first)
    return Author


@pytest.fixture
def queries(author: Any) -> Any:
    """The queries that are run from now on."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        yield captured


def test_a_django_queryset_is_not_run(author: Any, queries: Any) -> None:
    """A query set, sliced or filtered, is shown without a query, and can be run after as if nobody had looked."""
    # fault U7
    lazy = author.objects.filter(name="Bob").select_related("editor")

    assert shown([lazy, author.objects.all()[:1], author.objects, author.objects.values_list("name")]) is not None
    assert len(queries) == 0
    assert [found.name for found in lazy] == ["Bob"]
    assert len(queries) == 1


def test_a_django_model_shows_what_is_loaded(author: Any, queries: Any) -> None:
    """Fields that are deferred and relations that are not loaded stay so; a password is hidden."""
    # fault U7, X1
    bob = author.objects.only("name").get(name="Bob")
    before = len(queries)

    record = shown(bob)

    assert record == {"@type": "author.<locals>.Author", "id": 2, "name": "Bob"}
    assert shown(author.objects.get(name="Bob"))["password"] == MARKER
    assert len(queries) == before + 1  # that of `get`
    assert "editor" not in bob._state.fields_cache


def test_a_lazy_object_of_django_is_not_resolved() -> None:
    """SimpleLazyObject answers for what it stands for to everybody who asks; nobody does."""
    # fault U8
    functional = pytest.importorskip("django.utils.functional")
    resolved: list[int] = []
    lazy = functional.SimpleLazyObject(lambda: resolved.append(1))

    assert shown(lazy) == "<django.utils.functional.SimpleLazyObject>"
    assert shown({"user": lazy, "text": functional.lazystr("x")})["user"].startswith("<django.")
    assert resolved == []


# SQLAlchemy


def test_attributes_of_sqlalchemy_stay_unloaded_and_expired() -> None:
    """Neither a lazy relation nor an attribute that a commit has expired is loaded; what is loaded is shown."""
    # fault U7
    sqlalchemy = pytest.importorskip("sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")
    base = orm.declarative_base()
    column, integer, text = sqlalchemy.Column, sqlalchemy.Integer, sqlalchemy.String

    class Room(base):  # type: ignore[misc, valid-type]
        __tablename__ = "room"
        id = column(integer, primary_key=True)
        name = column(text)
        members = orm.relationship("Member")

    class Member(base):  # type: ignore[misc, valid-type]
        __tablename__ = "member"
        id = column(integer, primary_key=True)
        room = column(integer, sqlalchemy.ForeignKey("room.id"))

    engine = sqlalchemy.create_engine("sqlite://")
    base.metadata.create_all(engine)
    statements: list[str] = []
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    with orm.Session(engine) as session:
        room = Room(id=1, name="general", members=[Member(id=1)])
        session.add(room)
        session.commit()
        statements.clear()

        expired = shown([room, session, session.query(Room), sqlalchemy.select(Room)])[0]
        assert statements == []
        assert sqlalchemy.inspect(room).expired_attributes == {"id", "name", "members"}
        assert room.name == "general"
        loaded = shown(room)

        assert len(statements) == 1
        assert "members" in sqlalchemy.inspect(room).expired_attributes | sqlalchemy.inspect(room).unloaded

    assert "name" not in expired
    assert loaded["name"] == "general"
    engine.dispose()


# numpy and pandas


def test_numpy_arrays_are_neither_copied_nor_viewed() -> None:
    """Of an array, however large, its element type and shape are shown; no view of it is made and no memory taken."""
    # fault U5, U20
    numpy = pytest.importorskip("numpy")
    made: list[object] = []

    class Watched(numpy.ndarray):  # type: ignore[misc, name-defined]
        def __array_finalize__(self, source: object) -> None:
            made.append(source)

    arrays = [numpy.zeros(10_000_000), numpy.array(7), numpy.zeros((2, 3)).view(Watched), numpy.array(["a", "bc"])]
    arrays += [numpy.array([object()]), numpy.zeros(2, dtype=[("x", "f4"), ("y", "i8")]), numpy.ma.array([1], mask=[1])]
    made.clear()
    encoder = Encoder(limits=Limits(), redactor=Redactor())
    encoder.result(arrays)
    tracemalloc.start()

    found = json.loads(encoder.result(arrays))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert found[:2] == ["<numpy.ndarray float64 (10000000,)>", "<numpy.ndarray int64 ()>"]
    assert found[2]["value"] == "<numpy.ndarray float64 (2, 3)>"
    assert found[3] == "<numpy.ndarray <U2 (2,)>"
    assert peak < 50_000
    assert made == []


def test_numbers_of_numpy_are_numbers() -> None:
    """A number is a number, a time its text or its type."""
    numpy = pytest.importorskip("numpy")

    assert shown([numpy.int64(3), numpy.uint8(4), numpy.float32(1.5), numpy.bool_(True), numpy.float64(2.5)]) == [
        3, 4, 1.5, True, 2.5,
    ]  # fmt: skip
    assert shown(numpy.float64("nan")) == "nan"


def test_frames_of_pandas_are_not_copied_or_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame, a series and an index are named; nothing that pandas has for showing or converting them runs."""
    # fault U5, U7
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": range(100_000), "b": 1.5})
    values = [frame, frame["a"], frame.index, frame.groupby("a"), pandas.Timestamp("2024-01-15")]
    for kind in (pandas.DataFrame, pandas.Series, pandas.Index):
        for name in ("__repr__", "__len__", "__iter__", "__getattr__", "__array__", "copy", "to_string", "__eq__"):
            if hasattr(kind, name):
                monkeypatch.setattr(kind, name, lambda *args, **kwargs: pytest.fail("pandas was asked"))
    encoder = Encoder(limits=Limits(), redactor=Redactor())
    encoder.result(values)
    tracemalloc.start()

    found = json.loads(encoder.result(values))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert "DataFrame" in str(found[0])
    assert "Series" in str(found[1])
    assert found[4]["value"] == "2024-01-15T00:00:00"
    assert peak < 50_000


# Data classes of all kinds


def test_pydantic_models_compute_nothing() -> None:
    """A model shows its fields by their aliases; computed fields do not run, private attributes and secrets stay so."""
    # fault U1, X1
    pydantic = pytest.importorskip("pydantic")

    class Account(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        model_config = pydantic.ConfigDict(extra="allow")
        name: str = pydantic.Field(alias="Name")
        pin: pydantic.SecretStr
        key: pydantic.SecretBytes = pydantic.SecretBytes(b"raw")
        balance: int = pydantic.Field(default=3, repr=False)
        _cache: Any = pydantic.PrivateAttr(default=7)

        @pydantic.computed_field  # type: ignore[prop-decorator]
        @property
        def total(self) -> int:
            raise AssertionError("the program's code ran")

    account = Account(Name="bob", pin="1234", extra="more")

    assert shown(account) == {"@type": Account.__qualname__, "Name": "bob", "pin": MARKER, "key": MARKER}
    assert account.model_fields_set == {"name", "pin", "extra"}


def test_attrs_classes_show_what_is_stored() -> None:
    """Of an attrs class, with slots or without, what is stored is shown; a cached property is not computed."""
    attrs = pytest.importorskip("attrs")
    import functools

    @attrs.define
    class Slotted:
        total: int
        _lines: int
        cache: int = attrs.field(default=0, repr=False)

        @functools.cached_property
        def late(self) -> int:
            raise AssertionError("the program's code ran")

    @attrs.define(slots=False)
    class Open:
        total: int
        api_key: str = "k-1"

    assert shown([Slotted(3, 4), Open(5)]) == [
        {"@type": Slotted.__qualname__, "total": 3},
        {"@type": Open.__qualname__, "total": 5, "api_key": MARKER},
    ]


def test_dataclasses_show_what_is_stored() -> None:
    """Fields are shown as they are stored; properties and factories do not run again."""

    @dataclasses.dataclass(slots=True)
    class Slotted:
        total: int
        lines: list[int] = dataclasses.field(default_factory=list)
        cache: int = dataclasses.field(default=0, repr=False)

        @property
        def late(self) -> int:
            raise AssertionError("the program's code ran")

    assert shown(Slotted(3)) == {"@type": Slotted.__qualname__, "total": 3, "lines": []}


# What stands for something else


def test_a_mock_is_not_called() -> None:
    """A mock records each attribute that is asked for and each call; there is none, also below it."""
    # fault U8
    mock = unittest.mock.MagicMock(name="db")
    spec = unittest.mock.create_autospec(dict)
    before = [set(vars(double)["_mock_children"]) for double in (mock, spec)]

    assert shown([mock, mock.cursor, spec]) == ["<unittest.mock.MagicMock>"] * 3
    assert mock.mock_calls == []
    assert [set(vars(double)["_mock_children"]) for double in (mock, spec)] == [before[0] | {"cursor"}, before[1]]


def test_a_proxy_of_werkzeug_is_not_resolved() -> None:
    """A LocalProxy, bound or not, is shown as what it is, without asking for what it stands for."""
    # fault U8
    local = pytest.importorskip("werkzeug.local")
    asked: list[int] = []
    proxy = local.LocalProxy(lambda: asked.append(1))

    assert shown(proxy) == "<werkzeug.local.LocalProxy>"
    assert shown([local.LocalProxy(local.Local(), "user"), local.LocalStack()])[0] == "<werkzeug.local.LocalProxy>"
    assert asked == []


def test_objects_of_extension_types_are_named() -> None:
    """What is written in C computes its attributes: an element of lxml makes its children as they are asked for."""
    etree = pytest.importorskip("lxml.etree")
    root = etree.fromstring("<a><b/><b/></a>")

    assert shown(root) == "<lxml.etree._Element>"
    assert shown(etree.XPath("//b")) == "<lxml.etree.XPath>"


def test_a_tensor_is_not_fetched_from_its_device() -> None:
    """An object that would copy itself from a device to be shown is named with its stored fields."""
    # fault U20

    class Tensor:
        def __init__(self) -> None:
            self.device = "cuda:0"

        def fetch(self, *args: object) -> Any:
            raise AssertionError("the device was waited for")

        __repr__ = __str__ = __len__ = __iter__ = __float__ = __bool__ = __array__ = __dlpack__ = fetch
        __cuda_array_interface__ = property(fetch)

    assert shown(Tensor()) == {"@type": Tensor.__qualname__, "device": "cuda:0"}
