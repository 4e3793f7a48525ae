"""Metaclasses whose methods make classes and instances."""


class Meta(type):
    made = []

    @classmethod
    def __prepare__(metacls, name, bases, **options):
        return {"prepared": True}

    def __new__(metacls, name, bases, namespace, **options):
        metacls.made.append(name)
        return super().__new__(metacls, name, bases, namespace)

    def __init__(cls, name, bases, namespace, *, flag=False):
        super().__init__(name, bases, namespace)
        cls.flag = flag

    def __call__(cls, see, value):
        kept = see(value)
        return super().__call__(see, value)

    def __len__(cls):
        return len(cls.made)

    def __instancecheck__(cls, instance):
        return instance == cls.__name__

    def __getattr__(cls, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return name


class Made(metaclass=Meta, flag=True):
    def __init__(self, see, value):
        kept = see(value)

    def show(self) -> str:
        """Shows."""
        return type(self).flag, type(self).prepared


def use(see, value):
    return Made(see, value).show(), len(Made) > 0, isinstance("Made", Made), Made.anything
