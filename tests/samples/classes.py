"""Methods of every shape."""

import abc
import contextlib
import dataclasses
import enum
import functools


class Account:
    """An account."""

    rate = 2

    def __init__(self, owner, balance=0):
        self.owner, self.__balance = owner, balance

    def __secret(self):
        return self.__balance

    def reveal(self):
        return self.__secret()

    def nested(self):
        def inner():
            return self.__balance, __class__.rate

        return inner()

    @property
    def balance(self):
        return self.__balance

    @balance.setter
    def balance(self, value):
        if value < 0:
            raise ValueError(value)
        self.__balance = value

    @balance.deleter
    def balance(self):
        self.__balance = 0

    @staticmethod
    def check(value):
        return value > 0

    @classmethod
    def open(cls, owner):
        return cls(owner, cls.rate)

    @functools.cached_property
    def label(self):
        return f"<{self.owner}>"

    def __repr__(self):
        return f"Account({self.owner!r})"

    def __add__(self, other):
        return self.balance + other

    def __call__(self, *args):
        return args

    class Inner:
        def method(self, cls):
            return cls

    def odd_first_name(this, value):
        return this.rate + value


class Savings(Account):
    rate = 3

    def __init__(self, owner, *rest):
        super().__init__(owner, *rest)

    def reveal(self):
        return "savings", super().reveal()

    @classmethod
    def open(cls, owner):
        return super().open(owner)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.tag = cls.__name__

    def __class_getitem__(cls, item):
        return item


class Gold(Savings):
    pass


def case_name_mangling():
    return Account("a", 5).reveal(), Account("a", 5).nested(), sorted(Account("a").__dict__)


def case_property():
    account = Account("a")
    account.balance = 3
    seen = account.balance
    del account.balance
    return seen, account.balance


def case_property_raises():
    Account("a").balance = -1


def case_static_and_class():
    return Account.check(1), Account("a").check(-1), repr(Account.open("b")), Savings.open("c").balance


def case_super():
    return Savings("a", 4).reveal(), Gold.tag, Savings[1]


def case_special_methods():
    return repr(Account("a")), Account("a", 1) + 2, Account("a")(1, 2), Account("a").label


def case_inner_class():
    return Account.Inner().method(5), Account.Inner.method.__qualname__, Account("a").odd_first_name(1)


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x

    def double(self):
        return self.x * 2


def case_slots():
    return Slotted(2).double(), hasattr(Slotted(1), "__dict__")


@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 0

    def __post_init__(self):
        self.y += 1

    def norm(self):
        return self.x**2 + self.y**2


def case_dataclass():
    return Point(1), Point(1) < Point(2), Point(3).norm()


class Color(enum.Enum):
    RED = 1
    BLUE = 2

    def _generate_next_value_(name, start, count, last_values):
        return name

    @property
    def pretty(self):
        return self.name.title()

    @classmethod
    def _missing_(cls, value):
        return cls.RED


def case_enum():
    return Color.RED.pretty, Color(7), list(Color)


class Shape(abc.ABC):
    @property
    @abc.abstractmethod
    def area(self): ...

    @abc.abstractmethod
    def scale(self, by): ...


class Square(Shape):
    def __init__(self, side):
        self.side = side

    @property
    def area(self):
        return self.side**2

    def scale(self, by):
        return Square(self.side * by)


def case_abstract():
    return Square(2).scale(3).area, sorted(Shape.__abstractmethods__)


def case_abstract_instance():
    return Shape()


class Meta(type):
    def __new__(mcls, name, bases, namespace, **kwargs):
        return super().__new__(mcls, name, bases, namespace)

    def __init__(cls, name, bases, namespace, **kwargs):
        super().__init__(name, bases, namespace)

    def __len__(cls):
        return 3


class WithMeta(metaclass=Meta, flag=True):
    def me(self):
        return type(self), len(type(self))


def case_metaclass():
    return WithMeta().me()[1]


class Managed:
    def __init__(self, swallow):
        self.swallow = swallow

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        return self.swallow


def case_context_manager_swallows():
    with Managed(True):
        raise KeyError("gone")
    return "after"


def case_context_manager_passes():
    with Managed(False) as managed, Managed(False):
        raise KeyError("kept", managed.swallow)


@contextlib.contextmanager
def managed(log):
    log.append("in")
    try:
        yield log
    except ValueError as error:
        log.append(repr(error))
    finally:
        log.append("out")


def case_contextmanager():
    with managed([]) as log:
        raise ValueError(1)
    return log


def case_contextmanager_raises():
    with managed([]) as log:
        raise KeyError(log)


def local_class():
    class Local:
        def method(self):
            return __class__.__qualname__

    return Local().method()


def case_local_class():
    return local_class()


class Descriptor:
    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner=None):
        return self.name if instance is None else (self.name, 1)

    def __set__(self, instance, value):
        raise AttributeError(self.name)


class Described:
    field = Descriptor()

    def __getattr__(self, name):
        if name.startswith("x"):
            return name
        raise AttributeError(name)

    def __del__(self):
        DELETED.append(1)


DELETED = []


def case_descriptor():
    return Described.field, Described().field, Described().xyz


def case_missing_attribute():
    return Described().abc


def case_finalizer():
    DELETED.clear()
    Described()
    return DELETED
