"""Shapes: how instances of a class are shown, found out once per class by reading it without running its code."""

from __future__ import annotations

import enum
import types
from _weakref import ref  # what weakref has it from; that takes 1 ms to import
from collections.abc import Callable, Mapping

from flowtrace.introspection import (
    class_name,
    exact_text,
    first_items,
    flags_of,
    module_of,
    mro_of,
    names_are_texts,
    namespace_of,
    slot_of,
    title_of,
)
from flowtrace.renderings import BASES, library_rendering
from flowtrace.typed import Any

_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE: a type written in C
_EXCEPTION = 1 << 30  # Py_TPFLAGS_BASE_EXC_SUBCLASS
_CLASS = 1 << 31  # Py_TPFLAGS_TYPE_SUBCLASS
_MAX_FIELDS = 1024  # that a class may declare

_HOLDERS_OF_SECRETS = ("pydantic.types", "_SecretBase")
_NAMED_ONLY = frozenset({("unittest.mock", "NonCallableMock"), ("builtins", "module")})
_FIELD_TABLES = ("__pydantic_fields__", "__dataclass_fields__")
_ALIASES = ("serialization_alias", "alias")


class Weak(ref):  # type: ignore[type-arg]
    """A weak reference of our own: a plain one would be the very object that the program has, if it has one."""

    __slots__ = ()


# by stored name: the shown one, and what it takes in the JSON; nothing where it is not shown
Names = dict[str, tuple[str, int]]
Slots = tuple[tuple[str, Weak], ...]  # names, and the classes whose descriptors read them


class Shape:
    """What is known of a class, found out once. Refers to the class weakly and to nothing of its values.

    Attributes:
        kind: The class.
        name: ``<module.Type>``
        title: Its qualified name.
        package: The first part of the module's name.
        form: Which way instances are shown.
        base: The built-in class that it derives from, of an exception or a subclass of one.
        render: Of a form that has one, what makes plain data of an instance.
        fields: Of a named tuple.
        declared: Whether the class declares which fields it has.
        aliases: Shown name by stored name; None for hidden.
        slots: The public ones, and the classes whose descriptors read them.
        dictionary: The class whose descriptor reads the instance's ``__dict__``.
        settled: False while the class is still being built.
        names: Stored names of which the encoder knows that they are no secret, or not shown.
    """

    __slots__ = (
        "aliases", "base", "declared", "dictionary", "fields", "form", "kind", "name", "names", "package",
        "render", "settled", "slots", "title",
    )  # fmt: skip

    def __init__(self, kind: Weak, title: str) -> None:
        self.kind, self.title, self.name = kind, title, f"<{title}>"
        self.package, self.form = "", "name"
        self.base: type | None = None
        self.render: Callable[[Any], object] = str
        self.fields: tuple[str, ...] = ()
        self.declared, self.settled = False, True
        self.aliases: Mapping[str, str | None] = {}
        self.slots: Slots = ()
        self.dictionary: Weak | None = None
        self.names: Names = {}


def examine(kind: type) -> Shape:
    """Decide how instances of a class are shown. About 20 µs, once per class."""
    mro, flags = mro_of(kind), flags_of(kind)
    shape = Shape(Weak(kind), title_of(kind))
    if flags & _EXCEPTION:
        built_in = (base for base in mro if flags_of(base) & _IMMUTABLE and module_of(base) == "builtins")
        shape.base = next(built_in)
    if not all(map(names_are_texts, mro)):
        return shape
    ids = {id(base) for base in mro}
    names = {(exact_text(module_of(base)), title_of(base)) for base in mro}
    shape.name, shape.package = f"<{class_name(kind)}>", exact_text(module_of(kind)).partition(".")[0]
    if flags & _CLASS:
        shape.form = "class"
    elif _HOLDERS_OF_SECRETS in names:
        shape.form = "secret"
    elif (found := library_rendering(mro, names))[1] is not None:
        shape.form, shape.render = "library" if found[0] is kind else "number", found[1]
    elif names.isdisjoint(_NAMED_ONLY):
        shape.slots, shape.dictionary = _layout(mro)
        if id(enum.Enum) in ids:
            shape.form = "enum"
        elif flags & _EXCEPTION:
            shape.form, shape.dictionary = "exception", Weak(BaseException)
        else:
            _examine_data(shape, mro, ids)
    return shape


def _examine_data(shape: Shape, mro: tuple[type, ...], ids: set[int]) -> None:
    if id(tuple) in ids and (fields := _names(_find(mro, "_fields"))):
        shape.form, shape.fields = "named tuple", fields
        return
    if id(dict) in ids:
        shape.form = "dict"
        return
    for base in mro:
        if id(base) in BASES:
            shape.base, shape.form, shape.render = BASES[id(base)]
            return
    aliases = _declared_fields(mro)
    shape.form, shape.declared, shape.aliases = "object", aliases is not None, aliases or {}
    shape.settled = _find(mro, "__pydantic_complete__") is not False


