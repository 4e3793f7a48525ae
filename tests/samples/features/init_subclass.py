"""__init_subclass__, __class_getitem__ and __set_name__."""


class Field:
    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner=None):
        return self.name if instance is None else (self.name, instance.value)

    def __set__(self, instance, value):
        kept = instance.see(value)
        instance.value = value


class Plugin:
    known = {}

    def __init_subclass__(cls, *, label="none", see=None, value=None, **options):
        super().__init_subclass__(**options)
        kept = see and see(value)
        cls.known[cls.__name__] = label

    def __class_getitem__(cls, item):
        return item

    field = Field()


class First(Plugin, label="first"):
    def __init__(self, see):
        self.see = see


def use(see, value):
    class Local(First, see=see, value=value):
        def show(self) -> "str":
            return super().__class__.__qualname__

    local = Local(see)
    local.field = value
    known, First.known = dict(First.known), First.known
    return known, Plugin["item"], First.field, local.field, local.show()
