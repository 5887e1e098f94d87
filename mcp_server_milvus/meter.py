"""What is counted of calls: nothing, unless somebody wants to see it."""


class Meter:
    """Is told of every call. This one does not listen."""

    def begun(self) -> None:
        """A call has begun."""

    def ended(self, tool: str, outcome: str, seconds: float) -> None:
        """It has ended, with `ok`, with the code of an error, or otherwise."""