def _layout(mro: tuple[type, ...]) -> tuple[Slots, Weak | None]:
    """The public slots, base classes first, and the class that gives instances their ``__dict__``.

    Only what a class statement made is read: the members and getters of C code may compute.
    """
    slots: list[tuple[str, Weak]] = []
    dictionary = None
    for owner in reversed(mro):
        if flags_of(owner) & _IMMUTABLE:
            dictionary = Weak(owner) if owner is types.SimpleNamespace else dictionary
            continue
        namespace = namespace_of(owner)
        getter = namespace.get("__dict__")
        if type(getter) is types.GetSetDescriptorType and getter.__objclass__ is owner and getter.__doc__ == _MADE:
            dictionary = Weak(owner)
        if "__slots__" in namespace:
            declared = _names(namespace["__slots__"]) or [name for name in namespace if type(name) is str]
            members = (name for name in declared if type(namespace.get(name)) is types.MemberDescriptorType)
            weak = Weak(owner)
            slots += [(name, weak) for name in members if name[:1] != "_"]
    return tuple(slots), dictionary


# the description that `type` gives the `__dict__` of a class statement; proxies written in C have one that computes
_MADE = type("", (), {}).__dict__["__dict__"].__doc__


def _declared_fields(mro: tuple[type, ...]) -> dict[str, str | None] | None:
    """Of a class that declares its fields, the names to show where they differ, None for those with ``repr=False``.

    pydantic fields show their alias: it is what the program sends and receives.
    """
    fields: Any = next((found for name in _FIELD_TABLES if type(found := _find(mro, name)) is dict), None)
    if fields is None:
        attributes: Any = _find(mro, "__attrs_attrs__")
        if attributes is None or not any(base is tuple for base in mro_of(type(attributes))):
            return None if _find(mro, "__struct_fields__") is None else {}
        fields = {
            exact_text(_told(field, "name")): field for field in tuple.__getitem__(attributes, slice(_MAX_FIELDS))
        }
    shown: dict[str, str | None] = {}
    for name, field in first_items(fields, _MAX_FIELDS) or ():
        if type(name) is not str:
            continue
        alias = next((text for slot in _ALIASES if type(text := _told(field, slot)) is str), None)
        if _told(field, "repr") is False:
            shown[name] = None
        elif alias is not None:
            shown[name] = alias
    return shown


def _told(field: object, name: str) -> Any:
    """What the declaration of a field has in a slot, or None."""
    return slot_of(field, name) if all(map(names_are_texts, mro_of(type(field)))) else None


def stored_fields(value: object, shape: Shape, most: int) -> tuple[list[tuple[Any, Any]], int]:
    """Names and values in the public slots and in the ``__dict__`` of an object, and how many more it has.

    Of each of the two no more than ``most`` are read.
    """
    found: list[tuple[Any, Any]] = []
    unread = 0
    if shape.slots:
        last = None
        for name, owner in shape.slots[:most]:
            try:
                if owner is not last:
                    namespace, last = namespace_of(owner()), owner
                member = namespace[name]
                if type(member) is types.MemberDescriptorType:
                    found.append((name, member.__get__(value)))
            except (AttributeError, KeyError, TypeError):  # not set, or no longer there
                continue
        unread = max(0, len(shape.slots) - most)
    if shape.dictionary is not None:
        base: Any = shape.dictionary()
        getter: Any = namespace_of(base).get("__dict__")
        if type(getter) is types.GetSetDescriptorType or base is types.SimpleNamespace:
            fields = getter.__get__(value)
            if type(fields) is not dict or len(fields) > most:
                found += first_items(fields, most) or ()
                unread += max(0, dict.__len__(fields) - most)
            else:
                try:
                    found += [*fields.items()]
                except RuntimeError:  # changed meanwhile
                    return found, unread
    return found, unread


def _find(mro: tuple[type, ...], name: str) -> object:
    """What the first class that has it stores under a name; no descriptor is asked."""
    return next((namespace_of(owner)[name] for owner in mro if name in namespace_of(owner)), None)


def _names(value: Any) -> tuple[str, ...]:
    """Names declared as a text or an exact sequence of texts; nothing else is trusted."""
    if type(value) is str:
        return (value,)
    if type(value) is tuple or type(value) is list:
        names = tuple(value[:_MAX_FIELDS])
        return names if all(type(name) is str for name in names) else ()
    return ()
