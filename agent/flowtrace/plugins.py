"""Plugins: finding them, asking them once what they register, and building sinks from it.

The launcher discovers all installed plugins and hands the few that a run needs to the traced process, which only
loads those. A plugin that fails is left out as a whole and reported in `Registry.problems`; the others work on.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest

from flowtrace.entrypoints import BUILTIN, entry_points
from flowtrace.errors import ConfigError, PluginError
from flowtrace.explanations import joined, nearest, shown
from flowtrace.hooks import PROJECT, Sink, SinkContext, SinkFactory, Specifications
from flowtrace.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # a process with the built-in sinks alone imports none of these
    import msgspec
    import pluggy

    from flowtrace.config import Ready

LONG_S = 5.0  # then a factory that has not returned is spoken of


class SinkType(NamedTuple):
    """What a plugin registered for one ``type`` of sink."""

    factory: SinkFactory[Any]
    options: type[msgspec.Struct]
    plugin: str


class Registry:
    """What plugins registered.

    Attributes:
        sinks: By the name that stands under ``type`` in the config.
        values: By exact type, how its instances are shown.
        plugins: The plugins that were loaded, and of each whether it registers values.
        problems: Why others were not, one error each.
    """

    def __init__(self) -> None:
        self.sinks: dict[str, SinkType] = {}
        self.values: dict[type, Callable[[Any], object]] = {}
        self.plugins: dict[str, bool] = {}
        self.problems: list[PluginError] = []

    def needed(self, specs: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
        """The plugins that a process with these sinks has to load, as entry point values."""
        used = {self.sinks[spec["type"]].plugin for spec in specs}
        return tuple(plugin for plugin, describes in self.plugins.items() if describes or plugin in used)

    def decode(self, spec: Mapping[str, Any], *, place: str = "", key: str = "") -> msgspec.Struct:
        """Turn one entry of ``sinks`` into the options of its type.

        Args:
            spec: The mapping in the config: ``type`` and the options.
            place: The file, for errors.
            key: Where it stands there, such as ``sinks[0]``, for errors.

        Raises:
            ConfigError: the type is not registered, or an option cannot be used.
            PluginError: the plugin's own code for its options fails.
        """
        from flowtrace.config import decode

        kind = spec.get("type")
        if kind is None:
            raise ConfigError(f"missing; {nearest('', list(self.sinks))}", place=place, key=joined(key, "type"))
        if not isinstance(kind, str) or kind not in self.sinks:
            problem = f"no plugin registers a sink type {shown(kind)}; {nearest(str(kind), list(self.sinks))}"
            raise ConfigError(problem, place=place, key=joined(key, "type"))
        options = {name: value for name, value in spec.items() if name != "type"}
        try:
            return decode(options, self.sinks[kind].options, place=place, key=key)
        except (ConfigError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise PluginError(f"plugin {self.sinks[kind].plugin} cannot read {key or kind}: {_line(error)}") from error

    def ready(self, spec: Mapping[str, Any], *, key: str = "") -> Ready | None:
        """How to build one entry of ``sinks`` without its plugin; None where the plugin has to, as it is not ours.

        Raises:
            ConfigError: as `decode`.
            PluginError: likewise.
        """
        from flowtrace.config import Ready, plain

        options = self.decode(spec, key=key)
        factory: Any = self.sinks[spec["type"]].factory
        if self.sinks[spec["type"]].plugin != BUILTIN:
            return None
        return Ready(factory=f"{factory.__module__}:{factory.__qualname__}", options=plain(options))

    def build(
        self,
        specs: Sequence[Mapping[str, Any]],
        context_of: Callable[[str], SinkContext],
        ready: Sequence[Ready | None] = (),
    ) -> list[tuple[str, Sink]]:
        """Build the sinks of a process; one that cannot be built is left out with a warning.

        Args:
            specs: The entries of ``sinks``.
            context_of: Gives the context of the sink with this name.
            ready: For the first of them, how to build them without their plugins, or None.

        Returns:
            Names and sinks; a name is the type, with a number where a type is used again: ``file``, ``file-2``.
        """
        sinks: list[tuple[str, Sink]] = []
        for index, (spec, prepared) in enumerate(zip_longest(specs, ready)):
            name = _name(specs, index)
            context = context_of(name)
            try:
                if prepared:
                    sink = _imported(prepared.factory)(prepared.options, context)
                else:
                    with _watched(context.warn):
                        options = self.decode(spec, key=f"sinks[{index}]")
                        sink = self.sinks[spec["type"]].factory(options, context)
                sinks.append((name, sink))
            except KeyboardInterrupt:  # somebody's Ctrl-C
                raise
            except BaseException as error:  # noqa: BLE001 - a plugin's code may raise anything
                context.warn(f"left out: {_line(error)}")
        return sinks


@contextlib.contextmanager
def _watched(warn: Callable[[str], None]) -> Iterator[None]:
    """Have a thread say so where a factory takes long: the program waits for it, and could not say why."""
    from flowtrace import threads  # which the launcher needs not
    from flowtrace.unpatched import _thread

    is_over = _thread.allocate_lock()
    is_over.acquire()
    problem = f"its factory has not returned for {LONG_S:.3g} s, and the program waits; what waits belongs in open()"

    def watch() -> None:
        if not is_over.acquire(timeout=LONG_S):
            warn(problem)

    with contextlib.suppress(RuntimeError):  # no thread can be started: nobody says it
        threads.start(watch)
    try:
        yield
    finally:
        is_over.release()


def _name(specs: Sequence[Mapping[str, Any]], index: int) -> str:
    kind = specs[index].get("type")
    number = sum(spec.get("type") == kind for spec in specs[: index + 1])
    return f"{kind}-{number}" if number > 1 else str(kind)


def load(plugins: Iterable[str]) -> Registry:
    """Import plugins and call their hooks once.

    Args:
        plugins: Values of entry points: ``module`` or ``module:attribute``.

    Returns:
        What they register. A plugin that fails registers nothing and is in ``problems`` instead.
    """
    registry = Registry()
    for plugin in dict.fromkeys(plugins):
        try:
            _Registration(plugin).add_to(registry)
        except PluginError as error:
            registry.problems.append(PluginError(f"plugin {plugin} {error}"))
        except KeyboardInterrupt:  # somebody's Ctrl-C
            raise
        except BaseException as error:  # noqa: BLE001 - a plugin's code may raise anything
            registry.problems.append(PluginError(f"plugin {plugin} fails: {_line(error)}; repair or uninstall it"))
    return registry


class _Registration:
    """What one plugin registers, gathered before any of it counts.

    Each plugin has a pluggy manager of its own: pluggy stops at the first implementation that raises, and it does
    not tell an implementation's callback whose it is.
    """

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self.sinks: dict[str, SinkType] = {}
        self.values: dict[type, Callable[[Any], object]] = {}
        import pluggy

        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(Specifications)
        known = list(_hooks(manager))
        manager.register(_imported(plugin), plugin)
        if unknown := sorted(set(_hooks(manager)) - set(known)):
            raise PluginError(f"implements an unknown hook {unknown[0]}; {nearest(unknown[0], known)}")
        manager.check_pending()
        if not any(hook.get_hookimpls() for hook in _hooks(manager).values()):
            raise PluginError(f"implements no hook; mark one of {', '.join(known)} with @hookimpl")
        self.describes = bool(manager.hook.flowtrace_register_values.get_hookimpls())
        manager.hook.flowtrace_register_sinks(register=self._register_sink)
        manager.hook.flowtrace_register_values(register=self._register_values)

    def add_to(self, registry: Registry) -> None:
        """Make it count, unless another plugin was first to register the same.

        Raises:
            PluginError: one was.
        """
        for name in self.sinks.keys() & registry.sinks.keys():
            other = registry.sinks[name].plugin
            raise PluginError(f"registers the sink type '{name}' that {other} has registered; uninstall one of them")
        for kind in self.values.keys() & registry.values.keys():
            raise PluginError(f"describes {_qualified(kind)}, as another plugin does already; uninstall one of them")
        registry.sinks |= self.sinks
        registry.values |= self.values
        registry.plugins[self.plugin] = self.describes

    def _register_sink(self, name: str, factory: SinkFactory[Any], options: type[msgspec.Struct]) -> None:
        if not isinstance(name, str) or not name or name != name.strip().lower():
            raise PluginError(f"registers a sink type {shown(name)}; write a lower-case name")
        if name in self.sinks:
            raise PluginError(f"registers the sink type '{name}' twice; remove one of the two")
        if not callable(factory):
            raise PluginError(f"registers the sink type '{name}' with a factory that cannot be called")
        import msgspec

        # Not merely style: without it a misspelt option would pass unnoticed.
        if not (isinstance(options, type) and issubclass(options, msgspec.Struct)) or not (
            options.__struct_config__.forbid_unknown_fields
        ):
            raise PluginError(f"has no strict options for the sink type '{name}'; derive them from config.Options")
        if "type" in options.__struct_fields__:
            raise PluginError(f"has an option 'type' for the sink type '{name}'; rename it, the config uses that key")
        self.sinks[name] = SinkType(factory, options, self.plugin)

    def _register_values(self, type: type, describe: Callable[[Any], object]) -> None:
        if not isinstance(type, _TYPE) or not callable(describe):
            raise PluginError(f"calls register({shown(type)}, ...) for values; pass a class and a function")
        if type in self.values:
            raise PluginError(f"describes {_qualified(type)} twice; remove one of the two")
        self.values[type] = describe


_TYPE = type


def _hooks(manager: pluggy.PluginManager) -> dict[str, pluggy.HookCaller]:
    return {name: hook for name, hook in vars(manager.hook).items() if name.startswith(f"{PROJECT}_")}


def _imported(plugin: str) -> Any:
    module, _, attributes = plugin.partition(":")
    found: object = importlib.import_module(module)
    for attribute in filter(None, attributes.split(".")):
        found = getattr(found, attribute)
    return found


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _line(error: BaseException) -> str:
    """An exception on one line; flowtrace's own need no name of their type, and a plugin's may fail to say anything."""
    try:
        text = " ".join(str(error).split())
    except BaseException:  # noqa: BLE001
        text = ""
    return text if isinstance(error, ConfigError | PluginError) else f"{type(error).__name__}: {text}".rstrip(": ")


def discover(path: Sequence[str] | None = None) -> list[str]:
    """The plugins that are installed, as the values of their entry points in the group ``flowtrace``.

    Args:
        path: The folders to look in; ``sys.path`` by default.

    Returns:
        The built-in plugin first, if it is there: a source checkout has no entry points.
    """
    from importlib.util import find_spec

    found = [BUILTIN] if find_spec(BUILTIN) else []
    others = (value for value in entry_points(sys.path if path is None else path) if value != BUILTIN)
    return list(dict.fromkeys([*found, *others]))
