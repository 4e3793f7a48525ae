"""Names that are mangled."""


class __Outer:
    def __init__(self, __hidden: int = 1) -> None:
        self.__hidden = __hidden

    def __show(self, see, value, *, __key="k"):
        """Shows."""
        kept = see(value)
        return self.__hidden, __key

    def show(self, see, value):
        __local = self.__show(see, value, _Outer__key="other")
        return __local

    def nested(self, see, value):
        def __inner(__argument):
            kept = see(value)
            return self.__hidden, __argument

        class __Local:
            def __show(self):
                return __class__.__name__

        return __inner(2), sorted(name for name in __Local.__dict__ if "show" in name), __Local()._Local__show()


def use(see, value):
    outer = globals()["__Outer"](5)
    return outer.show(see, value), outer.nested(see, value), sorted(outer.__dict__), sorted(type(outer).__dict__)[:3]
