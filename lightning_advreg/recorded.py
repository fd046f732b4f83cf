"""Objects that remember how they were built."""

import inspect
from typing import Any, ClassVar

from typing_extensions import Self


class Recorded:
    """A mix-in that records constructor arguments, so that a checkpoint can rebuild the object.

    Attributes:
        init_args: The arguments given to the constructor, by name. Defaults are left out.

    Example:
        >>> class Linear(Recorded):
        ...     def __init__(self, features: int, bias: bool = True) -> None: ...
        >>> Linear(3).init_args
        {'features': 3}
    """

    init_args: dict[str, Any]
    _signature: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init_subclass__(**kwargs)
        cls._signature = inspect.signature(cls.__init__)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401, D102
        self = super().__new__(cls)
        # bind_partial: copying and unpickling call __new__ without arguments, and restore init_args afterwards
        bound = cls._signature.bind_partial(self, *args, **kwargs).arguments
        init_args: dict[str, Any] = {}
        for name, value in list(bound.items())[1:]:
            # arguments caught by **kwargs go under their own names, so that cls(**init_args) gives them back
            caught = cls._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            init_args.update(value if caught else {name: value})
        object.__setattr__(self, "init_args", init_args)
        return self
